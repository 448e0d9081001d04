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
    assert links.out_of() == pytest.approx(matrix.sum(axis=1), rel=1e-12)
    assert links.into() == pytest.approx(matrix.sum(axis=0), rel=1e-12)
    assert links.sums() == pytest.approx(np.maximum(matrix, matrix.T).sum(axis=1), rel=1e-12)
    assert links.leaves.tolist() == [problem.link_capacity(node.name, COORDINATOR) for node in problem.nodes]
    assert links.enters.tolist() == [problem.link_capacity(COORDINATOR, node.name) for node in problem.nodes]


@given(any_problem, st.lists(st.integers(-1, 2), min_size=8, max_size=8))
def test_links_between_sites_are_those_of_single_links(problem: Problem, site_of: list[int]) -> None:
    matrix = np.maximum(by_pairs(problem), by_pairs(problem).T)
    site = np.array(site_of[: len(matrix)])
    for nodes in (np.arange(len(matrix)), np.flatnonzero(site >= 0)):
        rates, counts = LinkClasses(problem).apart(nodes, site)
        inside = np.isin(np.arange(len(matrix)), nodes)
        apart = (site[:, None] != site) & inside[:, None] & inside
        expected = sorted(np.triu(matrix)[np.triu(apart) & (matrix > 0)])
        assert sorted(np.repeat(rates, counts)) == expected


@given(any_problem)
def test_usable_nodes_on_ways_from_the_coordinator_and_back(problem: Problem) -> None:
    matrix = by_pairs(problem) > 0
    usable = np.array([node.max_layers > 0 for node in problem.nodes])
    links = LinkClasses(problem)
    there, back = usable & (links.enters > 0), usable & (links.leaves > 0)
    for _ in matrix:
        there = there | (usable & matrix[there].any(axis=0))
        back = back | (usable & matrix[:, back].any(axis=1))
    assert (links.reached(usable) == there & back).all()


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
                if min(inside[a, b], inside[b, a]) >= least:
                    label[a] = label[b] = min(label[a], label[b])
    expected = [[usable[a] for a in range(len(usable)) if label[a] == group] for group in sorted(set(label))]
    sites = find_sites(problem)
    assert [list(members) for members in sites.members] == expected
    for g, first in enumerate(sites.members):
        for h, second in enumerate(sites.members):
            if g != h:
                quantile = np.quantile(matrix[np.ix_(first, second)], TYPICAL)
                assert sites.rates[g, h] == pytest.approx(quantile, rel=1e-12)
