"""How explanations and comparisons are told."""

from dataclasses import replace

import pytest
from rich.console import Console

from helix_df.cli.diff_table import render_diff
from helix_df.cli.explain_table import render_explanation
from helix_df.cli.words import gain, names, number
from helix_df.explanation.explain import explain
from helix_df.graph.problem import Link
from helix_df.pictures.layout import size
from helix_df.plan.diff import diff
from tests.explain.plans import placed, plan_of
from tests.problems import ACTIVATION_BYTES, node, problem

SLOW = Link(30.0 * ACTIVATION_BYTES, 0.01)


def told(cluster, placement, width=120, **options):
    found = explain(plan_of(cluster, placement), problem=cluster, **{"budget_s": 0, **options})
    return lines_of(lambda console: render_explanation(found, console), width)


def lines_of(render, width=120):
    console = Console(width=width, color_system=None, highlight=False, markup=False)
    from io import StringIO

    console.file = StringIO()
    render(console)
    return console.file.getvalue().splitlines()


def test_a_slow_link_is_named_with_what_doubling_it_brings():
    lines = told(problem(2, node("a", 100.0), node("b", 80.0), links=[("a", "b", SLOW)]), placed(a=(0, 1), b=(1, 2)))
    assert "bottleneck  every token passes the link a → b; it is full at 30.0 tokens/s" in lines
    assert any(line.split() == ["a", "→", "b", "30.0", "60.0", "+30.0", "(+100.0%)"] for line in lines)


def test_several_full_links_say_that_one_alone_is_not_enough():
    links = [("a", "b", SLOW), ("b", "c", SLOW)]
    lines = told(problem(3, *(node(n, 100.0) for n in "abc"), links=links), placed(a=(0, 1), b=(1, 2), c=(2, 3)))
    assert any("in the bottleneck, and not alone" in line for line in lines)
    assert any("not the bottleneck" in line for line in lines)


def test_nodes_of_a_cut_are_told_together():
    cluster = problem(2, node("a", 100.0), node("b", 20.0), node("c", 30.0))
    lines = told(cluster, placed(a=(0, 1), b=(1, 2), c=(1, 2)))
    assert (
        "bottleneck  every token passes b (L4, layers [1, 2)) or c (L4, layers [1, 2)); "
        "they are full at 50.0 tokens/s together"
    ) in lines
    many = problem(2, node("a", 900.0), *(node(f"n{i}", 10.0) for i in range(6)))
    (line,) = [
        line
        for line in told(many, {**placed(a=(0, 1)), **placed(**{f"n{i}": (1, 2) for i in range(6)})}, width=400)
        if line.startswith("bottleneck")
    ]
    assert "one of: n0" in line
    assert "2 more nodes (n4, n5)" in line


def test_every_idle_node_has_its_reason():
    nodes = [node(name, 50.0, 40.0) for name in ("a", "b", "early", "late", "left")]
    cluster = problem(4, *nodes, node("tiny"), partial=False)
    text = "\n".join(told(cluster, placed(a=(0, 2), b=(2, 4), early=(0, 1), late=(3, 4))))
    for reason in ("early: a dead end", "late: out of reach", "left: given no layers", "tiny: not one layer fits"):
        assert reason in text


@pytest.mark.parametrize("width", [80, 120])
def test_everything_fits(width):
    cluster = problem(2, node("a", 100.0), node("b", 20.0), node("c", 30.0), links=[("a", "b", SLOW)])
    for line in told(cluster, placed(a=(0, 1), b=(1, 2), c=(1, 2)), width, budget_s=4.0, solver="petals"):
        assert len(line) <= width
        assert line == line.rstrip()


def test_another_machine_and_a_node_that_goes_are_told():
    cluster = problem(2, node("a", 9.0, 8.0), node("b", 9.0))
    old = plan_of(cluster, placed(a=(0, 1), b=(1, 2)))
    new = plan_of(cluster, placed(a=(0, 2)))
    moved = new.job.nodes["a"].model_copy(update={"address": "10.0.0.9"})
    new = replace(new, job=new.job.model_copy(update={"nodes": {**new.job.nodes, "a": moved}}))
    lines = lines_of(lambda console: render_diff(diff(old, new), console))
    assert any("→ [0, 2) another machine" in line for line in lines)
    assert any(line.startswith("b") and "→ –" in line for line in lines)


def test_words():
    assert [number(0.04), number(9999.94), number(12345.6)] == ["0.0", "9,999.9", "12,346"]
    assert [gain(0.0, 5.0), gain(5.0, 10.0), gain(-5.0, 10.0), gain(5.0, 0.0)] == [
        "–", "+5.0 (+50.0%)", "-5.0 (-50.0%)", "+5.0",
    ]  # fmt: skip
    assert [size(0), size(999), size(1500), size(13.7e9), size(2e13)] == ["0 B", "999 B", "1.5 kB", "13.7 GB", "20 TB"]
    assert names([str(i) for i in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
