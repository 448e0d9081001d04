"""LLVM's instructions as the products here need them, and the frame of a function that XLA can call.

Owns the C interface of XLA's typed FFI (jaxlib's ``include/xla/ffi/api/c_api.h``), whose structures are read here in
words of 8 bytes. Doesn't know products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from llvmlite import ir

LANES = 16
"""Outputs that stand beside each other in a vector."""

_API_VERSION = (0, 1)

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
POINTER = ir.PointerType()
INTS, FLOATS, HALVES = (ir.VectorType(kind, LANES) for kind in (I32, F32, F16))


class CodeBuilder(ir.IRBuilder):  # type: ignore[misc]  # llvmlite is untyped
    """An instruction builder with what the product needs most."""

    def int64(self, value: int) -> ir.Value:
        """A constant."""
        return ir.Constant(I64, value)

    def at(self, base: ir.Value, *offset_bytes: ir.Value | int) -> ir.Value:
        """A pointer so many bytes further."""
        for offset in offset_bytes:
            base = self.gep(base, [self.int64(offset) if isinstance(offset, int) else offset], source_etype=I8)
        return base

    def read(self, pointer: ir.Value, kind: ir.Type, align: int = 1) -> ir.Value:
        """What lies there, however it is aligned."""
        return self.load(pointer, align=align, typ=kind)

    def write(self, value: ir.Value, pointer: ir.Value) -> None:
        """Store it, however it is aligned."""
        self.store(value, pointer, align=1)

    def splat(self, value: ir.Value, kind: ir.VectorType) -> ir.Value:
        """A vector of one value."""
        one = self.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        return self.shuffle_vector(
            one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, kind.count), None)
        )

    def intrinsic(self, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        """Call an operation that LLVM itself knows."""
        kind = ir.FunctionType(result, [value.type for value in values])
        found = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        return self.call(found, values)

    def multiply_add(self, left: ir.Value, right: ir.Value, added: ir.Value) -> ir.Value:
        """``left * right + added`` of float vectors."""
        return self.intrinsic("llvm.fmuladd.v16f32", FLOATS, left, right, added)

    @contextmanager
    def counting(self, start: ir.Value, stop: ir.Value, step: int = 1) -> Iterator[ir.Value]:
        """A loop while ``index + step <= stop``."""
        place = self.alloca_at_entry(I64)
        self.store(start, place)
        check, body, after = (self.append_basic_block(name) for name in ("check", "body", "after"))
        self.branch(check)
        self.position_at_end(check)
        index = self.load(place, typ=I64)
        follows = self.add(index, self.int64(step))
        self.cbranch(self.icmp_signed("<=", follows, stop), body, after)
        self.position_at_end(body)
        yield index
        self.store(follows, place)
        self.branch(check)
        self.position_at_end(after)

    def alloca_at_entry(self, kind: ir.Type) -> ir.Value:
        """A variable; LLVM makes a register of it."""
        with self.goto_entry_block():
            return self.alloca(kind)


def constant(kind: ir.VectorType, value: float) -> ir.Constant:
    """A vector of one value."""
    return ir.Constant(kind, [value] * kind.count)


class Buffer(NamedTuple):
    """An array that a function of XLA's is given or is to fill: where its numbers lie, and its sizes."""

    data: ir.Value
    sizes: tuple[ir.Value, ...]


class Pool(NamedTuple):
    """Threads of this process (``thread_pool``): where the function that runs a job lies, and what it works on.

    A job of enough work has so many ``pieces``.
    """

    run: int
    address: int
    pieces: int


PIECE = ir.FunctionType(ir.VoidType(), [POINTER, I64, I64])
"""What does a piece of a job: its data, which piece, and of how many."""

RUN = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, POINTER, I64])
"""Runs a job: the pool, what does a piece, its data, and how many pieces."""

LEAST_WORK = 1 << 17
"""Bytes of weights, times rows of inputs, that are worth more threads: one reads them in some 10 µs."""


class Handler(NamedTuple):
    """A function while it is written: its module, its instructions, its arguments and its results."""

    module: ir.Module
    build: CodeBuilder
    arguments: tuple[Buffer, ...]
    results: tuple[Buffer, ...]
    pool: Pool | None = None

    def text(self) -> str:
        """The module, after the function's end."""
        self.build.ret(ir.Constant(POINTER, None))
        return str(self.module)


def begin_handler(name: str, arguments: tuple[int, ...], results: tuple[int, ...], pool: Pool | None = None) -> Handler:
    """A function ``name`` of arrays with so many axes each, up to where they are known; ``pool`` does its loops."""
    module = ir.Module(name)
    function = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), name)
    build = CodeBuilder(function.append_basic_block("entry"))
    frame = function.args[0]
    with build.if_then(build.icmp_unsigned("!=", _word(build, frame, 1, I64), build.int64(0))):
        # XLA asks once for metadata: which version of the interface this was made for.
        version = _word(build, _word(build, frame, 1), 3)
        for place, number in zip((6 * 4, 7 * 4), _API_VERSION, strict=True):
            build.write(ir.Constant(I32, number), build.at(version, place))
        build.ret(ir.Constant(POINTER, None))
    given, made = (
        tuple(_buffer(build, _word(build, _word(build, frame, at), index), axes) for index, axes in enumerate(each))
        for at, each in ((9, arguments), (14, results))
    )
    return Handler(module, build, given, made, pool)


def share_out(
    handler: Handler,
    count: ir.Value,
    work: ir.Value,
    given: tuple[ir.Value, ...],
    body: Callable[[CodeBuilder, ir.Value, tuple[ir.Value, ...]], None],
) -> None:
    """A loop over what doesn't depend on one another, which the threads of a pool share where there is one.

    Args:
        handler: where the loop stands.
        count: how many rounds it has.
        work: of all rounds, as ``LEAST_WORK`` counts it.
        given: values, 64-bit numbers and pointers, that a round needs.
        body: the instructions of a round, by its number and what is given.
    """
    build, pool = handler.build, handler.pool
    if pool is None:
        with build.counting(build.int64(0), count) as index:
            body(build, index, given)
        return
    values = (count, *given)
    place = build.alloca_at_entry(ir.ArrayType(I64, len(values)))
    data = build.inttoptr(build.ptrtoint(place, I64), POINTER)  # of no kind, as pointers of all kinds go there
    for index, value in enumerate(values):
        build.write(value, build.at(data, 8 * index))
    pieces = build.select(
        build.icmp_signed("<", work, build.int64(LEAST_WORK)), build.int64(1), build.int64(pool.pieces)
    )
    pieces = build.select(build.icmp_signed("<", count, pieces), count, pieces)
    run = build.inttoptr(build.int64(pool.run), ir.PointerType(RUN))
    piece = _piece(handler.module, tuple(value.type for value in values), body)
    build.call(run, [build.inttoptr(build.int64(pool.address), POINTER), piece, data, pieces])


def _piece(
    module: ir.Module,
    kinds: tuple[ir.Type, ...],
    body: Callable[[CodeBuilder, ir.Value, tuple[ir.Value, ...]], None],
) -> ir.Function:
    """A function that does its share of a loop's rounds, those beside one another."""
    function = ir.Function(module, PIECE, f"piece_{len(module.functions)}")
    function.linkage = "internal"
    build = CodeBuilder(function.append_basic_block("entry"))
    data, number, pieces = function.args
    count, *given = (build.read(build.at(data, 8 * place), kind) for place, kind in enumerate(kinds))
    start = build.udiv(build.mul(number, count), pieces)
    stop = build.udiv(build.mul(build.add(number, build.int64(1)), count), pieces)
    with build.counting(start, stop) as index:
        body(build, index, tuple(given))
    build.ret_void()
    return function


def _buffer(build: CodeBuilder, buffer: ir.Value, axes: int) -> Buffer:
    sizes = _word(build, buffer, 5)
    return Buffer(_word(build, buffer, 3), tuple(_word(build, sizes, axis, I64) for axis in range(axes)))


def _word(build: CodeBuilder, structure: ir.Value, index: int, kind: ir.Type = POINTER) -> ir.Value:
    return build.read(build.at(structure, 8 * index), kind, 8)
