"""A job on one screen, however many nodes it has: nodes and hops that are alike as one row, those that are ill by name.

Pure. Knows nothing of HTTP, tables or pages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from helix_df.graph.problem import COORDINATOR
from helix_df.runtime.requests import HopStatus, JobState, JobStatus, NodeRole, NodeState, NodeStatus

MOST_ROWS = 40
"""Nodes, and hops, that each have a row of their own; of more, those that are alike share one."""

MOST_ILL = 12
"""Nodes that are named all the same, since something is wrong with them, and hops that are cut."""

MOST_HOP_GROUPS = 16
"""Rows of hops that are alike."""

_NUMBER = re.compile(r"\d+")
_ILL_STATES: frozenset[NodeState] = frozenset({"failed", "lost"})


@dataclass(frozen=True, slots=True)
class NodeOverview:
    """Nodes that are alike, ``count`` of them; one by itself has its name.

    ``layers`` are the ranges that they hold, half-open, those that touch as one; there are ``ranges`` different ones.
    ``progress`` is the least of any, ``detail`` what the first has to say. ``ill`` are those that somebody should look
    at. KV cache is in tokens.
    """

    name: str
    count: int
    state: NodeState
    role: NodeRole
    drained: bool
    ill: bool
    layers: tuple[tuple[int, int], ...]
    ranges: int
    progress: float
    running: int
    kv_used_tokens: int
    kv_kept_tokens: int
    kv_capacity_tokens: int
    restarts: int
    detail: str


@dataclass(frozen=True, slots=True)
class HopOverview:
    """Hops that are alike, ``count`` of them, and what goes over them together; as ``HopStatus``."""

    tail: str
    head: str
    count: int
    cut: bool
    planned_tokens_per_s: float
    tokens: int
    running: int


@dataclass(frozen=True, slots=True)
class JobOverview:
    """A job at one moment, on one screen; as ``JobStatus``, but with rows of nodes and of hops, a bounded number.

    ``by_state`` counts all nodes. ``time_to_first_token_s`` and ``inter_token_s`` are medians so far, ``None`` before
    the first.
    """

    name: str
    model: str
    state: JobState
    ready: bool
    detail: str
    missing_layers: tuple[tuple[int, int], ...]
    change: str
    replanned: str
    scaled: str
    slower: str
    waiting: int
    running: int
    finished: int
    failed: int
    prompt_tokens: int
    generated_tokens: int
    num_layers: int
    planned_tokens_per_s: float
    nodes: int
    by_state: dict[str, int]
    node_rows: tuple[NodeOverview, ...]
    hop_rows: tuple[HopOverview, ...]
    time_to_first_token_s: float | None = None
    inter_token_s: float | None = None


def overview(status: JobStatus, first_s: float | None = None, between_s: float | None = None) -> JobOverview:
    """A status on one screen, with medians of the time to the first token and between two."""
    return JobOverview(
        name=status.name,
        model=status.model,
        state=status.state,
        ready=status.ready,
        detail=status.detail,
        missing_layers=status.missing_layers,
        change=status.change,
        replanned=status.replanned,
        scaled=status.scaled,
        slower=status.slower,
        waiting=status.waiting,
        running=status.running,
        finished=status.finished,
        failed=status.failed,
        prompt_tokens=status.prompt_tokens,
        generated_tokens=status.generated_tokens,
        num_layers=status.num_layers,
        planned_tokens_per_s=status.planned_tokens_per_s,
        nodes=len(status.nodes),
        by_state=dict(Counter(node.state for node in status.nodes)),
        node_rows=node_rows(status.nodes),
        hop_rows=hop_rows(status.hops, frozenset(status.cut_hops)),
        time_to_first_token_s=first_s,
        inter_token_s=between_s,
    )


def is_ill(node: NodeStatus) -> bool:
    """Whether somebody should look at a node: it was lost, failed, or does what it shouldn't."""
    return node.state in _ILL_STATES or node.illegal_events > 0 or node.not_finite > 0


def node_rows(nodes: Sequence[NodeStatus], most: int = MOST_ROWS) -> tuple[NodeOverview, ...]:
    """Nodes as rows: each by itself if there are at most so many, else those that are alike as one, after the first
    ones that are ill."""
    if len(nodes) <= most:
        return tuple(_node_row(node.name, [node]) for node in nodes)
    ill = [node for node in nodes if is_ill(node)]
    named, left = ill[:MOST_ILL], ill[MOST_ILL:]
    healthy = [node for node in nodes if not is_ill(node)]
    room = max(1, most - len(named))
    grouped = [*_together(left, room), *_together(healthy, room)]
    return (*(_node_row(node.name, [node]) for node in named), *grouped)


def _together(nodes: Sequence[NodeStatus], most: int) -> list[NodeOverview]:
    """Rows of nodes that are alike, by the finest likeness that makes few enough."""
    likenesses: tuple[Callable[[NodeStatus], str], ...] = (_pattern, _held, lambda _node: "*")
    for likeness in likenesses:
        groups: dict[tuple[str, NodeState, NodeRole, bool], list[NodeStatus]] = {}
        for node in nodes:
            groups.setdefault((likeness(node), node.state, node.role, node.drained), []).append(node)
        if len(groups) <= most:
            break
    return [_node_row(group[0].name if len(group) == 1 else key[0], group) for key, group in groups.items()]


def _pattern(node: NodeStatus) -> str:
    return pattern_of(node.name)


def pattern_of(name: str) -> str:
    """A node's name with a star for its last number, as names made by ``count`` differ in: ``l4-tokyo-*``."""
    found = list(_NUMBER.finditer(name))
    return name if not found else f"{name[: found[-1].start()]}*{name[found[-1].end() :]}"


def _held(node: NodeStatus) -> str:
    return f"layers {node.layers[0]} to {node.layers[1] - 1}"


def _node_row(name: str, nodes: Sequence[NodeStatus]) -> NodeOverview:
    first = nodes[0]
    ranges = sorted({node.layers for node in nodes})
    return NodeOverview(
        name=name,
        count=len(nodes),
        state=first.state,
        role=first.role,
        drained=first.drained,
        ill=any(map(is_ill, nodes)),
        layers=tuple(_joined(ranges)),
        ranges=len(ranges),
        progress=min(node.progress for node in nodes),
        running=sum(node.running for node in nodes),
        kv_used_tokens=sum(node.kv_used_tokens for node in nodes),
        kv_kept_tokens=sum(node.kv_kept_tokens for node in nodes),
        kv_capacity_tokens=sum(node.kv_capacity_tokens for node in nodes),
        restarts=sum(node.restarts for node in nodes),
        detail=next((node.detail for node in nodes if node.detail), "").partition("\n")[0],
    )


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in ascending order, those that touch or overlap as one."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], stop)
        else:
            joined.append((start, stop))
    return joined


def hop_rows(
    hops: Sequence[HopStatus], cut: frozenset[tuple[str, str]] = frozenset(), most: int = MOST_ROWS
) -> tuple[HopOverview, ...]:
    """Hops as rows: each by itself if there are at most so many; else first some that are cut, then those between nodes
    that are alike as one, the rest of which, where even these are too many, are one row."""
    if len(hops) <= most:
        return tuple(_hop_row(hop.tail, hop.head, [hop], cut) for hop in hops)
    named = [hop for hop in hops if (hop.tail, hop.head) in cut][:MOST_ILL]
    names = {(hop.tail, hop.head) for hop in named}
    groups: dict[tuple[str, str], list[HopStatus]] = {}
    for hop in hops:
        if (hop.tail, hop.head) not in names:
            groups.setdefault((_end(hop.tail), _end(hop.head)), []).append(hop)
    rows = [_hop_row(*ends, group, cut) for ends, group in groups.items()]
    room = min(most, MOST_HOP_GROUPS)
    if len(rows) > room:
        by_flow = sorted(rows, key=lambda row: (-row.planned_tokens_per_s, -row.running, row.tail, row.head))
        kept = {(row.tail, row.head) for row in by_flow[: room - 1]}
        others = [
            hop for hop in hops if (_end(hop.tail), _end(hop.head)) not in kept and (hop.tail, hop.head) not in names
        ]
        rows = [*(row for row in rows if (row.tail, row.head) in kept), _hop_row("others", "", others, cut)]
    return (*(_hop_row(hop.tail, hop.head, [hop], cut) for hop in named), *rows)


def _end(name: str) -> str:
    return name if name == COORDINATOR else pattern_of(name)


def _hop_row(tail: str, head: str, hops: Sequence[HopStatus], cut: frozenset[tuple[str, str]]) -> HopOverview:
    return HopOverview(
        tail=tail,
        head=head,
        count=len(hops),
        cut=any((hop.tail, hop.head) in cut for hop in hops),
        planned_tokens_per_s=sum(hop.planned_tokens_per_s for hop in hops),
        tokens=sum(hop.tokens for hop in hops),
        running=sum(hop.running for hop in hops),
    )
