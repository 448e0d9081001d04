"""Machine code of a pool of threads: pieces of a product are taken by whoever is free, its caller among them.

Owns the protocol. A job is a word of three numbers: which job, of how many pieces, and how many are taken. A piece is
taken by counting up the last one in the word that was read; where that succeeds the job isn't over, so what was read of
it before is true. A caller that nobody helps does all pieces, so no thread is waited for but one that computes. Helpers
look out for the next job for a moment, then sleep. Doesn't know who the helpers are (``thread_pool``), or what is
computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir

from helix_df.models.machine_code import I32, I64, PIECE, POINTER, RUN, CodeBuilder

SERVE, RUN_NAME, PAUSES, WAKE, BEGIN = (f"helix_df_pool_{word}" for word in ("serve", "run", "pauses", "wake", "begin"))

MOST_PIECES = (1 << 16) - 1

POOL_BYTES = 1024
_LINE = 128
"""What lies in another line of the cache isn't written beside."""

_WORD, _FINISHED, _BUSY, _SLEEPERS = (_LINE * line for line in range(4))
_FUNCTION, _DATA = _LINE * 4, _LINE * 4 + 8
HELPERS, ROUNDS, STOP = _LINE * 4 + 16, _LINE * 4 + 24, _LINE * 4 + 32
"""Where in a pool's memory stands how many threads help, how often they look out before they sleep, and whether they
are to end."""
_MODE = _LINE * 4 + 40
_MUTEX, _CONDITION = _LINE * 5, _LINE * 6

_CALLER_ROUNDS = 20_000
_NAP_US = 20
"""A helper that another process keeps from its core is waited for asleep."""


class _Library(NamedTuple):
    """Functions of the C library."""

    lock: ir.Function
    unlock: ir.Function
    wait: ir.Function
    broadcast: ir.Function
    nap: ir.Function
    new_mutex: ir.Function
    new_condition: ir.Function


def pool_source(triple: str) -> str:
    """A module with a pool's functions, for the processor of a triple of LLVM's."""
    module = ir.Module("helix_df_pool")
    one, two = ir.FunctionType(I32, [POINTER]), ir.FunctionType(I32, [POINTER, POINTER])
    library = _Library(
        ir.Function(module, one, "pthread_mutex_lock"),
        ir.Function(module, one, "pthread_mutex_unlock"),
        ir.Function(module, two, "pthread_cond_wait"),
        ir.Function(module, one, "pthread_cond_broadcast"),
        ir.Function(module, ir.FunctionType(I32, [I32]), "usleep"),
        ir.Function(module, two, "pthread_mutex_init"),
        ir.Function(module, two, "pthread_cond_init"),
    )
    _begin(module, library)
    pauses = _pauses(module, triple)
    mode = _mode_of(module, triple)
    take = _take(module, mode)
    wake = _wake(module, library)
    _serve(module, library, take, pauses)
    _run(module, library, take, pauses, wake, mode)
    return str(module)


def _function(module: ir.Module, kind: ir.FunctionType, name: str) -> tuple[ir.Function, CodeBuilder]:
    function = ir.Function(module, kind, name)
    return function, CodeBuilder(function.append_basic_block("entry"))


def _begin(module: ir.Module, library: _Library) -> None:
    """Make the lock and the condition of a pool."""
    function, build = _function(module, ir.FunctionType(ir.VoidType(), [POINTER]), BEGIN)
    none = ir.Constant(POINTER, None)
    build.call(library.new_mutex, [build.at(function.args[0], _MUTEX), none])
    build.call(library.new_condition, [build.at(function.args[0], _CONDITION), none])
    build.ret_void()


def _pauses(module: ir.Module, triple: str) -> ir.Function:
    """So many hints to the processor that a thread only waits."""
    function, build = _function(module, ir.FunctionType(ir.VoidType(), [I64]), PAUSES)
    with build.counting(build.int64(0), function.args[0]):
        if triple.startswith(("x86", "i386", "i686")):
            build.call(_declared(module, "llvm.x86.sse2.pause", []), [])
        elif triple.startswith(("aarch64", "arm64")):
            build.call(_declared(module, "llvm.aarch64.hint", [I32]), [ir.Constant(I32, 1)])
        else:
            build.fence("seq_cst")
    build.ret_void()
    return function


def _declared(module: ir.Module, name: str, given: list[ir.Type]) -> ir.Function:
    return ir.Function(module, ir.FunctionType(ir.VoidType(), given), name)


class _Mode(NamedTuple):
    """How a thread's processor rounds, and whether it takes what is almost zero for zero: XLA's threads do.

    A helper computes as its caller does, or numbers would depend on who computed them.
    """

    own: Callable[[CodeBuilder], ir.Value]
    become: Callable[[CodeBuilder, ir.Value], None]


def _mode_of(module: ir.Module, triple: str) -> _Mode:
    if triple.startswith(("x86", "i386", "i686")):
        kind = ir.FunctionType(ir.VoidType(), [POINTER])
        store, load = (ir.Function(module, kind, f"llvm.x86.sse.{name}mxcsr") for name in ("st", "ld"))

        def own(build: CodeBuilder) -> ir.Value:
            place = build.inttoptr(build.ptrtoint(build.alloca_at_entry(I32), I64), POINTER)
            build.call(store, [place])
            return build.zext(build.read(place, I32, 4), I64)

        def become(build: CodeBuilder, mode: ir.Value) -> None:
            place = build.inttoptr(build.ptrtoint(build.alloca_at_entry(I32), I64), POINTER)
            build.write(build.trunc(mode, I32), place)
            build.call(load, [place])

        return _Mode(own, become)
    if triple.startswith(("aarch64", "arm64")):
        get = ir.Function(module, ir.FunctionType(I64, []), "llvm.aarch64.get.fpcr")
        put = _declared(module, "llvm.aarch64.set.fpcr", [I64])
        return _Mode(lambda build: build.call(get, []), lambda build, mode: build.call(put, [mode]))
    return _Mode(lambda build: build.int64(0), lambda build, mode: None)


def _load(build: CodeBuilder, pool: ir.Value, at: int) -> ir.Value:
    return build.load_atomic(build.at(pool, at), "seq_cst", 8, typ=I64)


def _store(build: CodeBuilder, pool: ir.Value, at: int, value: ir.Value) -> None:
    build.atomic_rmw("xchg", build.at(pool, at), value, "seq_cst")  # llvmlite's atomic store knows no opaque pointers


def _add(build: CodeBuilder, pool: ir.Value, at: int, value: int) -> ir.Value:
    return build.atomic_rmw("add", build.at(pool, at), build.int64(value), "seq_cst")


def _pieces_of(build: CodeBuilder, word: ir.Value) -> ir.Value:
    return build.and_(build.lshr(word, build.int64(16)), build.int64(MOST_PIECES))


def _taken_of(build: CodeBuilder, word: ir.Value) -> ir.Value:
    return build.and_(word, build.int64(MOST_PIECES))


def _is_open(build: CodeBuilder, word: ir.Value) -> ir.Value:
    return build.icmp_unsigned("<", _taken_of(build, word), _pieces_of(build, word))


def _take(module: ir.Module, mode: _Mode) -> ir.Function:
    """Do one piece; says whether there was any to take."""
    function, build = _function(module, ir.FunctionType(ir.IntType(1), [POINTER]), "take")
    function.linkage = "internal"
    (pool,) = function.args
    again = build.append_basic_block("again")
    build.branch(again)
    build.position_at_end(again)
    word = _load(build, pool, _WORD)
    with build.if_then(build.not_(_is_open(build, word))):
        build.ret(ir.Constant(ir.IntType(1), 0))
    does, data = _load(build, pool, _FUNCTION), build.inttoptr(_load(build, pool, _DATA), POINTER)
    swapped = build.cmpxchg(
        build.at(pool, _WORD), word, build.add(word, build.int64(1)), "seq_cst", failordering="seq_cst"
    )
    like_caller = _load(build, pool, _MODE)
    done = build.append_basic_block("done")
    build.cbranch(build.extract_value(swapped, 1), done, again)
    build.position_at_end(done)
    mode.become(build, like_caller)
    build.call(_callable(build, does), [data, _taken_of(build, word), _pieces_of(build, word)])
    _add(build, pool, _FINISHED, 1)
    build.ret(ir.Constant(ir.IntType(1), 1))
    return function


def _callable(build: CodeBuilder, address: ir.Value) -> ir.Value:
    return build.inttoptr(address, ir.PointerType(PIECE))


def _wake(module: ir.Module, library: _Library) -> ir.Function:
    """Let all who sleep look."""
    function, build = _function(module, ir.FunctionType(ir.VoidType(), [POINTER]), WAKE)
    (pool,) = function.args
    with build.if_then(build.icmp_signed(">", _load(build, pool, _SLEEPERS), build.int64(0))):
        build.call(library.lock, [build.at(pool, _MUTEX)])
        build.call(library.broadcast, [build.at(pool, _CONDITION)])
        build.call(library.unlock, [build.at(pool, _MUTEX)])
    build.ret_void()
    return function


def _serve(module: ir.Module, library: _Library, take: ir.Function, pauses: ir.Function) -> None:
    """A helper's life."""
    function, build = _function(module, ir.FunctionType(ir.VoidType(), [POINTER]), SERVE)
    (pool,) = function.args
    waited = build.alloca(I64)
    fresh, look, idle, sleep, doze, up = (
        build.append_basic_block(name) for name in ("fresh", "look", "idle", "sleep", "doze", "up")
    )
    build.branch(fresh)
    build.position_at_end(fresh)
    build.store(build.int64(0), waited)
    build.branch(look)
    build.position_at_end(look)
    with build.if_then(build.icmp_unsigned("!=", _load(build, pool, STOP), build.int64(0))):
        build.ret_void()
    build.cbranch(build.call(take, [pool]), fresh, idle)
    build.position_at_end(idle)
    build.call(pauses, [build.int64(1)])
    rounds = build.add(build.load(waited, typ=I64), build.int64(1))
    build.store(rounds, waited)
    build.cbranch(build.icmp_unsigned("<", rounds, _load(build, pool, ROUNDS)), look, sleep)
    build.position_at_end(sleep)
    mutex, condition = build.at(pool, _MUTEX), build.at(pool, _CONDITION)
    build.call(library.lock, [mutex])
    # Whoever brings a job after this sees that somebody sleeps; what was brought before is seen here.
    _add(build, pool, _SLEEPERS, 1)
    stopped = build.icmp_unsigned("!=", _load(build, pool, STOP), build.int64(0))
    build.cbranch(build.or_(stopped, _is_open(build, _load(build, pool, _WORD))), up, doze)
    build.position_at_end(doze)
    build.call(library.wait, [condition, mutex])
    build.branch(up)
    build.position_at_end(up)
    _add(build, pool, _SLEEPERS, -1)
    build.call(library.unlock, [mutex])
    build.branch(fresh)


def _run(
    module: ir.Module,
    library: _Library,
    take: ir.Function,
    pauses: ir.Function,
    wake: ir.Function,
    mode: _Mode,
) -> None:
    """Do a job; it is over when this returns."""
    function, build = _function(module, RUN, RUN_NAME)
    pool, does, data, pieces = function.args
    alone = build.append_basic_block("alone")
    shared, free = build.append_basic_block("shared"), build.append_basic_block("free")
    few = build.icmp_signed("<", pieces, build.int64(2))
    none = build.icmp_signed("<", _load(build, pool, HELPERS), build.int64(1))
    build.cbranch(build.or_(few, none), alone, free)
    build.position_at_end(free)
    was_busy = build.atomic_rmw("xchg", build.at(pool, _BUSY), build.int64(1), "seq_cst")
    build.cbranch(build.icmp_unsigned("==", was_busy, build.int64(0)), shared, alone)
    build.position_at_end(alone)
    with build.counting(build.int64(0), pieces) as piece:
        build.call(_callable(build, build.ptrtoint(does, I64)), [data, piece, pieces])
    build.ret_void()

    build.position_at_end(shared)
    for at, value in ((_FUNCTION, does), (_DATA, data)):
        _store(build, pool, at, build.ptrtoint(value, I64))
    _store(build, pool, _MODE, mode.own(build))
    _store(build, pool, _FINISHED, build.int64(0))
    job = build.add(build.lshr(_load(build, pool, _WORD), build.int64(32)), build.int64(1))
    word = build.or_(build.shl(job, build.int64(32)), build.shl(pieces, build.int64(16)))
    _store(build, pool, _WORD, word)
    build.call(wake, [pool])
    waited = build.alloca_at_entry(I64)
    work, check, idle, nap, spin, over = (
        build.append_basic_block(name) for name in ("work", "check", "idle", "nap", "spin", "over")
    )
    build.store(build.int64(0), waited)
    build.branch(work)
    build.position_at_end(work)
    build.cbranch(build.call(take, [pool]), work, check)
    build.position_at_end(check)
    build.cbranch(build.icmp_unsigned("==", _load(build, pool, _FINISHED), pieces), over, idle)
    build.position_at_end(idle)
    rounds = build.add(build.load(waited, typ=I64), build.int64(1))
    build.store(rounds, waited)
    build.cbranch(build.icmp_unsigned("<", rounds, build.int64(_CALLER_ROUNDS)), spin, nap)
    build.position_at_end(spin)
    build.call(pauses, [build.int64(1)])
    build.branch(check)
    build.position_at_end(nap)
    build.call(library.nap, [ir.Constant(I32, _NAP_US)])
    build.branch(check)
    build.position_at_end(over)
    _store(build, pool, _BUSY, build.int64(0))
    build.ret_void()
