"""Reasons why nothing can be served name what is missing."""

from __future__ import annotations

from helix_df.graph.feasibility import explain_infeasible, explain_no_flow
from helix_df.graph.problem import COORDINATOR, Problem
from helix_df.layers import LayerRange
from tests.problems import FAST, node, problem


def reason(given: Problem) -> str:
    explained = explain_infeasible(given)
    assert explained is not None
    return str(explained)


def test_a_problem_that_can_be_served_has_no_reason() -> None:
    assert explain_infeasible(problem(4, node("a", 9, 8), node("b", 9, 8))) is None


def test_too_little_memory_counts_what_fits_by_type() -> None:
    text = reason(problem(9, node("a", 9, 8, gpu="T4"), node("b", 9, 8, gpu="T4"), node("c", 9, 8, 7), node("d")))
    assert "hold 7 of the model's 9 layers" in text
    assert "2 × T4 (2 each)" in text
    assert "1 × L4 (3 each)" in text
    assert "1 × L4 (0 each)" in text
    assert "more memory" in text


def test_nobody_linked_to_the_coordinator() -> None:
    text = reason(problem(2, node("a", 9), node("b", 9), default=None, links=[("a", "b", FAST)]))
    assert "link to the coordinator" in text
    assert "links.default" in text


def test_islands_that_are_each_too_small() -> None:
    nodes = [node(name, 9, 8) for name in "abcd"]
    links = [("a", "b", FAST), ("c", "d", FAST), *((name, COORDINATOR, FAST) for name in "abcd")]
    assert explain_infeasible(problem(4, *nodes, default=None, links=links)) is None
    text = reason(problem(5, *nodes, default=None, links=links))
    assert "at most 4 of 5 layers" in text
    assert "2 group(s)" in text
    assert "a, b: 4 layers" in text


def test_a_single_door_is_way_in_and_out_of_one_node_only() -> None:
    nodes = [node(name, 9, 8) for name in "ab"]
    links = [("a", "b", FAST), ("a", COORDINATOR, FAST)]
    assert "at most 2 of 4 layers" in reason(problem(4, *nodes, default=None, links=links))
    assert explain_infeasible(problem(2, *nodes, default=None, links=links)) is None


def test_long_groups_are_cut_short() -> None:
    nodes = [node(f"n{i}", 9) for i in range(9)]
    links = [(f"n{i}", f"n{i + 1}", FAST) for i in range(8)] + [("n0", COORDINATOR, FAST)]
    assert "n0, n1, n2, n3, n4, n5 and 3 more: 1 layers" in reason(problem(4, *nodes, default=None, links=links))


def test_no_flow_names_layers_that_nobody_holds() -> None:
    given = problem(6, node("a", 9, 8), node("b", 9, 8))
    text = str(explain_no_flow(given, {"a": LayerRange(0, 1), "b": LayerRange(3, 5)}))
    assert "nobody holds layers [1, 3), [5, 6)" in text


def test_no_flow_names_the_missing_link() -> None:
    links = [("a", COORDINATOR, FAST), ("b", COORDINATOR, FAST)]
    given = problem(2, node("a", 9), node("b", 9), default=None, links=links)
    text = str(explain_no_flow(given, {"a": LayerRange(0, 1), "b": LayerRange(1, 2)}))
    assert "no link from a to b" in text
    assert "[0, 1)" in text


def test_no_flow_names_the_missing_way_in_and_out() -> None:
    placement = {"a": LayerRange(0, 1), "b": LayerRange(1, 2)}
    one_door = [("a", "b", FAST), ("a", COORDINATOR, FAST)]
    out = explain_no_flow(problem(2, node("a", 9), node("b", 9), default=None, links=one_door), placement)
    assert "no link from b to coordinator" in str(out)
    other_door = [("a", "b", FAST), ("b", COORDINATOR, FAST)]
    into = explain_no_flow(problem(2, node("a", 9), node("b", 9), default=None, links=other_door), placement)
    assert "no link from coordinator to a" in str(into)


def test_no_flow_names_ranges_that_dont_meet() -> None:
    given = problem(4, node("a", 9, 8, 7), node("b", 9, 8), partial=False)
    text = str(explain_no_flow(given, {"a": LayerRange(0, 3), "b": LayerRange(2, 4)}))
    assert "no node starts at layer 3" in text
    assert "partial_inference" in text
