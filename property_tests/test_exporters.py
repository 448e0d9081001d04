"""Exports of random plans: exact, or refused with a reason."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from helix_df.errors import PlanError
from helix_df.exporters.api import Export
from helix_df.exporters.registry import TARGETS, export_plan
from helix_df.graph.problem import Placement, Problem
from helix_df.plan.plan import Plan
from property_tests.strategies import placed_problems
from tests.explain.plans import plan_of


def exported_or_refused(plan: Plan, target: str) -> Export | PlanError:
    try:
        return export_plan(plan, target)
    except PlanError as error:
        return error


@given(placed_problems(max_nodes=4, max_layers=4))
def test_a_plan_is_exported_exactly_or_refused_with_a_reason(placed: tuple[Problem, Placement]) -> None:
    problem, placement = placed
    plan = plan_of(problem, placement)
    one_pipeline = len(plan.paths()) == 1 and all(hop.layers == placement[hop.node] for hop in plan.paths()[0].hops)
    for target in sorted(TARGETS.keys() - {"kubernetes", "helm"}):
        exported = exported_or_refused(plan, target)
        if isinstance(exported, PlanError):
            assert exported.found
            assert not one_pipeline
            continue
        busy = {edge.head for edge in plan.edges}
        assert {name for command in exported.commands for name in command.nodes} == busy & placement.keys()
        if target == "vllm":
            counts = [int(count) for count in str(exported.facts["VLLM_PP_LAYER_PARTITION"]).split(",")]
            assert sum(counts) == problem.num_layers
            assert len(counts) == exported.facts["pipeline_parallel_size"]
        if target == "llama.cpp":
            split = exported.facts["tensor_split"]
            assert isinstance(split, list)
            assert sum(split) == problem.num_layers + 1
        if target != "parallax":
            assert one_pipeline


@given(placed_problems(max_nodes=4, max_layers=4), st.booleans())
def test_manifests_have_a_pod_for_each_stage_or_the_plan_is_refused_with_a_reason(
    placed: tuple[Problem, Placement], allow_anyone: bool
) -> None:
    plan = plan_of(*placed)
    job = plan.job.model_dump(mode="json")
    job["runtime"]["allow_anyone"] = allow_anyone
    plan = replace(plan, job=type(plan.job).model_validate(job))
    exported = exported_or_refused(plan, "kubernetes")
    assert isinstance(exported, PlanError) != allow_anyone
    if isinstance(exported, PlanError):
        assert exported.found
        assert exported.where == "runtime.api_keys"
        return
    objects = exported.facts["objects"]
    assert isinstance(objects, list)
    pods = [it["spec"]["replicas"] for it in objects if it["kind"] == "StatefulSet"]
    assert sum(pods) == 1 + len(plan.stages)
