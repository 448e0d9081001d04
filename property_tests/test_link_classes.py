"""What links carry by classes is what a whole matrix of them says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.link_classes import LinkClasses
from helix_df.graph.problem import COORDINATOR, Problem
from helix_df.graph.sites import SLOWER, TYPICAL, find_sites
from property_tests.strategies import problems
from property_tests.test_priced_covering import split_clusters

any_problem = st.one_of(problems(), split_clusters(8, 8))


def by_pairs(problem: Problem) -> np.ndarray:
    """Tokens/s between nodes, link by link."""
    names = [node.name for node in problem.nodes]
    return np.array([[problem.link_capacity(a, b) if a != b else 0.0 for b in names] for a in names])


@given(any_problem, st.data())
def test_rates_sums_and_blocks_are_those_of_single_links(problem: Problem, data: st.DataObject) -> None:
    links, matrix = LinkClasses(problem), by_pairs(problem)
    count = len(matrix)
    chosen = np.array(data.draw(st.lists(st.integers(0, count - 1), unique=True)), dtype=np.int64)
    assert (links.block(chosen) == (matrix[np.ix_(chosen, chosen)] > 0)).all()
    tails, heads = np.nonzero(~np.eye(count, dtype=bool))
    assert (links.rates(tails, heads) == matrix[tails, heads]).all()
    assert links.sums() == pytest.approx(matrix.sum(axis=1), rel=1e-12)
    assert links.coordinator.tolist() == [problem.link_capacity(node.name, COORDINATOR) for node in problem.nodes]


@given(any_problem, st.lists(st.integers(-1, 2), min_size=8, max_size=8))
def test_links_between_sites_are_those_of_single_links(problem: Problem, site_of: list[int]) -> None:
    matrix = by_pairs(problem)
    site = np.array(site_of[: len(matrix)])
    for nodes in (np.arange(len(matrix)), np.flatnonzero(site >= 0)):
        rates, counts = LinkClasses(problem).apart(nodes, site)
        inside = np.isin(np.arange(len(matrix)), nodes)
        apart = (site[:, None] != site) & inside[:, None] & inside
        expected = sorted(np.triu(matrix)[np.triu(apart) & (matrix > 0)])
        assert sorted(np.repeat(rates, counts)) == expected


@given(any_problem)
def test_usable_nodes_reached_from_the_coordinator(problem: Problem) -> None:
    matrix = by_pairs(problem) > 0
    usable = np.array([node.max_layers > 0 for node in problem.nodes])
    reached = usable & (LinkClasses(problem).coordinator > 0)
    for _ in matrix:
        reached = reached | (usable & matrix[reached].any(axis=0))
    assert (LinkClasses(problem).reached(usable) == reached).all()


@given(any_problem)
def test_sites_are_joined_by_fast_links_and_rates_are_quantiles(problem: Problem) -> None:
    matrix = by_pairs(problem)
    usable = [i for i, node in enumerate(problem.nodes) if node.max_layers]
    inside = matrix[np.ix_(usable, usable)]
    speeds = np.unique(inside[inside > 0])
    jumps = speeds[1:] / speeds[:-1]
    least = 0.0
    if len(speeds):
        least = speeds[jumps.argmax() + 1] if len(jumps) and jumps.max() >= SLOWER else speeds[0]
    label = list(range(len(usable)))
    for _ in usable if least else ():
        for a in range(len(usable)):
            for b in range(len(usable)):
                if inside[a, b] >= least:
                    label[a] = label[b] = min(label[a], label[b])
    expected = [[usable[a] for a in range(len(usable)) if label[a] == group] for group in sorted(set(label))]
    sites = find_sites(problem)
    assert [list(members) for members in sites.members] == expected
    for g, first in enumerate(sites.members):
        for h, second in enumerate(sites.members):
            if g != h:
                quantile = np.quantile(matrix[np.ix_(first, second)], TYPICAL)
                assert sites.rates[g, h] == pytest.approx(quantile, rel=1e-12)
