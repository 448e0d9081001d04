"""Where chains of stages lie: their order on the line of layers, and which node of a type is on which stage.

Owns the order that a limit on hops needs, and the search for one that links suit. Doesn't choose stages
(``stage_chains``).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.graph.judge import Judge
from helix_df.graph.sites import Sites
from helix_df.solvers.stage_programs import NodeTypes, Stage

VISITED = 20_000
"""Steps of the search for orders of chains at most."""

JUDGED = 60_000
"""Changes tried to suit links, times the nodes that each is judged with."""

MOST_CHANGES = 2500
"""Changes tried at most."""


@dataclass(slots=True)
class PlacedStage:
    """A stage on the line: its chain, how many layers it holds, and its nodes by position in the problem."""

    chain: int
    layers: int
    nodes: list[int]


def in_step(chains: Sequence[Sequence[Stage]]) -> list[list[Stage]]:
    """The chains with their stages in an order in which no hop from one to another is a short cut.

    A limit on hops keeps only the links from the ``r``-th node of a way to the ``r + 1``-th, counted along the shortest
    way (``within_hops``). So nothing is lost if the ``r``-th stage of each chain ends before the ``r + 1``-th of any
    other does. As they are where no such order is found.
    """
    left = [Counter(chain) for chain in chains]
    orders: list[list[Stage]] = [[] for _ in chains]
    failed: set[tuple[frozenset[tuple[Stage, int]], ...]] = set()
    visited = 0

    def extend(ends: tuple[int, ...]) -> bool:
        nonlocal visited
        visited += 1
        if not any(left):
            return True
        state = tuple(frozenset(rest.items()) for rest in left)
        if state in failed or visited > VISITED:
            return False
        for chosen in product(*(sorted(rest) if rest else [None] for rest in left)):
            after = tuple(end + (stage[0] if stage else 0) for end, stage in zip(ends, chosen, strict=True))
            going = [c for c, stage in enumerate(chosen) if stage]
            if any(after[c] <= ends[other] for c in going for other in going if other != c):
                continue
            for c in going:
                _move(chosen[c], left[c], orders[c])
            if extend(after):
                return True
            for c in going:
                left[c][orders[c].pop()] += 1
        failed.add(state)
        return False

    if extend((0,) * len(chains)):
        return orders
    return [list(chain) for chain in chains]


def _move(stage: Stage | None, left: Counter[Stage], order: list[Stage]) -> None:
    assert stage is not None
    order.append(stage)
    left[stage] -= 1
    if not left[stage]:
        del left[stage]


def place_nodes(types: NodeTypes, chains: Sequence[Sequence[Stage]], num_layers: int) -> list[PlacedStage]:
    """Stages with nodes of their types, neighbours of one site where it can be, cut down to ``num_layers`` in all."""
    left = [list(members) for members in types.members]
    placed = []
    for c, chain in enumerate(chains):
        stages = [
            PlacedStage(c, layers, [left[t].pop(0) for t, n in enumerate(counts) for _ in range(n)])
            for layers, counts in chain
        ]
        _cut_down(stages, num_layers)
        placed += stages
    return placed


def _cut_down(stages: Sequence[PlacedStage], num_layers: int) -> None:
    """Take layers that are too many from the longest stages."""
    for _ in range(sum(stage.layers for stage in stages) - num_layers):
        longest = max(stages, key=lambda stage: stage.layers)
        longest.layers -= 1


def share_sites(judge: Judge, types: NodeTypes, sites: Sites, chain: Sequence[Stage]) -> list[PlacedStage]:
    """The stages of one chain with nodes of their types, so that each site has about its share of every stage.

    Nodes go one by one where their site lacks most, those of the fastest types first. If every site had exactly its
    share, nothing would have to cross between sites.
    """
    layers = np.array([k for k, _ in chain], dtype=np.int64)
    counts = np.array([nodes for _, nodes in chain], dtype=np.int64)
    rates = types.tables[:, layers].T
    site_of = np.zeros(len(judge.most), dtype=np.int64)
    for g, members in enumerate(sites.members):
        site_of[list(members)] = g
    nodes_of = [
        [[i for i in members if site_of[i] == g] for g in range(len(sites.members))] for members in types.members
    ]
    share = np.zeros(len(sites.members))
    for t, by_site in enumerate(nodes_of):
        share += float(types.tables[t].max()) * np.array([len(members) for members in by_site])
    lacks = (counts * rates).sum(axis=1)[:, None] * share[None, :] / share.sum()
    stages = [PlacedStage(0, int(k), []) for k in layers]
    for t in np.argsort(-types.tables.max(axis=1), kind="stable").tolist():
        left = np.array([len(members) for members in nodes_of[t]])
        needs = counts[:, t].copy()
        for _ in range(int(needs.sum())):
            possible = (needs > 0)[:, None] & (left > 0)[None, :]
            r, g = divmod(int(np.where(possible, lacks, -np.inf).argmax()), len(left))
            left[g] -= 1
            needs[r] -= 1
            lacks[r, g] -= rates[r, t]
            stages[r].nodes.append(nodes_of[t][g][int(left[g])])
    _cut_down(stages, judge.num_layers)
    return stages


def join_rest(judge: Judge, types: NodeTypes, stages: Sequence[PlacedStage]) -> None:
    """Put nodes that are left where they help most: on the weakest stage that they fit."""
    taken = {node for stage in stages for node in stage.nodes}
    served = [sum(float(judge.capacity[node, stage.layers]) for node in stage.nodes) for stage in stages]
    for node in (node for members in types.members for node in members if node not in taken):
        fitting = [s for s, stage in enumerate(stages) if judge.capacity[node, min(stage.layers, judge.most[node])] > 0]
        fitting = [s for s in fitting if stages[s].layers <= judge.most[node]]
        if fitting:
            weakest = min(fitting, key=lambda s: (served[s], s))
            stages[weakest].nodes.append(node)
            served[weakest] += float(judge.capacity[node, stages[weakest].layers])


def lay_out(judge: Judge, stages: Sequence[PlacedStage]) -> tuple[Ints, Ints]:
    """Start and count of every node; the stages of a chain lie in a row, in their order."""
    start = np.zeros(len(judge.most), dtype=np.int64)
    count = np.zeros_like(start)
    ends: dict[int, int] = {}
    for stage in stages:
        first = ends.get(stage.chain, 0)
        start[stage.nodes], count[stage.nodes] = first, stage.layers
        ends[stage.chain] = first + stage.layers
    return start, count


class LinkFit:
    """A walk over orders of stages and exchanges of alike nodes, until links let the flow of the stages pass."""

    def __init__(self, judge: Judge, stages: Sequence[PlacedStage], seed: int) -> None:
        self.judge, self.stages = judge, list(stages)
        self.chance = random.Random(seed)

    def run(self, enough: float, stop: Callable[[], bool]) -> tuple[Ints, Ints]:
        """The best arrangement found, and the first that has ``enough`` tokens/s."""
        best = self._flow()
        for _ in range(min(MOST_CHANGES, JUDGED // len(self.judge.most))):
            if best >= enough or stop():
                break
            undo = self._exchange_stages() if self.chance.random() < 0.4 else self._exchange_nodes()
            flow = self._flow()
            if flow >= best:
                best = flow
            else:
                undo()
        return lay_out(self.judge, self.stages)

    def _flow(self) -> float:
        return self.judge.flow(*lay_out(self.judge, self.stages))

    def _exchange_stages(self) -> Callable[[], None]:
        a, b = self.chance.randrange(len(self.stages)), self.chance.randrange(len(self.stages))
        if self.stages[a].chain != self.stages[b].chain:
            b = a
        self._swap_stages(a, b)
        return lambda: self._swap_stages(a, b)

    def _swap_stages(self, a: int, b: int) -> None:
        self.stages[a], self.stages[b] = self.stages[b], self.stages[a]

    def _exchange_nodes(self) -> Callable[[], None]:
        """Two nodes that serve the same exchange their stages."""
        one, other = self.chance.choice(self.stages), self.chance.choice(self.stages)
        a, b = self.chance.randrange(len(one.nodes)), self.chance.randrange(len(other.nodes))
        capacity = self.judge.capacity
        if not np.array_equal(capacity[one.nodes[a]], capacity[other.nodes[b]]):
            return lambda: None

        def swap() -> None:
            one.nodes[a], other.nodes[b] = other.nodes[b], one.nodes[a]

        swap()
        return swap
