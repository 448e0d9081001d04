"""Explanations of plans whose right answers are plain to see."""

import math
from pathlib import Path

import pytest

from helix_df.explanation.explain import explain, explanation_document
from helix_df.explanation.idle import idle_nodes, most_through
from helix_df.explanation.one_more import best_twin, kinds_of, with_twin
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, Link
from helix_df.layers import LayerRange
from helix_df.load import load_job
from helix_df.planning import make_plan
from helix_df.solvers.api import Watch
from tests.explain.plans import placed, plan_of
from tests.problems import ACTIVATION_BYTES, node, problem

EXAMPLES = Path(__file__).parents[2] / "spec" / "examples"
SLOW = Link(30.0 * ACTIVATION_BYTES, 0.01)


def told(problem, placement, **options):
    return explain(plan_of(problem, placement), problem=problem, budget_s=0, **options)


def test_a_slow_stage_is_the_bottleneck_and_a_second_node_there_lifts_it_to_the_next_one():
    chain = problem(2, node("a", 100.0, gpu="A"), node("b", 60.0, gpu="B"))
    found = told(chain, placed(a=(0, 1), b=(1, 2)))
    assert found.flow == pytest.approx(60)
    assert [(binding.node, binding.limit) for binding in found.cut_nodes] == [("b", "device")]
    assert found.also_full == ()
    assert [worth.gpu for worth in found.gpus] == ["A", "B"]
    for worth in found.gpus:
        assert worth.beside.layers == LayerRange(1, 2)
        assert worth.beside.flow == pytest.approx(100)
        assert worth.replanned is None
        assert worth.bound >= worth.beside.flow


def test_where_two_stages_bind_one_more_node_adds_nothing_beside_them():
    found = told(problem(2, node("a", 60.0), node("b", 60.0)), placed(a=(0, 1), b=(1, 2)))
    assert found.gpus[0].beside.layers is None
    assert found.gpus[0].beside.flow == pytest.approx(found.flow)
    assert {binding.node for binding in found.cut_nodes} | set(found.also_full) == {"a", "b"}


def test_a_network_card_is_told_from_the_device():
    from dataclasses import replace

    carded = replace(node("a", 100.0), nic_bytes_per_s=50.0 * ACTIVATION_BYTES)
    found = told(problem(1, carded), placed(a=(0, 1)))
    assert found.cut_nodes[0].limit == "network card"
    assert found.cut_nodes[0].capacity == pytest.approx(50)


def test_doubling_the_full_link_is_worth_what_it_lets_through():
    slow = problem(2, node("a", 100.0), node("b", 80.0), links=[("a", "b", SLOW)])
    found = told(slow, placed(a=(0, 1), b=(1, 2)))
    assert found.cut_links == (("a", "b"),)
    (link,) = found.links
    assert (link.tail, link.head, link.in_cut) == ("a", "b", True)
    assert link.capacity == pytest.approx(30)
    assert link.doubled_flow == pytest.approx(60)


def test_of_two_full_links_in_a_row_neither_helps_alone():
    slow = problem(3, node("a", 100.0), node("b", 100.0), node("c", 100.0), links=[("a", "b", SLOW), ("b", "c", SLOW)])
    found = told(slow, placed(a=(0, 1), b=(1, 2), c=(2, 3)))
    assert len(found.links) == 2
    assert sum(link.in_cut for link in found.links) == 1
    assert all(link.doubled_flow == pytest.approx(found.flow) for link in found.links)


def test_every_reason_to_do_nothing():
    nodes = [node(name, 50.0, 40.0) for name in ("a", "b", "early", "late", "left")]
    cluster = problem(4, *nodes, node("tiny"), partial=False)
    placement = placed(a=(0, 2), b=(2, 4), early=(0, 1), late=(3, 4))
    flow = placement_flow(cluster, placement)
    why = {idle.node: idle.why for idle in idle_nodes(cluster, placement, flow)}
    assert why == {
        "early": "no_way_out",
        "late": "no_way_in",
        "left": "left_out",
        "tiny": "fits_nothing",
    }


def test_slow_links_are_named_when_they_are_why():
    crawl = Link(0.0, 0.0)
    links = [("second", "b", crawl), (COORDINATOR, "second", crawl)]
    cluster = problem(2, node("a", 50.0), node("second", 50.0), node("b", 90.0), links=links)
    placement = placed(a=(0, 1), second=(0, 1), b=(1, 2))
    (idle,) = idle_nodes(cluster, placement, placement_flow(cluster, placement))
    # Links that carry nothing at all are as good as none: requests neither get in nor out.
    assert (idle.node, idle.why) == ("second", "no_way_in")
    assert idle.fast_flow == pytest.approx(90)


def test_a_twin_of_a_bottlenecked_stage_stands_by_when_links_starve_both():
    links = [("a", "b", SLOW), ("a", "twin", Link(1e-5, 0.0))]
    cluster = problem(2, node("a", 100.0), node("b", 20.0), node("twin", 50.0), links=links)
    placement = placed(a=(0, 1), b=(1, 2), twin=(1, 2))
    (idle,) = idle_nodes(cluster, placement, placement_flow(cluster, placement))
    assert (idle.node, idle.why) == ("twin", "slow_links")
    assert idle.fast_flow == pytest.approx(70)
    assert idle.most_through == pytest.approx(0, abs=1e-5)


def test_a_spare_node_could_carry_what_its_neighbours_do():
    cluster = problem(2, node("a", 10.0), node("b", 50.0), node("c", 50.0))
    placement = placed(a=(0, 1), b=(1, 2), c=(1, 2))
    (idle,) = idle_nodes(cluster, placement, placement_flow(cluster, placement))
    assert idle.why == "spare"
    assert idle.most_through == pytest.approx(10)
    assert most_through(build_graph(cluster, placement), "a") == pytest.approx(10)


def test_a_twin_has_its_model_s_links_also_where_every_link_is_named():
    fast = Link(5e5, 0.0)
    links = [(COORDINATOR, "a", SLOW), (COORDINATOR, "b", fast), ("a", "b", fast)]
    named = problem(2, node("a", 9.0), node("b", 9.0), default=None, links=links)
    grown = with_twin(named, "a")
    twin = grown.nodes[-1].name
    assert grown.links.find(twin, COORDINATOR) == SLOW
    assert grown.links.find(twin, "b") == fast
    assert grown.links.find(twin, "a") == fast
    assert kinds_of(named, "L4") == ["a", "b"]
    assert kinds_of(problem(2, node("a", 9.0), node("b", 9.0)), "L4") == ["a"]


def test_the_best_twin_of_several_kinds_is_found():
    near, far = Link(1e6, 0.0), Link(2.0 * ACTIVATION_BYTES, 0.0)
    links = [(COORDINATOR, "a", near), (COORDINATOR, "b", near), ("a", "b", near), ("a", "c", far), ("b", "c", far)]
    cluster = problem(2, node("a", 90.0), node("b", 20.0), node("c", 20.0), default=None, links=links)
    placement = placed(a=(0, 1), b=(1, 2))
    best = best_twin(cluster, placement, ["c", "b"])
    assert (best.like, best.layers) == ("b", LayerRange(1, 2))
    assert best.flow == pytest.approx(40)


def test_planning_anew_says_who_and_how_long_and_can_be_stopped():
    job = load_job(EXAMPLES / "single24.yaml").with_solver(name="even")
    plan = make_plan(job)
    found = explain(plan, solver="petals", budget_s=4.0)
    assert found.replanning.solver == "petals"
    assert found.replanning.seconds_each == pytest.approx(1.0)
    assert all(worth.replanned > 0 for worth in found.gpus)
    watch = Watch()
    watch.stop.set()
    stopped = explain(plan, watch=watch)
    assert all(worth.replanned is None for worth in stopped.gpus)


@pytest.mark.parametrize("name", ["quickstart", "single24", "geo24", "hetero42", "two-sites"])
def test_the_examples_are_explained_without_a_solver_and_the_same_twice(name):
    plan = make_plan(load_job(EXAMPLES / f"{name}.yaml").with_solver(name="petals", options={}))
    found = explain(plan, budget_s=0)
    assert found == explain(plan, budget_s=0)
    assert found.flow == pytest.approx(plan.flow)
    assert found.bound == pytest.approx(plan.certificate.bound)
    capacity = sum(binding.capacity for binding in found.cut_nodes)
    if not found.cut_links:
        assert capacity == pytest.approx(found.flow)
    document = explanation_document(found)
    assert all(worth["gain"] >= 0 and math.isfinite(worth["bound"]) for worth in document["gpus"])
    assert len(document["gpus"]) == len({node.gpu for node in plan.job.nodes.values()})


def test_the_library_offers_what_the_commands_use():
    import helix_df
    from helix_df.exporters.registry import export_plan
    from helix_df.pictures.plan_svg import plan_svg
    from helix_df.plan.diff import diff

    assert (helix_df.explain, helix_df.diff) == (explain, diff)
    assert (helix_df.export_plan, helix_df.plan_svg) == (export_plan, plan_svg)
