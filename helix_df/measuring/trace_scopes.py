"""Where a trace's time went, by the scopes of a model (``models.scopes``), from the files that jax's profiler writes.

A trace has an event for each operation that ran, and the programs that they are of, in which each operation has the
names under which it was traced. Those of programs are read from the file itself (``xplane.proto`` and ``hlo.proto`` of
OpenXLA), since jax's reader gives events alone. Doesn't know engines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.profiler import ProfileData

from helix_df.models.scopes import SCOPES

OTHER = "other"
"""What belongs to no scope."""

_METADATA = b"/host:metadata"
_CONTAINERS = frozenset({"while", "conditional", "call"})
"""Operations whose time is that of others."""


@dataclass(frozen=True, slots=True)
class ScopeTime:
    """Operations of a scope, ``attention/attend`` for one in another: seconds by phase, and how many ran."""

    scope: str
    seconds: Mapping[str, float]
    operations: int

    @property
    def total_s(self) -> float:
        """Of all phases."""
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class _Operation:
    scope: str
    is_container: bool


_Programs = Mapping[str, Mapping[str, _Operation]]
"""Operations by name, by program."""


def scope_times(folder: Path, phases: Iterable[str]) -> tuple[ScopeTime, ...]:
    """The scopes of the newest trace under ``folder``, those first that took longest.

    Args:
        folder: as given to ``jax.profiler.trace``.
        phases: names of annotations; an operation is of the one that it began in.

    Raises:
        FileNotFoundError: when there is no trace.
    """
    path = newest_trace(folder)
    planes = list(ProfileData.from_file(str(path)).planes)
    spans = _spans(planes, frozenset(phases))
    programs = read_programs(path.read_bytes())
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    operations: dict[str, int] = defaultdict(int)
    for name, program, start_ns, duration_ns in _events(planes):
        phase = next((phase for phase, start, stop in spans if start <= start_ns < stop), None)
        operation = programs.get(program, {}).get(name, _Operation(OTHER, is_container=False))
        if phase is not None and not operation.is_container:
            seconds[operation.scope][phase] += duration_ns / 1e9
            operations[operation.scope] += 1
    found = (ScopeTime(scope, dict(times), operations[scope]) for scope, times in seconds.items())
    return tuple(sorted(found, key=lambda one: (-one.total_s, one.scope)))


def newest_trace(folder: Path) -> Path:
    """The file of a trace under ``folder`` that has everything.

    Raises:
        FileNotFoundError: when there is none.
    """
    found = max(folder.glob("plugins/profile/*/*.xplane.pb"), key=lambda path: path.stat().st_mtime_ns, default=None)
    if found is None:
        raise FileNotFoundError(f"no trace under {folder}")
    return found


def _spans(planes: Iterable[Any], phases: frozenset[str]) -> list[tuple[str, float, float]]:
    return [
        (event.name, event.start_ns, event.start_ns + event.duration_ns)
        for plane in planes
        for line in plane.lines
        for event in line.events
        if event.name in phases
    ]


def _events(planes: Iterable[Any]) -> Iterator[tuple[str, str, float, float]]:
    """Operation, program, start and duration in nanoseconds, of what ran on devices, or on the host's own."""
    for plane in planes:
        for line in _own_lines(list(plane.lines)):
            for event in line.events:
                stats = {key: value for key, value in event.stats if key in ("hlo_op", "hlo_module", "program_id")}
                if len(stats) == 3:
                    program = f"{stats['hlo_module']}({stats['program_id']})"
                    yield str(stats["hlo_op"]), program, event.start_ns, event.duration_ns


def _own_lines(lines: list[Any]) -> list[Any]:
    """Those on which each operation is once: beside streams, a GPU's plane has the same ones again, by module."""
    streams = [line for line in lines if line.name.startswith("Stream")]
    operations = [line for line in lines if line.name == "XLA Ops"]
    return streams or operations or lines


def scope_of(operation: str) -> str:
    """The scopes in the name under which an operation was traced: ``jit(run)/mlp/norm/mul`` → ``mlp/norm``."""
    # What is traced in a loop has the names around the loop twice.
    return "/".join(dict.fromkeys(part for part in operation.split("/") if part in SCOPES)) or OTHER


def read_programs(space: bytes) -> _Programs:
    """The programs in an ``XSpace``."""
    programs: dict[str, dict[str, _Operation]] = {}
    for plane in _messages(space, 1):
        if _METADATA not in _messages(plane, 2):
            continue
        for entry in _messages(plane, 4):
            for metadata in _messages(entry, 2):
                operations = {
                    name: operation
                    for stat in _messages(metadata, 5)
                    for program in _messages(stat, 6)
                    for module in _messages(program, 1)
                    for name, operation in _operations(module)
                }
                for name in _messages(metadata, 2):
                    programs[name.decode()] = operations
    return programs


def _operations(module: bytes) -> Iterator[tuple[str, _Operation]]:
    """Those of an ``HloModuleProto``, of all its computations."""
    for computation in _messages(module, 3):
        for instruction in _messages(computation, 2):
            name, kind = (next(iter(_messages(instruction, field)), b"").decode() for field in (1, 2))
            traced = [one.decode() for metadata in _messages(instruction, 7) for one in _messages(metadata, 2)]
            yield name, _Operation(scope_of(traced[0]) if traced else OTHER, kind in _CONTAINERS)


def _messages(buffer: bytes, field: int) -> list[bytes]:
    """What a protocol buffer has in a field that is of some length."""
    return [value for number, value in _fields(buffer) if number == field and isinstance(value, bytes)]


def _fields(buffer: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Numbers and values of a protocol buffer's fields (its encoding guide, "Message structure")."""
    at = 0
    while at < len(buffer):
        key, at = _varint(buffer, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(buffer, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(buffer, at)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise ValueError(f"a field of kind {kind} at byte {at}")
        yield number, buffer[at : at + length]
        at += length


_FIXED = {1: 8, 5: 4}
"""Bytes of a value, by its kind."""


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
