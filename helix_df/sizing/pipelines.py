"""Pipelines that nodes of several kinds can form, and placements made of such pipelines alone.

Owns which pipelines are worth trying, and the cheapest choice of them that serves a flow. Such a placement has at least
the flow of its pipelines together when links don't bind; whoever uses one has it judged. Doesn't know bounds.

A pipeline of rate ``r`` takes nodes that each hold as many layers as they serve at ``r``, until all layers are held. So
nodes of one kind hold more layers in slow pipelines and fewer in fast ones, and a choice of both fits a flow closely,
where one number of layers for all nodes would leave a part of them idle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from helix_df.graph.capacities import Floats, Ints, capacity_matrix
from helix_df.graph.problem import Placement
from helix_df.layers import LayerRange
from helix_df.sizing.market import Fleet, Market

KEPT_OF_A_RATE = 40
"""Pipelines of one rate that are kept, the cheapest."""

LISTED_OF_A_RATE = 4000
"""Pipelines of one rate that are listed at most."""

WORK = 1.0
"""Deterministic seconds of the integer program, about as long as seconds; then its best choice is taken."""

RATE_UNITS = 1000
"""Parts of a token/s in which rates are counted, rounded down."""


Most = tuple[int | None, ...]
"""Nodes of each offer at most; ``None``: any number."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Nodes of each kind and the layers that one of them holds; ``rate``: tokens/s."""

    rate: float
    nodes: tuple[int, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Program:
    """An integer program: ``times[i]`` is how often pipeline ``among[i]`` is chosen."""

    among: Sequence[Pipeline]
    model: cp_model.CpModel
    times: Sequence[cp_model.IntVar]
    rate: cp_model.LinearExprT
    cost: cp_model.LinearExprT

    def solved(self) -> list[Pipeline] | None:
        """The chosen pipelines, ``None`` if nothing is found within ``WORK``."""
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.max_deterministic_time = WORK
        if solver.solve(self.model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None
        return [one for one, times in zip(self.among, self.times, strict=True) for _ in range(solver.value(times))]


class PipelineChoice:
    """The pipelines of a market, and choices of them.

    Args:
        market: what there is.
        residence_s: seconds that a request is in flight. By Little's law a node that passes ``r`` tokens/s has ``r``
            times as many tokens of KV cache to hold; a node whose cache is smaller counts as slower. 0 for flows alone.
        most_hops: nodes of a pipeline at most, beside what the job limits.
    """

    def __init__(self, market: Market, residence_s: float = 0.0, most_hops: int | None = None) -> None:
        self.market = market
        limits = (market.whole.limits.max_hops, most_hops, market.whole.num_layers)
        self._limit = min(limit for limit in limits if limit is not None)
        capacity = capacity_matrix(market.whole)
        if residence_s > 0:
            capacity = np.minimum(capacity, market.job.runtime.kv_high_water * _cache(market) / residence_s)
        # Nodes that the job has already are kinds of their own that cost nothing and of which there is one each.
        self._prices = [0] * market.kept + [offer.price_units for offer in market.offers]
        self._pipelines = _undominated([one for rate in _rates(capacity) for one in self._of_rate(capacity, rate)])

    def cheapest(
        self, flow: float, most: Most | None = None, least: int = 0, *, few_hops: bool = False
    ) -> tuple[Fleet, Placement] | None:
        """The cheapest fleet whose pipelines serve a flow (tokens/s), and its placement; ``None`` without one.

        Args:
            flow: what they serve at least.
            most: of each offer; by default as many as it has.
            least: millionths an hour below which no fleet is known to serve, so that one of that cost ends the search.
            few_hops: prefer short pipelines among choices of the same cost.
        """
        best: list[Pipeline] | None = None
        # Each kind alone is a matter of milliseconds, and tells how dear a pipeline of several may be.
        for kind in range(self.market.kept, len(self._prices)):
            alone = [one for one in self._pipelines if one.nodes[kind] and sum(map(bool, one.nodes)) == 1]
            best = self._choose(alone, flow, most, least, best)
        best = self._choose(self._pipelines, flow, most, least, best)
        if best is not None and few_hops:
            best = self._shortened(best, flow, most)
        return None if best is None else self._placed(best)

    def _shortened(self, best: list[Pipeline], flow: float, most: Most | None) -> list[Pipeline]:
        """A choice of the same cost with fewer hops, squared so that long pipelines weigh most."""
        cost = self._cost_of(best)
        among = self._worthwhile(self._pipelines, flow, cost + 1)
        program = self._program(among, flow, most)
        program.model.add(program.rate >= math.ceil(flow * RATE_UNITS))
        program.model.add(program.cost <= cost)
        program.model.minimize(_sum([sum(one.nodes) ** 2 for one in among], program.times))
        return program.solved() or best

    def _choose(
        self, among: Sequence[Pipeline], flow: float, most: Most | None, least: int, best: list[Pipeline] | None
    ) -> list[Pipeline] | None:
        """The cheapest choice that costs less than ``best``, which stays where none is found."""
        below = None if best is None else self._cost_of(best)
        if below is not None and below <= least:
            return best
        among = self._worthwhile(among, flow, below)
        if not among:
            return best
        program = self._program(among, flow, most)
        program.model.add(program.rate >= math.ceil(flow * RATE_UNITS))
        program.model.add(program.cost >= least)
        if below is not None:
            program.model.add(program.cost <= below - 1)
        program.model.minimize(program.cost)
        return program.solved() or best

    def _program(self, among: Sequence[Pipeline], flow: float, most: Most | None) -> _Program:
        """How often each pipeline is chosen, where none is wanted beyond a flow."""
        model = cp_model.CpModel()
        times = [model.new_int_var(0, math.ceil(flow / one.rate), "") for one in among]
        for kind, limit in enumerate(self._most(most)):
            if limit is not None:
                model.add(_sum([one.nodes[kind] for one in among], times) <= limit)
        rate = _sum([math.floor(one.rate * RATE_UNITS) for one in among], times)
        return _Program(among, model, times, rate, _sum([self._price_of(one) for one in among], times))

    def fastest(self, fleet: Fleet) -> Placement | None:
        """The placement whose pipelines serve most on a fleet's nodes, as far as it is found."""
        most = [limit or 0 for limit in self._most(fleet)]
        fit = [one for one in self._pipelines if all(map(int.__le__, one.nodes, most))]
        if not fit:
            return None
        program = self._program(fit, sum(most) * max(one.rate for one in fit), fleet)
        program.model.maximize(program.rate)
        chosen = program.solved()
        return None if chosen is None else self._placed(chosen)[1]

    def _worthwhile(self, among: Sequence[Pipeline], flow: float, below: int | None) -> Sequence[Pipeline]:
        """Pipelines that a choice which costs less than ``below`` can have.

        With ``e`` the least that a token/s costs, all others cost at least ``e`` for each of theirs; so one that serves
        ``r`` for ``c`` makes the whole at least ``c + e·(F − r)``.
        """
        if below is None or not among:
            return among
        costs = [(self._price_of(one), min(one.rate, flow)) for one in self._pipelines]
        least = min(cost / rate for cost, rate in costs)
        return [one for one in among if self._price_of(one) + least * (flow - min(one.rate, flow)) < below]

    def _price_of(self, one: Pipeline) -> int:
        return _dot(self._prices, one.nodes)

    def _cost_of(self, chosen: Sequence[Pipeline]) -> int:
        return sum(map(self._price_of, chosen))

    def _most(self, most: Most | None) -> Iterator[int | None]:
        yield from (1,) * self.market.kept
        yield from most if most is not None else (offer.most for offer in self.market.offers)

    def _of_rate(self, capacity: Floats, rate: float) -> list[Pipeline]:
        """The cheapest pipelines of a rate."""
        held = [int(np.flatnonzero(row >= rate).max(initial=0)) for row in capacity]
        order = sorted((kind for kind, layers in enumerate(held) if layers), key=lambda kind: -held[kind])
        found: list[tuple[int, tuple[int, ...]]] = []
        nodes = [0] * len(held)

        def extend(place: int, missing: int, hops: int) -> None:
            if missing <= 0:
                found.append((_dot(self._prices, nodes), tuple(nodes)))
                return
            if place == len(order) or hops == 0 or len(found) >= LISTED_OF_A_RATE:
                return
            kind = order[place]
            limit = 1 if kind < self.market.kept else self.market.offers[kind - self.market.kept].most
            enough = -(-missing // held[kind])
            for count in range(min(enough, hops, enough if limit is None else limit), -1, -1):
                nodes[kind] = count
                extend(place + 1, missing - count * held[kind], hops - count)
            nodes[kind] = 0

        extend(0, self.market.whole.num_layers, self._limit)
        kept = [counts for _, counts in sorted(found)[:KEPT_OF_A_RATE]]
        # Of one kind alone also where others are cheaper: they may run out, or not be wanted.
        kept += [counts for _, counts in found if sum(map(bool, counts)) == 1 and counts not in kept]
        return [Pipeline(rate, counts, tuple(held)) for counts in kept]

    def _placed(self, chosen: Sequence[Pipeline]) -> tuple[Fleet, Placement]:
        """The fleet of chosen pipelines, and its nodes' layers."""
        kept = self.market.kept
        used = np.zeros(len(self._prices), dtype=np.int64)
        for one in chosen:
            used += np.array(one.nodes)
        fleet = tuple(int(count) for count in used[kept:])
        names = [[node.name] for node in self.market.whole.nodes[:kept]] + [[] for _ in fleet]
        for place, offered in self.market.nodes_of(fleet):
            names[kept + place] = list(offered)
        free = [iter(one) for one in names]
        placement: dict[str, LayerRange] = {}
        for one in chosen:
            start = 0
            for kind, count in enumerate(one.nodes):
                for _ in range(count):
                    stop = min(start + one.layers[kind], self.market.whole.num_layers)
                    placement[next(free[kind])] = LayerRange(start, stop)
                    start = stop
        return fleet, placement


def _cache(market: Market) -> Floats:
    """KV tokens of a node with ``k`` layers at ``[i, k]``."""
    nodes = market.whole.nodes
    cache = np.zeros((len(nodes), 1 + max((node.max_layers for node in nodes), default=0)))
    for i, node in enumerate(nodes):
        cache[i, 1 : node.max_layers + 1] = node.kv_tokens[: node.max_layers]
    return cache


def _rates(capacity: Floats) -> list[float]:
    """Every rate at which some node can hold a layer less than at a lower one."""
    return sorted({float(rate) for rate in capacity[capacity > 0]}, reverse=True)


def _undominated(pipelines: Sequence[Pipeline]) -> list[Pipeline]:
    """Pipelines than which none has at least the rate and no more nodes of any kind, fastest first."""
    if not pipelines:
        return []
    nodes: Ints = np.array([one.nodes for one in pipelines])
    keep: list[int] = []
    for place in sorted(range(len(pipelines)), key=lambda place: -pipelines[place].rate):
        if not keep or not (nodes[keep] <= nodes[place]).all(axis=1).any():
            keep.append(place)
    return [pipelines[place] for place in keep]


def _dot(values: Sequence[int], counts: Sequence[int]) -> int:
    return sum(value * count for value, count in zip(values, counts, strict=True))


def _sum(values: Sequence[int], variables: Sequence[cp_model.IntVar]) -> cp_model.LinearExprT:
    return cp_model.LinearExpr.weighted_sum(list(variables), list(values))
