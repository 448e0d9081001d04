"""No placement has more flow than any prices allow, and prices never make the bound worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helix_df.graph.bounds import covering_bound, priced_covering_bound
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.priced_covering import EVALUATED, describe, dual_bound
from helix_df.graph.problem import COORDINATOR, Link, LinkTable, NodeProfile, Placement, Problem
from helix_df.graph.sites import find_sites
from property_tests.brute_force import best_flow, placement_count
from property_tests.strategies import ACTIVATION_BYTES, TOKEN_BYTES, gpu_tables, placements, problems

TOLERANCE = 1e-9

price = st.one_of(st.just(0.0), st.floats(0.01, 10.0))


@st.composite
def split_clusters(draw: st.DrawFn, max_nodes: int = 5, max_layers: int = 5) -> Problem:
    """Two or three sites with links between them that are slow beside the nodes, each pair's its own."""
    num_layers = draw(st.integers(2, max_layers))
    gpus = draw(st.lists(gpu_tables(num_layers, 1), min_size=1, max_size=2))
    names = [f"n{i}" for i in range(draw(st.integers(2, max_nodes)))]
    site = {name: draw(st.sampled_from("abc")) for name in names}
    rates = draw(st.sampled_from(((1, 30), (20, 300))))
    slow = st.integers(*rates).map(lambda rate: Link(float(rate * ACTIVATION_BYTES), 0.05))
    links = [(name, COORDINATOR, Link(1e9, 0.01)) for name in names]
    links += [(a, b, draw(slow)) for i, a in enumerate(names) for b in names[:i] if site[a] != site[b]]
    nodes = []
    for name in names:
        gpu = draw(st.integers(0, len(gpus) - 1))
        nodes.append(NodeProfile(name, f"gpu{gpu}", site[name], gpus[gpu], tuple(100 for _ in gpus[gpu])))
    table = LinkTable({**site, COORDINATOR: "a"}, Link(1e9, 0.001), by_node=LinkTable.symmetric(links))
    return Problem(num_layers, tuple(nodes), table, TOKEN_BYTES, ACTIVATION_BYTES, draw(st.booleans()))


@st.composite
def placed(draw: st.DrawFn) -> tuple[Problem, Placement]:
    problem = draw(st.one_of(split_clusters(8, 8), problems(max_nodes=6, max_layers=8)))
    return problem, draw(placements(problem))


@given(placed=placed(), data=st.data())
@settings(suppress_health_check=list(HealthCheck))
def test_no_prices_rule_out_a_flow_that_exists(placed: tuple[Problem, Placement], data: st.DataObject) -> None:
    problem, placement = placed
    flow = placement_flow(problem, placement).value
    assume(flow > 0)
    cluster, _ = describe(problem, find_sites(problem).members)
    count = len(cluster.counts)
    prices = np.array(data.draw(st.lists(price, min_size=count, max_size=count)))
    assert dual_bound(cluster, prices, flow) <= EVALUATED


@given(problem=st.one_of(split_clusters(4, 4), problems(max_nodes=4, max_layers=4)))
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_no_placement_has_more(problem: Problem) -> None:
    assume(placement_count(problem) <= 2000)
    covering = covering_bound(problem)
    bound = priced_covering_bound(problem, covering)
    assert best_flow(problem) <= bound * (1 + TOLERANCE)
    assert bound <= covering
    other = replace(problem, partial_inference=not problem.partial_inference)
    assert priced_covering_bound(other, covering) == bound
