"""Comparisons of plans, and the bytes that a change costs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helix_df.errors import PlanError
from helix_df.layers import LayerRange
from helix_df.load import load_job
from helix_df.plan.diff import diff, diff_document
from helix_df.plan.moves import load_bytes, move_bytes
from helix_df.planning import make_plan
from helix_df.profiles.geometry import ModelGeometry
from tests.explain.plans import placed, plan_of
from tests.problems import node, problem

EXAMPLES = Path(__file__).parents[2] / "spec" / "examples"
GEOMETRY = ModelGeometry("llama", 4, 8, 16, 2, 2, 4, 32, 64)
TIED = replace(GEOMETRY, tie_embeddings=True)
LAYER = GEOMETRY.layer_parameters
VOCABULARY = GEOMETRY.embedding_parameters


@pytest.mark.parametrize(
    ("geometry", "old", "new", "parameters"),
    [
        (GEOMETRY, None, (1, 3), 2 * LAYER),
        (GEOMETRY, (1, 3), (1, 3), 0),
        (GEOMETRY, (1, 3), None, 0),
        (GEOMETRY, (1, 3), (2, 3), 0),
        (GEOMETRY, (1, 2), (2, 3), LAYER),
        (GEOMETRY, (1, 2), (0, 3), 2 * LAYER + VOCABULARY),
        (GEOMETRY, (1, 3), (1, 4), LAYER + VOCABULARY + 8),
        (GEOMETRY, (0, 2), (2, 4), 2 * LAYER + VOCABULARY + 8),
        (GEOMETRY, None, (0, 4), 4 * LAYER + 2 * VOCABULARY + 8),
        # A tied head is the embedding: a node at both ends holds it once, and one that moves from end to end keeps it.
        (TIED, None, (0, 4), 4 * LAYER + VOCABULARY + 8),
        (TIED, (0, 2), (2, 4), 2 * LAYER + 8),
    ],
)
def test_bytes_to_load(geometry, old, new, parameters):
    held, holds = (None if layers is None else LayerRange(*layers) for layers in (old, new))
    assert load_bytes(held, holds, geometry, 2) == 2 * parameters
    if old is None:
        assert load_bytes(None, holds, geometry, 2) == 2 * parameters


def test_nodes_that_load_nothing_are_left_out():
    old, new = placed(a=(0, 2), b=(2, 4)), placed(a=(0, 1), b=(1, 4), c=(1, 2))
    assert move_bytes(old, new, GEOMETRY, 4) == {"b": 4 * LAYER, "c": 4 * LAYER}


def test_a_shifted_boundary_moves_two_nodes_and_re_routes_what_passes_them():
    nodes = [node(name, 100.0, 50.0, 30.0) for name in "abcd"]
    cluster = problem(4, *nodes)
    # Two pipelines; only the first changes.
    old = plan_of(cluster, placed(a=(0, 2), b=(2, 4), c=(0, 2), d=(2, 4)))
    new = plan_of(cluster, placed(a=(0, 3), b=(3, 4), c=(0, 2), d=(2, 4)))
    found = diff(old, new)
    assert [(move.node, move.old, move.new) for move in found.moves] == [
        ("a", LayerRange(0, 2), LayerRange(0, 3)),
        ("b", LayerRange(2, 4), LayerRange(3, 4)),
    ]
    a, b = found.moves
    assert (a.loaded, a.dropped) == ((LayerRange(2, 3),), ())
    assert (b.loaded, b.dropped) == ((), (LayerRange(2, 3),))
    assert b.load_bytes == 0
    assert found.load_bytes == a.load_bytes > 0
    assert found.unchanged == 2
    changed = {"a", "b"}
    through = sum(p.tokens_per_s for p in old.paths() if changed & {hop.node for hop in p.hops})
    assert found.rerouted_tokens_per_s == pytest.approx(through)
    assert 0 < found.rerouted_share <= 1
    assert (found.flow_before, found.flow_after) == (old.flow, new.flow)


def test_a_range_that_grows_at_both_ends_loads_two_parts():
    cluster = problem(4, node("a", *[9.0] * 4), node("b", *[9.0] * 4), node("c", *[9.0] * 4))
    old = plan_of(cluster, placed(a=(1, 3), b=(0, 1), c=(3, 4)))
    new = plan_of(cluster, placed(a=(0, 4)))
    found = diff(old, new)
    assert [(move.node, move.loaded) for move in found.moves] == [
        ("b", ()),
        ("a", (LayerRange(0, 1), LayerRange(3, 4))),
        ("c", ()),
    ]
    assert found.rerouted_share == pytest.approx(1)


def test_another_machine_by_the_same_name_loads_everything():
    cluster = problem(2, node("a", 9.0), node("b", 9.0))
    old = plan_of(cluster, placed(a=(0, 1), b=(1, 2)))
    moved = old.job.nodes["b"].model_copy(update={"address": "10.0.0.9"})
    new = replace(old, job=old.job.model_copy(update={"nodes": {**old.job.nodes, "b": moved}}))
    (move,) = diff(old, new).moves
    assert move.replaced
    assert move.loaded == (LayerRange(1, 2),)
    assert move.load_bytes > 0


def test_plans_of_other_models_are_not_compared():
    old = make_plan(load_job(EXAMPLES / "single24.yaml").with_solver(name="even"))
    other = make_plan(load_job(EXAMPLES / "two-sites.yaml").with_solver(name="even"))
    with pytest.raises(PlanError) as caught:
        diff(old, other)
    assert "different models" in str(caught.value)
    assert "llama-30b" in str(caught.value)


def test_the_document_is_json_with_every_number():
    job = load_job(EXAMPLES / "single24.yaml")
    found = diff(make_plan(job.with_solver(name="even")), make_plan(job.with_solver(name="petals")))
    document = json.loads(json.dumps(diff_document(found)))
    assert document["load_bytes"] == sum(move["load_bytes"] for move in document["moves"]) > 0
    assert document["rerouted_share"] == found.rerouted_share
    assert len(document["moves"]) + document["unchanged"] >= len(job.nodes)
