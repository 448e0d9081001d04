"""What a machine was told and when, so that what happened once can happen again: written, bounded, read back.

A log is two segments, an older and a newer one. When the newer is full the older is dropped, so a long run's log keeps
between half and all of what fits. A segment is a msgpack map that says how the machine was made, then a msgpack list
an event: seconds on the machine's clock, name, values. Owns format and bounds; what the names mean is the machines' to
say. Never unpickles anything.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgpack

from helix_df.errors import ProtocolError

log = logging.getLogger(__name__)

FORMAT = "helix-df events"
VERSION = 1

MOST_EVENTS = 1_000_000
MOST_BYTES = 32 * 2**20
MOST_BYTES_IN_MEMORY = 4 * 2**20
"""Bounds of a whole log; a log that isn't written to disk is kept in memory, and is smaller."""

FLUSH_EVERY_S = 1.0
"""So old may be what a process that is killed had not yet handed to the system."""

_BUFFER_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event: its number since the machine began, its time (s, on the machine's clock), name and values."""

    number: int
    at_s: float
    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class RecordedLog:
    """A log as it was read.

    Attributes:
        role: whose machine it was, ``coordinator`` or ``worker``.
        machine: how the machine was made.
        started: when, in Unix seconds, and ``clock_s`` the same moment on the machine's clock.
        events: in their order; the first has number 0 unless older ones were dropped.
    """

    role: str
    machine: Mapping[str, Any]
    started: float
    clock_s: float
    events: tuple[LoggedEvent, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it begins where the machine began, so that it can be replayed."""
        return not self.events or self.events[0].number == 0


class EventLog:
    """Takes events down, at a price of microseconds each. Not for several threads.

    Args:
        role: whose machine it is.
        machine: how the machine was made, as msgpack can hold it.
        path: the file of the newer segment (the older is beside it, see ``older``); in memory if None.
        clock_s: the machine's clock now.
        enabled: whether anything is taken down at all.
        most_events: of both segments together.
        most_bytes: of both segments together, once each is full.
    """

    def __init__(
        self,
        role: str,
        machine: Mapping[str, Any],
        path: Path | None = None,
        *,
        clock_s: float | None = None,
        enabled: bool = True,
        most_events: int = MOST_EVENTS,
        most_bytes: int | None = None,
    ) -> None:
        self._path = path
        self._head = {"format": FORMAT, "version": VERSION, "role": role, "machine": machine}
        self._head |= {"started": time.time(), "clock_s": time.monotonic() if clock_s is None else clock_s}
        self._segment_events = max(1, most_events // 2)
        fits = most_bytes or (MOST_BYTES_IN_MEMORY if path is None else MOST_BYTES)
        self._segment_bytes = fits // 2
        self._pack = msgpack.Packer(use_bin_type=True).pack
        self._older = b""
        self._count = 0
        self._flushed_s = -math.inf
        self._out: IO[bytes] | None = None
        with self._giving_up():
            if path is not None:
                older(path).unlink(missing_ok=True)
            if enabled:
                self._begin_segment()

    def append(self, at_s: float, name: str, *values: Any) -> None:
        """Take an event down."""
        if self._out is None:
            return
        packed: bytes = self._pack((at_s, name, *values))
        if self._count >= self._segment_end or self._bytes + len(packed) > self._segment_bytes:
            self._begin_segment()
        self._count += 1
        self._bytes += len(packed)
        self._write(packed)
        if at_s - self._flushed_s > FLUSH_EVERY_S:
            self._flushed_s = at_s
            self.flush()

    def flush(self) -> None:
        """Hand everything to the system, so that it is there if this process ends."""
        if self._out is not None:
            with self._giving_up():
                self._out.flush()

    def close(self) -> None:
        """Write the rest, and take nothing down any more."""
        if self._path is not None and self._out is not None:
            with self._giving_up():
                self._out.close()
            self._out = None

    def read(self) -> RecordedLog:
        """What was taken down so far."""
        self.flush()
        if self._path is not None and self._path.exists():
            return read_events(self._path)
        if isinstance(self._out, io.BytesIO):
            return parse_events(self._older, self._out.getvalue())
        return parse_events(b"", self._pack(self._head | {"first": 0}))

    def _begin_segment(self) -> None:
        with self._giving_up():
            if self._path is None:
                self._older = self._out.getvalue() if isinstance(self._out, io.BytesIO) else b""
                self._out = io.BytesIO()
            else:
                self._out = self._next_file(self._path)
            self._segment_end = self._count + self._segment_events
            self._bytes = 0
            self._write(self._pack(self._head | {"first": self._count}))

    def _next_file(self, path: Path) -> IO[bytes]:
        if self._out is not None:
            self._out.close()
            path.replace(older(path))
        # Prompts are in it: nobody else is to read them.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        return open(descriptor, "wb", buffering=_BUFFER_BYTES)

    def _write(self, packed: bytes) -> None:
        if self._out is not None:
            try:
                self._out.write(packed)
            except OSError as error:
                self._give_up(error)

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """A full disk ends the log, not the job."""
        self._out = None
        log.warning("no events are logged any more: %s", error)


def older(path: Path) -> Path:
    """Where the older segment of a log is."""
    return path.with_name(f"{path.name}.older")


def read_events(path: Path) -> RecordedLog:
    """The log in a file and the older segment beside it, if there is one.

    Raises:
        ProtocolError: when it isn't a log of events, or of a format that this release doesn't know.
    """
    before = older(path)
    return parse_events(before.read_bytes() if before.exists() else b"", path.read_bytes(), where=str(path))


def parse_events(before: bytes, newer: bytes, where: str = "event log") -> RecordedLog:
    """The log of two segments, the older of which may be empty. A last event that is cut off doesn't count.

    Raises:
        ProtocolError: as ``read_events``.
    """
    events: list[LoggedEvent] = []
    head: Mapping[str, Any] = {}
    # A process may end before the first words of a segment are written.
    for segment in [one for one in (before, newer) if one] or [newer]:
        head, found = _parse_segment(segment, where)
        events += found
    return RecordedLog(head["role"], head["machine"], head["started"], head["clock_s"], tuple(events))


def _parse_segment(segment: bytes, where: str) -> tuple[Mapping[str, Any], list[LoggedEvent]]:
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=0)
    unpacker.feed(segment)
    try:
        head, *rows = unpacker
    except Exception as error:
        raise ProtocolError("not a log of events", where=where, found=type(error).__name__) from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ProtocolError("not a log of events", where=where, expected=f"a file that begins with {FORMAT}")
    if head["version"] != VERSION:
        raise ProtocolError("a log of another format", where=where, found=head["version"], expected=str(VERSION))
    return head, list(_events(rows, head["first"]))


def _events(rows: Sequence[Sequence[Any]], first: int) -> Iterator[LoggedEvent]:
    for number, (at_s, name, *values) in enumerate(rows, start=first):
        yield LoggedEvent(number, at_s, name, tuple(values))
