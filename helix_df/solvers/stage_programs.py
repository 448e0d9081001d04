"""How many stages of which lengths, and which nodes share them, as small integer programmes.

A stage is a group of nodes that hold the same layers; stages in a row that hold all layers are a chain. Owns the
programmes and what CP-SAT is told. Knows neither positions nor links, so a chain's flow is that of its weakest stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from helix_df.graph.capacities import Floats, Ints

Counts = tuple[int, ...]
"""Nodes of each type."""

Stage = tuple[int, Counts]
"""Layers, and how many nodes of each type hold them."""

WIDEST = 8
"""Most nodes that share a stage in ``StageGroups``."""

MOST_GROUPS = 20_000
"""Groups of nodes that are looked at; with more types, groups are smaller."""

WORK = 2.0
"""Most work on one programme, in CP-SAT's deterministic seconds, so that a slow machine finds the same."""

CLOSE = 1e-3
"""Share of the best within which stages are full enough."""

ROUNDED = 20
"""Parts of a target that rounding may take from the nodes of a stage, where filling decides later."""

UNITS = 1_000_000
"""Parts of a target in which tokens/s are counted, always rounded down."""


class NodeTypes:
    """Nodes of a problem by what they serve.

    ``tables[t, k]`` is tokens/s of a node of type ``t`` with ``k`` layers, 0 where they don't fit; ``members[t]`` are
    its nodes, in the order given; ``have[t]`` is their number.
    """

    def __init__(self, capacity: Floats, nodes: Sequence[int]) -> None:
        self.tables, kind = np.unique(capacity[list(nodes)], axis=0, return_inverse=True)
        kind = kind.reshape(-1)
        self.members = [[nodes[i] for i in np.flatnonzero(kind == t).tolist()] for t in range(len(self.tables))]
        self.have: Counts = tuple(len(members) for members in self.members)

    @property
    def longest(self) -> int:
        """Most layers that fit on any node."""
        return int(np.flatnonzero((self.tables > 0).any(axis=0)).max(initial=0))


class StageGroups:
    """All small groups of nodes, by type, and how many layers each holds when it serves a target."""

    def __init__(self, types: NodeTypes) -> None:
        self.types = types
        kinds = len(types.have)
        width = 1
        while width < WIDEST and math.comb(kinds + width + 1, width + 1) <= MOST_GROUPS:
            width += 1
        chosen = [c for size in range(1, width + 1) for c in combinations_with_replacement(range(kinds), size)]
        counts = np.array([np.bincount(c, minlength=kinds) for c in chosen], dtype=np.int64).reshape(-1, kinds)
        self.counts: Ints = counts[(counts <= np.array(types.have)).all(axis=1)]
        place = {tuple(row): i for i, row in enumerate(self.counts.tolist())}
        # Where a group is without one node of a type; one past the last where that is no group.
        self._without = np.full(self.counts.shape, len(self.counts), dtype=np.int64)
        for i, row in enumerate(self.counts.tolist()):
            for t in range(kinds):
                if row[t] and sum(row) > 1:
                    self._without[i, t] = place[tuple(c - (t == u) for u, c in enumerate(row))]

    def serving(self, target: float) -> list[Stage]:
        """Groups that serve ``target`` tokens/s, each with the most layers that it can, and no node to spare."""
        layers = np.arange(self.types.tables.shape[1])
        longest = np.where(self.counts @ self.types.tables >= target, layers, 0).max(axis=1, initial=0)
        smaller = np.append(longest, 0)[self._without].max(axis=1, initial=0)
        kept = np.flatnonzero(longest > smaller)
        return [(int(longest[i]), tuple(self.counts[i].tolist())) for i in kept]


def find_chains(
    have: Counts, stages: Sequence[Sequence[Stage]], num_layers: int, most_stages: int
) -> list[list[Stage]] | None:
    """Chains side by side, each of stages that it may use; ``None`` where the nodes don't suffice, or none was found.

    Args:
        have: nodes of each type, for all chains together.
        stages: what each chain may use, any number of times.
        num_layers: that each chain holds at least.
        most_stages: in each chain.
    """
    if not all(stages):
        return None
    program, solver = _program()
    used = [[program.new_int_var(0, most_stages, "") for _ in allowed] for allowed in stages]
    for allowed, often in zip(stages, used, strict=True):
        program.add(sum(often) <= most_stages)
        program.add(sum(layers * times for (layers, _), times in zip(allowed, often, strict=True)) >= num_layers)
    for t, count in enumerate(have):
        taken = [
            nodes[t] * times
            for allowed, often in zip(stages, used, strict=True)
            for (_, nodes), times in zip(allowed, often, strict=True)
            if nodes[t]
        ]
        program.add(sum(taken) <= count)
    if not _solved(program, solver):
        return None
    return [
        [stage for stage, times in zip(allowed, often, strict=True) for _ in range(solver.value(times))]
        for allowed, often in zip(stages, used, strict=True)
    ]


def find_lengths(
    types: NodeTypes, target: float, num_layers: int, most_stages: int, work: float = WORK
) -> list[int] | None:
    """Lengths of the stages of one chain that serves ``target``, as far as it shows when alike stages share nodes.

    ``None`` where there is none, or ``work`` found none. For stages of many nodes; few whole ones may not fill them.
    """
    program, solver = _program(work)
    often = [program.new_int_var(0, most_stages, "") for _ in range(types.longest)]
    held: list[list[Any]] = [[] for _ in types.have]
    for k, times in enumerate(often, 1):
        served = []
        for t, count in enumerate(types.have):
            if types.tables[t, k] > 0:
                nodes = program.new_int_var(0, count, "")
                held[t].append(nodes)
                rate = types.tables[t, k]
                served.append((UNITS if rate >= target else int(rate / target * UNITS)) * nodes)
        program.add(sum(served) >= (UNITS - ROUNDED) * times)
    for count, nodes in zip(types.have, held, strict=True):
        program.add(sum(nodes) <= count)
    program.add(sum(often) <= most_stages)
    program.add(sum(k * times for k, times in enumerate(often, 1)) >= num_layers)
    if not _solved(program, solver):
        return None
    return [k for k, times in enumerate(often, 1) for _ in range(solver.value(times))]


def fill_stages(types: NodeTypes, lengths: Sequence[int], most: float) -> list[Stage] | None:
    """Whole nodes on the stages of a chain so that the weakest serves as much as can be, up to ``most`` tokens/s."""
    program, solver = _program()
    weakest = program.new_int_var(1, UNITS, "")
    nodes = [[program.new_int_var(0, count, "") for count in types.have] for _ in lengths]
    for t, count in enumerate(types.have):
        program.add(sum(stage[t] for stage in nodes) <= count)
    for k, stage in zip(lengths, nodes, strict=True):
        program.add(
            sum(int(rate / most * UNITS) * n for rate, n in zip(types.tables[:, k], stage, strict=True)) >= weakest
        )
    program.maximize(weakest)
    solver.parameters.relative_gap_limit = CLOSE
    if not _solved(program, solver):
        return None
    return [(k, tuple(solver.value(n) for n in stage)) for k, stage in zip(lengths, nodes, strict=True)]


def _program(work: float = WORK) -> tuple[Any, Any]:
    """An empty programme, and a solver that finds the same on every machine."""
    # Takes half a second to import, and only plans under a limit on hops need it.
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = work
    return cp_model.CpModel(), solver


def _solved(program: Any, solver: Any) -> bool:
    return solver.status_name(solver.solve(program)) in ("OPTIMAL", "FEASIBLE")
