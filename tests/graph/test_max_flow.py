"""Flow, cut and paths of graphs small enough to check by hand."""

from __future__ import annotations

import pytest

from helix_df.graph.arcs import connects
from helix_df.graph.flow import decompose
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, Link
from helix_df.layers import LayerRange
from tests.problems import ACTIVATION_BYTES, node, problem


def test_a_chain_is_as_fast_as_its_slowest_node() -> None:
    chain = problem(4, node("a", 9, 5), node("b", 9, 3))
    flow = placement_flow(chain, {"a": LayerRange(0, 2), "b": LayerRange(2, 4)})
    assert flow.value == pytest.approx(3)
    assert flow.cut.nodes == ("b",)
    assert [(edge.tail, edge.head) for edge in flow.edges] == [(COORDINATOR, "a"), ("a", "b"), ("b", COORDINATOR)]


def test_a_link_binds() -> None:
    slow = Link(2 * ACTIVATION_BYTES, 0.0)
    chain = problem(4, node("a", 9, 5), node("b", 9, 3), links=[("a", "b", slow)])
    flow = placement_flow(chain, {"a": LayerRange(0, 2), "b": LayerRange(2, 4)})
    assert flow.value == pytest.approx(2)
    assert flow.cut.links == (("a", "b"),)


def test_partial_inference_joins_a_node_in_the_middle() -> None:
    layers = {"a": LayerRange(0, 3), "b": LayerRange(2, 4)}
    nodes = node("a", 9, 8, 7), node("b", 9, 6)
    assert placement_flow(problem(4, *nodes, partial=False), layers).value == 0
    joined = placement_flow(problem(4, *nodes, partial=True), layers)
    assert joined.value == pytest.approx(6)
    (path,) = decompose(layers, joined.edges)
    assert [(hop.node, hop.layers) for hop in path.hops] == [("a", LayerRange(0, 3)), ("b", LayerRange(3, 4))]


def test_two_pipelines_add_up() -> None:
    both = problem(2, node("a", 9, 5), node("b", 9, 3))
    flow = placement_flow(both, {"a": LayerRange(0, 2), "b": LayerRange(0, 2)})
    assert flow.value == pytest.approx(8)
    assert flow.through("a") == pytest.approx(5)


@pytest.mark.parametrize(
    "layers",
    [{}, {"a": LayerRange(1, 2)}, {"a": LayerRange(0, 1)}, {"a": LayerRange(0, 1), "b": LayerRange(0, 1)}],
)
def test_no_way_through_is_a_flow_of_zero(layers: dict[str, LayerRange]) -> None:
    flow = placement_flow(problem(2, node("a", 5), node("b", 5)), layers)
    assert flow.value == 0
    assert flow.edges == ()


@pytest.mark.parametrize(
    ("upstream", "downstream", "exact", "partial"),
    [
        ((0, 2), (2, 4), True, True),
        ((0, 2), (1, 4), False, True),
        ((0, 2), (0, 4), False, True),
        ((0, 2), (0, 2), False, False),
        ((0, 2), (3, 4), False, False),
        ((0, 4), (1, 2), False, False),
        ((2, 4), (0, 3), False, False),
    ],
)
def test_which_ranges_connect(upstream: tuple, downstream: tuple, exact: bool, partial: bool) -> None:
    assert connects(LayerRange(*upstream), LayerRange(*downstream), partial=False) is exact
    assert connects(LayerRange(*upstream), LayerRange(*downstream), partial=True) is partial


def test_unknown_nodes_and_layers_that_dont_fit_are_refused() -> None:
    small = problem(2, node("a", 5))
    with pytest.raises(KeyError):
        build_graph(small, {"b": LayerRange(0, 1)})
    with pytest.raises(ValueError, match="holds 1 to 1 layers"):
        build_graph(small, {"a": LayerRange(0, 2)})
