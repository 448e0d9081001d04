"""The loop compiled to machine code, and where that is kept.

Every function that the loop calls, the shared rules among them, is compiled from its plain Python: a copy whose callees
are the compiled ones. The code is kept with helix-df's other caches, in a folder named after all that it was made from.
"""

from __future__ import annotations

import dis
import hashlib
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from helix_df.paths import cache_root
from helix_df.simulator.kernel import loop, memory
from helix_df.simulator.kernel.marks import INLINED
from helix_df.simulator.kernel.tables import Fixed, Rules, State

Function = Callable[..., Any]
CONSTANTS = (bool, int, float, str, tuple)
"""What functions read of their modules and is frozen into machine code, beside other functions."""


def named(function: Function) -> dict[str, Any]:
    """What a function reads of its module, by name."""
    names = {step.argval for step in dis.get_instructions(function) if step.opname == "LOAD_GLOBAL"}
    return {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}


def called(function: Function) -> Iterator[Function]:
    """Functions of helix-df that a function calls."""
    for found in named(function).values():
        if isinstance(found, types.FunctionType) and found.__module__.startswith("helix_df."):
            yield found


def reachable(*entries: Function) -> list[Function]:
    """The entries and all that they call, callees first."""
    found: dict[Function, None] = {}

    def visit(function: Function) -> None:
        if function not in found:
            for callee in called(function):
                visit(callee)
            found[function] = None

    for entry in entries:
        visit(entry)
    return list(found)


def fingerprint(*entries: Function) -> str:
    """Names everything that the entries are compiled from: code and constants of all functions, and the tables."""
    from importlib.metadata import version

    digest = hashlib.sha256()
    digest.update(repr((sys.version_info, *map(version, ("numba", "llvmlite", "numpy")))).encode())
    for function in reachable(*entries):
        code = function.__code__
        constants = {name: value for name, value in named(function).items() if isinstance(value, CONSTANTS)}
        parts = (function.__module__, function.__name__, code.co_code, code.co_consts, code.co_names, constants)
        digest.update(repr((*parts, function in INLINED)).encode())
    for file in ("jit.py", "handles.py"):
        digest.update(Path(__file__).with_name(file).read_bytes())
    for name, row in memory.ROWS.items():
        digest.update(repr((name, memory.record_of(row).descr)).encode())
    return digest.hexdigest()[:16]


def folder() -> Path:
    """Where the machine code of exactly these functions is kept."""
    return cache_root() / "compiled-simulator" / _fingerprint()


@cache
def _fingerprint() -> str:
    return fingerprint(loop.advance)


def is_kept() -> bool:
    """Whether the machine code is there already, so that nothing needs to be compiled."""
    return any(folder().rglob("loop.advance-*.nbi"))


def _compile() -> Any:
    import numba

    # Counting references to arrays, which all outlive the call, took most of the time; and a way in from Python for
    # every function, not only for the first, half of that of compiling.
    options = {"nogil": True, "_nrt": False, "error_model": "numpy", "no_cfunc_wrapper": True}
    made: dict[Function, Any] = {}
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder())
    try:
        for function in reachable(loop.advance):
            names = {callee.__name__: made[callee] for callee in called(function)}
            copy = types.FunctionType(function.__code__, function.__globals__ | names, function.__name__)
            copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
            first = function is loop.advance
            make = numba.njit(cache=first, no_cpython_wrapper=not first, forceinline=function in INLINED, **options)
            made[function] = _once_a_type(make(copy))
    finally:
        numba.config.CACHE_DIR = before
    return made[loop.advance]


def _once_a_type(dispatcher: Any) -> Any:
    """Without this, a function is compiled once more for every constant that it is called with."""
    from numba.core.types.misc import unliteral

    find = dispatcher.get_call_template

    def get_call_template(args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        return find(tuple(map(unliteral, args)), {name: unliteral(kind) for name, kind in named.items()})

    dispatcher.get_call_template = get_call_template
    return dispatcher


_lock = threading.Lock()
_made: list[Any] = []


def is_ready() -> bool:
    """Whether this process has the machine code."""
    return bool(_made)


def compiled() -> Any:
    """``loop.advance`` over arrays; what it is compiled from is compiled when it is first called."""
    with _lock:
        if not _made:
            _made.append(_compile())
        return _made[0]


def bound(fixed: Fixed, state: State, rules: Rules) -> Callable[[float, int], int]:
    """``loop.advance`` over these tables, all arrays."""
    from helix_df.simulator.kernel.handles import Tables

    advance = compiled()
    tables = Tables(fixed._asdict()), Tables(state._asdict())
    record = memory.packed([rules], Rules)[0]

    def run(until_s: float, look_at: int) -> int:
        return int(advance(*tables, record, until_s, look_at))

    return run
