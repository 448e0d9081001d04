"""Chains of stages are what exhaustive search finds, and lie so that a limit on hops takes none of their flow."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helix_df.graph.judge import Judge
from helix_df.graph.limits import broken_limits
from helix_df.graph.problem import COORDINATOR, Link, LinkTable, NodeProfile, PlacementLimits, Problem
from helix_df.graph.sites import Sites
from helix_df.solvers.stage_chains import StageChainSearch
from helix_df.solvers.stage_layout import in_step, lay_out, place_nodes
from helix_df.solvers.stage_programs import (
    NodeTypes,
    Stage,
    StageGroups,
    fill_stages,
    find_chains,
    find_lengths,
)
from property_tests.brute_force import all_placements, placement_count

few = settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
tables = st.lists(st.integers(5, 60), min_size=1, max_size=4).map(lambda speeds: tuple(sorted(speeds, reverse=True)))


@st.composite
def clusters(draw: st.DrawFn, max_nodes: int = 6) -> tuple[tuple[float, ...], ...]:
    """Tokens/s by layers held of a few nodes of up to three types."""
    kinds = draw(st.lists(tables, min_size=1, max_size=3))
    return tuple(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=max_nodes)))


def types_of(cluster: tuple[tuple[float, ...], ...]) -> NodeTypes:
    widest = max(map(len, cluster))
    capacity = np.array([[0.0, *row, *([0.0] * (widest - len(row)))] for row in cluster])
    return NodeTypes(capacity, range(len(cluster)))


def flat_problem(cluster: tuple[tuple[float, ...], ...], num_layers: int, max_hops: int, partial: bool) -> Problem:
    """These nodes with links that bind none."""
    nodes = [NodeProfile(f"n{i}", "g", "r", row, tuple(100 for _ in row)) for i, row in enumerate(cluster)]
    links = LinkTable({COORDINATOR: "r", **{node.name: "r" for node in nodes}}, Link(1e9, 0.001))
    limits = PlacementLimits(max_hops=max_hops)
    return Problem(num_layers, tuple(nodes), links, 2, 64, partial, limits)


def brute_chain(types: NodeTypes, have: tuple[int, ...], target: float, layers: int, stages: int) -> bool:
    """Whether a chain exists, by every next stage of any nodes."""

    @cache
    def longest(left: tuple[int, ...], stages: int) -> int:
        best = 0
        for taken in product(*(range(count + 1) for count in left)) if stages else ():
            for k in range(1, types.tables.shape[1]):
                if float(np.array(taken) @ types.tables[:, k]) >= target:
                    rest = tuple(a - b for a, b in zip(left, taken, strict=True))
                    best = max(best, k + longest(rest, stages - 1))
        return best

    return longest(have, stages) >= layers


@given(clusters(), st.integers(5, 120), st.integers(1, 8), st.integers(1, 4))
@few
def test_a_chain_is_found_where_there_is_one(
    cluster: tuple[tuple[float, ...], ...], target: int, layers: int, stages: int
) -> None:
    types = types_of(cluster)
    found = find_chains(types.have, [StageGroups(types).serving(target)], layers, stages)
    assert (found is not None) == brute_chain(types, types.have, target, layers, stages)
    lengths = find_lengths(types, float(target), layers, stages)
    if found is not None:
        check_chain(types, found[0], target, layers, stages)
        assert lengths is not None


def check_chain(types: NodeTypes, chain: list[Stage], target: float, layers: int, stages: int) -> None:
    assert len(chain) <= stages
    assert sum(k for k, _ in chain) >= layers
    assert (np.sum([counts for _, counts in chain], axis=0) <= types.have).all()
    for k, counts in chain:
        assert float(np.array(counts) @ types.tables[:, k]) >= target
        assert all(types.tables[t, k] > 0 for t, count in enumerate(counts) if count)


@given(clusters(8), st.integers(5, 60), st.integers(5, 60), st.integers(1, 6), st.integers(1, 3))
@few
def test_two_chains_share_the_nodes(
    cluster: tuple[tuple[float, ...], ...], first: int, second: int, layers: int, stages: int
) -> None:
    types = types_of(cluster)
    groups = StageGroups(types)
    found = find_chains(types.have, [groups.serving(first), groups.serving(second)], layers, stages)
    possible = any(
        brute_chain(types, taken, first, layers, stages)
        and brute_chain(types, tuple(a - b for a, b in zip(types.have, taken, strict=True)), second, layers, stages)
        for taken in product(*(range(count + 1) for count in types.have))
    )
    assert (found is not None) == possible
    if found is not None:
        used = np.sum([counts for chain in found for _, counts in chain], axis=0)
        assert (used <= types.have).all()
        for chain, target in zip(found, (first, second), strict=True):
            check_chain(types, chain, target, layers, stages)


@given(clusters(), st.lists(st.integers(1, 3), min_size=1, max_size=3))
@few
def test_stages_are_filled_as_well_as_can_be(cluster: tuple[tuple[float, ...], ...], lengths: list[int]) -> None:
    types = types_of(cluster)
    lengths = [min(k, types.tables.shape[1] - 1) for k in lengths]
    widths = [types.tables[:, k] for k in lengths]
    best = 0.0
    for where in product(range(len(lengths) + 1), repeat=len(cluster)):
        kinds = [t for t, members in enumerate(types.members) for _ in members]
        served = [sum(widths[r][t] for t, at in zip(kinds, where, strict=True) if at == r) for r in range(len(lengths))]
        best = max(best, min(served))
    filled = fill_stages(types, lengths, 1000.0)
    weakest = min(float(np.array(c) @ types.tables[:, k]) for k, c in filled) if filled else 0.0
    assert best * (1 - 2e-3) - 0.1 <= weakest <= best + 1e-9


stage_lists = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@given(st.lists(stage_lists, min_size=1, max_size=3), st.booleans())
@few
def test_chains_in_step_lose_nothing_to_a_limit_on_hops(lengths: list[list[int]], partial: bool) -> None:
    """Chains of equal layers, one node a stage: with the limit at the longest chain all of their flow is left."""
    layers = sum(lengths[0])
    chains = [[(k, (1,)) for k in chain] for chain in lengths if sum(chain) == layers]
    ordered = in_step(chains)
    assert [sorted(chain) for chain in ordered] == [sorted(chain) for chain in chains]
    ends = [np.cumsum([k for k, _ in chain]) for chain in ordered]
    shortcut = any(
        one[r] >= other[r + 1]
        for one in ends
        for other in ends
        for r in range(min(len(one), len(other) - 1))
        if one is not other
    )
    assume(not shortcut)
    cluster = tuple(tuple(10.0 for _ in range(5)) for chain in chains for _ in chain)
    limited = flat_problem(cluster, layers, max(map(len, chains)), partial)
    judge = Judge(limited)
    stages = place_nodes(NodeTypes(judge.capacity, range(len(cluster))), ordered, layers)
    assert judge.flow(*lay_out(judge, stages)) == pytest.approx(10.0 * len(chains))


def test_a_short_cut_is_avoided_by_another_order() -> None:
    chains = [[(1, (1,)), (1, (1,)), (4, (1,))], [(4, (1,)), (1, (1,)), (1, (1,))]]
    first, second = (np.cumsum([k for k, _ in chain]) for chain in in_step(chains))
    assert all(first[r] < second[r + 1] and second[r] < first[r + 1] for r in range(2))


@given(clusters(4), st.integers(1, 4), st.integers(1, 3), st.booleans())
@few
def test_placements_have_no_more_flow_than_the_best(
    cluster: tuple[tuple[float, ...], ...], layers: int, hops: int, partial: bool
) -> None:
    cluster = tuple(row[:layers] for row in cluster)
    limited = flat_problem(cluster, layers, hops, partial)
    assume(placement_count(limited) <= 1000)
    judge = Judge(limited)
    best = max(judge.flow(*judge.arrays(one)) for one in all_placements(limited))
    search = StageChainSearch(
        judge, Sites((tuple(range(len(cluster))),), np.zeros((1, 1))), hops, best * 1.1, lambda: False
    )
    flow = 0.0
    for start, count in search.placements(0.01, 0):
        found = judge.flow(start, count)
        assert flow < found <= best + 1e-6
        assert not broken_limits(limited, judge.placement(start, count))
        flow = found
    types = NodeTypes(judge.capacity, range(len(cluster)))
    if brute_chain(types, types.have, best, layers, hops):
        assert flow == pytest.approx(best, rel=0.002)
