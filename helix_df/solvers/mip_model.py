"""The paper's mixed-integer program of placement and flow, as a MathOpt model.

Owns the formulation (Helix, arXiv 2406.01566, section 4.4): for node ``i`` an integer start ``s_i`` and a one-hot
number of layers ``b_i^k``; for a link a flow ``f_ij`` and whether it is valid ``d_ij``. Doesn't solve, and doesn't
know backends beyond the unit of flow they like. Imports OR-Tools' MathOpt, so import it only to run a MIP.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ortools.math_opt.python import mathopt

from helix_df.graph.arcs import connects
from helix_df.graph.flow import decompose
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, NodeProfile, Placement, Problem
from helix_df.layers import LayerRange
from helix_df.solvers.mip_links import Pair


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of flow in the model: ``tokens_per_s`` each; ``integral`` for backends that know integers only.

    An integral model rounds capacities up. The maximum flow of integer capacities is an integer itself, so nothing is
    lost but the rounding, and the model's optimum stays within one unit of a bound on the true one.
    """

    tokens_per_s: float
    integral: bool

    def of(self, tokens_per_s: float) -> float:
        """A capacity in units."""
        units = tokens_per_s / self.tokens_per_s
        return float(math.ceil(units - 1e-9)) if self.integral else units

    def bound(self, units: float) -> float:
        """Tokens/s that no placement exceeds, from the bound that a backend proved in units."""
        return (units + 1) * self.tokens_per_s if self.integral else units * self.tokens_per_s * (1 + 1e-7)


@dataclass(frozen=True, slots=True)
class Formulation:
    """What the model is built from.

    ``flow_bound`` (tokens/s) must hold for every placement; ``covering`` adds the covering argument as a row, which the
    paper doesn't have.
    """

    problem: Problem
    nodes: tuple[NodeProfile, ...]
    pairs: tuple[Pair, ...]
    flow_bound: float
    unit: Unit
    covering: bool = True

    def arcs(self) -> list[tuple[str, str]]:
        """Directed links: out of the coordinator, both ways between nodes, into the coordinator."""
        names = [node.name for node in self.nodes]
        arcs = [
            *((COORDINATOR, name) for name in names),
            *((names[a], names[b]) for a, b in self.pairs),
            *((names[b], names[a]) for a, b in self.pairs),
            *((name, COORDINATOR) for name in names),
        ]
        return [arc for arc in arcs if self.problem.link_capacity(*arc) > 0]

    def decisions(self) -> list[str]:
        """Names of the variables that say where the layers are."""
        return [name for i, node in enumerate(self.nodes) for name in (f"s{i}", *_count_names(i, node))]

    def placement(self, values: Mapping[str, float]) -> Placement:
        """The placement in a solution; variables that are absent are 0."""
        placement = {}
        for i, node in enumerate(self.nodes):
            count = next((k for k in range(1, node.max_layers + 1) if values.get(f"b{i}_{k}", 0.0) > 0.5), 0)
            if count:
                start = round(values.get(f"s{i}", 0.0))
                placement[node.name] = LayerRange(start, start + count)
        return placement

    def hint(self, placement: Placement) -> dict[str, float]:
        """A whole solution for a placement: its layers, valid links, and its maximum flow rounded down path by path."""
        values: dict[str, float] = {}
        for i, node in enumerate(self.nodes):
            layers = placement.get(node.name)
            values[f"s{i}"] = float(layers.start) if layers else 0.0
            for k, name in enumerate(_count_names(i, node), start=1):
                values[name] = float(layers is not None and len(layers) == k)
        index = {arc: e for e, arc in enumerate(self.arcs())}
        for arc, e in index.items():
            values[f"d{e}"] = float(self._valid(arc, placement))
            values[f"f{e}"] = 0.0
        for path in decompose(placement, placement_flow(self.problem, placement).edges):
            units = path.tokens_per_s / self.unit.tokens_per_s
            names = [COORDINATOR, *(hop.node for hop in path.hops), COORDINATOR]
            arcs = list(pairwise(names))
            if all(arc in index for arc in arcs):
                for arc in arcs:
                    values[f"f{index[arc]}"] += math.floor(units) if self.unit.integral else units
        return values

    def _valid(self, arc: tuple[str, str], placement: Placement) -> bool:
        tail, head = (placement.get(name) for name in arc)
        if arc[0] == COORDINATOR:
            return head is not None and head.start == 0
        if arc[1] == COORDINATOR:
            return tail is not None and tail.stop == self.problem.num_layers
        return tail is not None and head is not None and connects(tail, head, self.problem.partial_inference)


def build_model(formulation: Formulation) -> Any:
    """The MathOpt model of a formulation."""
    return _Builder(formulation).build()


def _count_names(i: int, node: NodeProfile) -> list[str]:
    return [f"b{i}_{k}" for k in range(1, node.max_layers + 1)]


Terms = list[tuple[Any, float]]


class _Builder:
    """Adds variables and rows; rows are set coefficient by coefficient, which is much faster than expressions."""

    def __init__(self, formulation: Formulation) -> None:
        self.given = formulation
        self.layers = formulation.problem.num_layers
        self.model = mathopt.Model(name="placement")
        self.ceiling = formulation.unit.of(formulation.flow_bound)
        self.capacity = {
            node.name: [
                min(formulation.unit.of(formulation.problem.node_capacity(node, k)), self.ceiling)
                for k in range(1, node.max_layers + 1)
            ]
            for node in formulation.nodes
        }
        self.start: dict[str, Any] = {}
        self.counts: dict[str, list[Any]] = {}
        ends = [COORDINATOR, *(node.name for node in formulation.nodes)]
        self.into: dict[str, Terms] = {name: [] for name in ends}
        self.out: dict[str, Terms] = {name: [] for name in ends}

    def build(self) -> Any:
        for i, node in enumerate(self.given.nodes):
            self._add_node(i, node)
        for e, (tail, head) in enumerate(self.given.arcs()):
            self._add_arc(e, tail, head)
        for node in self.given.nodes:
            self._bind_flow(node.name)
        self._bound_flow()
        return self.model

    def _row(self, terms: Iterable[tuple[Any, float]], low: float = -math.inf, high: float = math.inf) -> None:
        row = self.model.add_linear_constraint(lb=low, ub=high)
        sums: dict[Any, float] = {}
        for variable, coefficient in terms:
            sums[variable] = sums.get(variable, 0.0) + coefficient
        for variable, coefficient in sums.items():
            row.set_coefficient(variable, coefficient)

    def _add_node(self, i: int, node: NodeProfile) -> None:
        limits = self.given.problem.limits
        pinned = limits.fixed.get(node.name)
        low, high = (0, self.layers - 1) if pinned is None else (pinned.start, pinned.start)
        start = self.model.add_integer_variable(lb=low, ub=high, name=f"s{i}")
        counts = [self.model.add_binary_variable(name=name) for name in _count_names(i, node)]
        self.start[node.name], self.counts[node.name] = start, counts
        least = 1.0 if pinned is not None or node.name in limits.required else 0.0
        self._row([(b, 1.0) for b in counts], low=least, high=1.0)
        if pinned is not None:
            self._row([(counts[len(pinned) - 1], 1.0)], low=1.0)
        self._row(self._stop(node.name), high=self.layers)

    def _stop(self, name: str) -> Terms:
        """``e_i = s_i + Σ_k k·b_i^k``."""
        return [(self.start[name], 1.0), *((b, float(k)) for k, b in enumerate(self.counts[name], start=1))]

    def _add_arc(self, e: int, tail: str, head: str) -> None:
        limits = [max(self.capacity[name]) for name in (tail, head) if name != COORDINATOR]
        link = self.given.unit.of(self.given.problem.link_capacity(tail, head))
        capacity = min([link, self.ceiling, *limits])
        flow = self.model.add_variable(lb=0, ub=capacity, is_integer=self.given.unit.integral, name=f"f{e}")
        valid = self.model.add_binary_variable(name=f"d{e}")
        self.out[tail].append((flow, 1.0))
        self.into[head].append((flow, 1.0))
        self._row([(flow, 1.0), (valid, -capacity)], high=0.0)
        self._bind_validity(valid, tail, head)

    def _bind_validity(self, valid: Any, tail: str, head: str) -> None:
        """A link may carry flow only between layers that connect (section 4.1 and 4.4 of the paper)."""
        layers = self.layers
        if tail == COORDINATOR:
            self._row([(self.start[head], 1.0), (valid, layers - 1)], high=layers - 1)
            return
        if head == COORDINATOR:
            self._row([*self._stop(tail), (valid, -layers)], low=0.0)
            return
        stop = self._stop(tail)
        # s_j ≤ e_i
        self._row([(self.start[head], 1.0), *_negated(stop), (valid, layers)], high=layers)
        if self.given.problem.partial_inference:  # e_i < e_j
            self._row([*stop, *_negated(self._stop(head)), (valid, layers + 1)], high=layers)
        else:  # e_i ≤ s_j
            self._row([*stop, (self.start[head], -1.0), (valid, layers)], high=layers)

    def _bind_flow(self, name: str) -> None:
        self._row([*self.into[name], *_negated(self.out[name])], low=0.0, high=0.0)
        served = list(zip(self.counts[name], self.capacity[name], strict=True))
        self._row([*self.into[name], *_negated(served)], high=0.0)

    def _bound_flow(self) -> None:
        """Objective, and up to two rows that cut off nothing: the bound, and ``covering_bound``'s argument made linear.

        With a flow ``F`` at most the bound ``B``: ``Σ_i Σ_k k·min(T_i(k), B)·b_i^k ≥ L·F``.
        """
        flow = self.out[COORDINATOR]
        self._row(flow, high=self.ceiling)
        if self.given.covering:
            held = [
                (b, k * self.capacity[name][k - 1])
                for name, counts in self.counts.items()
                for k, b in enumerate(counts, start=1)
            ]
            self._row([*held, *((f, -float(self.layers)) for f, _ in flow)], low=0.0)
        self.model.maximize(mathopt.LinearSum(f for f, _ in flow))


def _negated(terms: Sequence[tuple[Any, float]]) -> Terms:
    return [(variable, -coefficient) for variable, coefficient in terms]
