"""Large clusters: chains over many nodes, nodes counted together, and stages filled with them, are what they claim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.generate import random_cluster
from helix_df.graph.bounds import best_bound
from helix_df.graph.judge import Judge
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, LinkTable, Placement, Problem
from helix_df.graph.sites import find_sites
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.baselines import best_baseline
from helix_df.solvers.chain_search import find_chain, rank_links
from helix_df.solvers.chains import usable_nodes
from helix_df.solvers.planner import check_placement, solve_problem
from helix_df.solvers.registry import get_solver
from helix_df.solvers.stage_filling import fill_by_exchange
from helix_df.solvers.wide_stages import WideStageSearch
from property_tests.strategies import placed_problems, problems
from property_tests.test_stage_programs import clusters, few, types_of


def in_copies(problem: Problem, placement: Placement, copies: int) -> tuple[Problem, Placement]:
    """Every node so many times, with the same layers; links of the copies are those of their regions."""
    nodes = [
        replace(node, name=f"{node.name}-{c}" if c else node.name) for node in problem.nodes for c in range(copies)
    ]
    regions = {node.name: node.region for node in nodes} | {COORDINATOR: problem.links.regions[COORDINATOR]}
    table = LinkTable(regions, problem.links.default, problem.links.by_region, problem.links.by_node)
    placed = {node.name: placement[name] for node in nodes if (name := node.name.split("-")[0]) in placement}
    return replace(problem, nodes=tuple(nodes), links=table), placed


@given(placed_problems(), st.integers(1, 3), st.sampled_from((None, 1, 2, 3)))
def test_alike_nodes_counted_together_carry_the_same(
    placed: tuple[Problem, Placement], copies: int, max_hops: int | None
) -> None:
    problem, placement = in_copies(*placed, copies)
    problem = replace(problem, limits=replace(problem.limits, max_hops=max_hops))
    judge = Judge(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helix_df.graph.judge.GROUPED", 0)
        flow = judge.flow(*judge.arrays(placement))
    assert flow == pytest.approx(placement_flow(problem, placement).value, abs=1e-9)


@given(problems(), st.integers(1, 6))
def test_a_chain_goes_to_the_best_linked_node_that_is_left(problem: Problem, at_most: int) -> None:
    """Where the greedy walk by single links meets a chain and a dead end, it is that chain."""
    nodes = usable_nodes(problem)
    left, here, walk, layers, best = [node.name for node in nodes], COORDINATOR, [], 0, 0
    while len(walk) < at_most and (ranked := rank_links(problem, here, left)):
        here = ranked[-1]
        left.remove(here)
        walk.append(here)
        layers += problem.node(here).max_layers
        if layers >= problem.num_layers and problem.link_capacity(here, COORDINATOR) > 0:
            best = len(walk)
    assume(best)
    chain = find_chain(problem, nodes, at_most)
    assert chain is not None
    assert [node.name for node in chain] == walk[:best]


@given(clusters(8), st.lists(st.integers(1, 3), min_size=1, max_size=3))
@few
def test_no_exchange_of_two_nodes_serves_more(cluster: tuple[tuple[float, ...], ...], lengths: list[int]) -> None:
    types = types_of(cluster)
    lengths = [min(k, types.tables.shape[1] - 1) for k in lengths]
    filled = fill_by_exchange(types, lengths, 1e6)
    counts = np.array([nodes for _, nodes in filled])
    rates = types.tables[:, lengths].T
    assert [k for k, _ in filled] == lengths
    assert (counts.sum(axis=0) <= types.have).all()
    assert not counts[rates == 0].any()
    served = (counts * rates).sum(axis=1)
    weakest = int(served.argmin())
    nothing = types.tables.shape[0]
    for other in range(len(lengths)):
        for gives in np.flatnonzero(counts[other] * rates[weakest]) if other != weakest else ():
            for takes in [*np.flatnonzero(counts[weakest] * rates[other]), nothing]:
                mine = np.append(rates[weakest], 0.0)
                theirs = np.append(rates[other], 0.0)
                after = served[weakest] + mine[gives] - mine[takes]
                left = served[other] - theirs[gives] + theirs[takes]
                assert min(after, left) <= served[weakest] + 1e-2


@pytest.mark.parametrize(("count", "num_layers", "max_hops"), [(300, 16, None), (200, 24, 8)])
def test_wide_stages_fit_and_are_the_same_again(count: int, num_layers: int, max_hops: int | None) -> None:
    problem = random_cluster(count, num_layers=num_layers)
    problem = replace(problem, limits=replace(problem.limits, max_hops=max_hops))
    judge, sites, bound = Judge(problem), find_sites(problem), best_bound(problem).bound

    def found() -> list[tuple[list[int], list[int]]]:
        search = WideStageSearch(judge, sites, max_hops or num_layers, bound, lambda: False)
        return [(start.tolist(), held.tolist()) for start, held in search.placements(0.3 * bound, 0)]

    placements, flows = found(), []
    for start, held in placements:
        placement = judge.placement(np.array(start), np.array(held))
        check_placement(problem, placement, "wide stages")
        flows.append(placement_flow(problem, placement).value)
    assert flows == sorted(set(flows))
    assert 0.9 * bound <= flows[-1] <= bound * (1 + 1e-9)
    assert found() == placements


@pytest.mark.parametrize("seed", [0, 1])
def test_a_large_plan_is_no_worse_than_any_baseline(seed: int) -> None:
    problem = random_cluster(300, seed, num_layers=24)
    options = SolveOptions(seed=seed, gap=0.05)
    baseline = best_baseline(problem, options, Watch())
    assert baseline is not None
    first, again = (solve_problem(problem, get_solver("auto"), options, Watch()) for _ in range(2))
    assert first.placement == again.placement
    assert first.termination.detail == "best by filling wide stages"
    assert first.flow.value >= baseline.flow
    assert first.flow.value >= 0.95 * (first.termination.bound or 0.0)
