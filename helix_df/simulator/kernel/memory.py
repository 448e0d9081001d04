"""Tables: lists of rows for the plain loop, arrays of records for the compiled one; made, grown, turned into another.

Rows of big tables are used as they come, all zeros in an array, so whoever takes one sets what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from helix_df.simulator.kernel import tables
from helix_df.simulator.kernel.tables import Counts, Fixed, FixedLink, FixedRequest, FixedStage, Rules, State, Table

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many there may be at once, or in all, before tables grow; ``noted`` between two flushes."""

    afloat: int
    events: int
    requests: int
    attempts: int
    paths: int
    branches: int
    kinds: int
    noted: int


SMALL = Sizes(64, 1 << 10, 1 << 8, 1 << 8, 1 << 6, 1 << 8, 8, 1 << 10)
NONE = Sizes(1, 0, 1, 1, 1, 1, 1, 1)
"""Where the compiled loop goes on before anything has happened."""

LARGE = Sizes(1 << 14, 1 << 17, 1 << 17, 1 << 17, 1 << 12, 1 << 15, 64, 1 << 19)
"""For the compiled loop: what isn't touched takes no memory."""

MARGIN = 64
"""Events that may be scheduled beside those of steps and pieces on their way."""

_KINDS = {"int": np.int64, "float": np.float64, "bool": np.bool_}

ROWS: dict[str, type] = {
    "counts": tables.Counts,
    "events": tables.EventRow,
    "runs": tables.RunRow,
    "requests": tables.RequestRow,
    "attempts": tables.AttemptRow,
    "paths": tables.PathRow,
    "hops": tables.HopRow,
    "walk": tables.TurnRow,
    "links": tables.LinkRow,
    "nics": tables.LinkRow,
    "stages": tables.StageRow,
    "queues": tables.QueueRow,
    "kinds": tables.KindRow,
    "batches": tables.BatchRow,
    "tokens": tables.TokenRow,
    "hop_times": tables.HopTimeRow,
}
CELLS: dict[str, type] = {
    "load": float,
    "tried": bool,
    "layer_used": float,
    "layer_total": float,
    "gaps": float,
}
"""Tables of plain numbers that aren't whole."""

SMALL_TABLES = ("counts", "walk", "links", "nics", "stages", "queues")
"""Their rows begin as their classes say."""


@cache
def record_of(row: type) -> np.dtype[np.void]:
    """The record that holds what a row does."""
    return np.dtype([(name, _KINDS[kind]) for name, kind in _fields(row).items()], align=True)


@cache
def _fields(row: type) -> dict[str, str]:
    """Names and kinds; annotations are text in ``tables``."""
    kinds = row.__annotations__
    return {name: str(getattr(kind, "__forward_arg__", kind)) for name, kind in kinds.items()}


def packed(rows: Table[object] | Sequence[object], row: type) -> Array:
    """Rows as an array of records."""
    names = _fields(row)
    found = [tuple(getattr(rows[at], name) for name in names) for at in range(len(rows))]
    return np.array(found, dtype=record_of(row))


def lengths(sizes: Sizes, fixed: Fixed, rules: Rules) -> dict[str, int]:
    """Rows or cells of every table of a state."""
    stages, runs = len(fixed.stages), (2 + rules.longest) * sizes.afloat + rules.fanout + 8
    return {
        "counts": 1,
        "heap": sizes.events,
        "events": sizes.events,
        "runs": runs,
        "requests": sizes.requests,
        "waiting": sizes.requests,
        "attempts": sizes.attempts,
        "branches": sizes.branches * rules.fanout,
        "leaf": sizes.branches,
        "paths": sizes.paths,
        "hops": sizes.paths * rules.vertices,
        "leaves_by": sizes.paths * rules.vertices,
        "hop_at": sizes.paths * rules.vertices,
        "holds": sizes.attempts * rules.longest if rules.messages else 1,
        "behind": sizes.attempts * rules.longest if rules.messages else 1,
        "posted": len(fixed.links),
        "load": rules.vertices * rules.fanout,
        "tried": (rules.vertices + 1) * rules.fanout,
        "walk": rules.vertices + 1,
        "links": len(fixed.links),
        "nics": len(fixed.nic_bytes_per_s),
        "stages": stages,
        "queues": stages * rules.layers * 2,
        "kinds": sizes.kinds,
        "kind_requests": sizes.kinds * stages,
        "batches": sizes.afloat,
        "taken": runs,
        "refused": runs,
        "groups": rules.fanout + 1,
        "layer_used": rules.depth,
        "layer_total": rules.depth,
        "gaps": sizes.noted * (1 + rules.drafts),
        "tokens": sizes.noted * (1 + rules.drafts) if rules.records else 1,
        "hop_times": sizes.noted * (1 + rules.drafts) if rules.observes else 1,
    }


def _fresh_list(name: str, count: int) -> list[Any]:
    row = ROWS.get(name)
    if row is not None:
        return [row() for _ in range(count)]
    return [CELLS.get(name, int)()] * count


def _fresh_array(name: str, count: int) -> Array:
    row = ROWS.get(name)
    if row is None:
        return np.zeros(count, dtype=_KINDS[CELLS.get(name, int).__name__])
    if name in SMALL_TABLES:
        return packed([row() for _ in range(count)], row)
    return np.zeros(count, dtype=record_of(row))


def new_state(fixed: Fixed, rules: Rules, sizes: Sizes, compiled: bool) -> State:
    """Nothing has happened yet."""
    make: Callable[[str, int], Any] = _fresh_array if compiled else _fresh_list
    state = State(**{name: make(name, count) for name, count in lengths(sizes, fixed, rules).items()})
    make_room(state, fixed, rules, sizes)
    Row(state.counts).acceptance = rules.acceptance
    return state


def make_room(state: State, fixed: Fixed, rules: Rules, sizes: Sizes) -> None:
    """Say how much the tables hold."""
    counts = Row(state.counts)
    counts.room_afloat = sizes.afloat
    counts.room_requests = sizes.requests - 1
    counts.room_attempts = sizes.attempts - 1
    counts.room_paths = sizes.paths - 1
    counts.room_branches = sizes.branches - rules.vertices - 2
    counts.room_kinds = sizes.kinds - 1
    counts.room_events = sizes.events - MARGIN - len(fixed.stages) - len(fixed.links)
    counts.room_noted = sizes.noted * (1 + rules.drafts)


def grown(sizes: Sizes, fixed: Fixed, rules: Rules, counts: Counts) -> Sizes:
    """Sizes that leave room for as much again as there is; one of them at least has grown."""
    around = MARGIN + len(fixed.stages) + len(fixed.links)
    wanted = {
        "afloat": 2 * (counts.afloat + counts.releases + counts.needed + 1),
        "events": 2 * (counts.queued + 4 * (counts.afloat + counts.needed) + around),
        "requests": 2 * (counts.requests + 1),
        "attempts": 2 * (counts.attempts + 1),
        "paths": 2 * (counts.paths + 1),
        "branches": 2 * (counts.branches + rules.vertices + 2),
        "kinds": 2 * (counts.kinds + 1),
        "noted": 8 * (counts.afloat + counts.needed + 1),
    }
    more = {name: max(2 * getattr(sizes, name), need) for name, need in wanted.items() if need > getattr(sizes, name)}
    assert more, "a table is full that isn't"
    return replace(sizes, **more)


def resized(state: State, fixed: Fixed, rules: Rules, sizes: Sizes, compiled: bool) -> State:
    """The same state with room for so much, for either loop."""
    counts = Row(state.counts)
    found: dict[str, Any] = {}
    for name, count in lengths(sizes, fixed, rules).items():
        old = getattr(state, name)
        if name == "waiting":
            at, size = counts.first_waiting, len(old)
            old = [old[(at + index) % size] for index in range(counts.waiting)]
            old = np.array(old, dtype=np.int64) if compiled else old
        found[name] = _array_of(name, old, count) if compiled else _list_of(name, old, count)
    new = State(**found)
    Row(new.counts).first_waiting = 0
    make_room(new, fixed, rules, sizes)
    return new


def larger(one: Sizes, other: Sizes) -> Sizes:
    """The larger of each."""
    names = [field.name for field in fields(Sizes)]
    return Sizes(**{name: max(getattr(one, name), getattr(other, name)) for name in names})


def _list_of(name: str, old: list[Any], count: int) -> list[Any]:
    old += _fresh_list(name, count - len(old))
    return old


def _array_of(name: str, old: Any, count: int) -> Array:
    if len(old) == count and isinstance(old, np.ndarray):
        return old
    new = _fresh_array(name, count)
    if isinstance(old, np.ndarray) or name not in ROWS:
        new[: len(old)] = old
    elif len(old):
        new[: len(old)] = packed(old, ROWS[name])
    return new


def fixed_arrays(fixed: Fixed) -> Fixed:
    """What doesn't move, for the compiled loop."""
    return Fixed(
        stages=packed(fixed.stages, FixedStage),
        links=packed(fixed.links, FixedLink),
        requests=requests_array(fixed.requests),
        curve_x=np.array(fixed.curve_x, dtype=np.float64),
        curve_y=np.array(fixed.curve_y, dtype=np.float64),
        next_link=np.array(fixed.next_link, dtype=np.int64),
        weight=np.array(fixed.weight, dtype=np.float64),
        open_links=np.array(fixed.open_links, dtype=np.int64),
        nic_bytes_per_s=np.array(fixed.nic_bytes_per_s, dtype=np.float64),
        by_stop=np.array(fixed.by_stop, dtype=np.int64),
        to_stage=np.array(fixed.to_stage, dtype=np.int64),
        from_stage=np.array(fixed.from_stage, dtype=np.int64),
    )


def requests_array(requests: Any) -> Array:
    """The requests of a trace as an array."""
    return requests if isinstance(requests, np.ndarray) else packed(requests, FixedRequest)


class Row:
    """A table's row, whichever kind the table is of, for those outside the loop."""

    __slots__ = ("_at", "_table")

    def __init__(self, table: Any, at: int = 0) -> None:
        object.__setattr__(self, "_table", table)
        object.__setattr__(self, "_at", at)

    def __getattr__(self, name: str) -> Any:
        row = self._table[self._at]
        return row[name].item() if isinstance(row, np.void) else getattr(row, name)

    def __setattr__(self, name: str, value: Any) -> None:
        row = self._table[self._at]
        if isinstance(row, np.void):
            row[name] = value
        else:
            setattr(row, name, value)


def plain_rows(table: Any, count: int) -> list[tuple[Any, ...]]:
    """The first rows of a table, as tuples of plain numbers."""
    if isinstance(table, np.ndarray):
        rows: list[tuple[Any, ...]] = table[:count].tolist()
        return rows
    return [tuple(getattr(row, name) for name in _fields(row.__class__)) for row in table[:count]]


def cells(table: Any, name: str) -> Callable[[int], Any]:
    """What a field of a table's rows is, by place."""
    if isinstance(table, np.ndarray):
        found: Callable[[int], Any] = table[name].__getitem__
        return found
    return lambda at: getattr(table[at], name)


def column(table: Any, name: str, count: int | None = None) -> Array:
    """A field of the first ``count`` rows of a table; of all, without a number."""
    if isinstance(table, np.ndarray):
        found: Array = table[name][:count]
        return found
    rows = table if count is None else table[:count]
    kind = _KINDS[_fields(table[0].__class__)[name]]
    return np.array([getattr(row, name) for row in rows], dtype=kind)
