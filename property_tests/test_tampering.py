"""A plan that somebody changed in one place is found out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helix_df.errors import Infeasible
from helix_df.graph.flow import EdgeFlow
from helix_df.graph.problem import Problem
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from property_tests.strategies import job_for, problems

factors = st.sampled_from((-1.0, 0.0, 0.5, 0.99, 1.01, 2.0, float("nan"), float("inf")))
WEAKER = (1.01, 2.0)
"""Factors that leave a bound true."""


@st.composite
def plans(draw: st.DrawFn) -> tuple[Problem, Plan]:
    problem = draw(problems(servable=True))
    solver = draw(st.sampled_from(("even", "swarm", "petals", "separate")))
    try:
        plan = make_plan(job_for(problem, solver), problem=problem)
    except Infeasible:
        assume(False)
    assume(plan.flow > 1)
    return problem, plan


def changed(items: tuple, index: int, **fields: object) -> tuple:
    return (*items[:index], replace(items[index], **fields), *items[index + 1 :])


def numbers(plan: Plan, factor: float, at: int) -> dict[str, Plan]:
    """The plan with each kind of number multiplied."""
    stage = plan.stages[at % len(plan.stages)]
    widest = max(range(len(plan.edges)), key=lambda e: plan.edges[e].tokens_per_s)
    place = plan.stages.index(stage)
    kv_tokens = stage.kv_tokens + 1 if factor != factor or abs(factor) > 1e9 else int(stage.kv_tokens * factor) - 1
    return {
        "tokens_per_s": replace(
            plan, stages=changed(plan.stages, place, tokens_per_s=(stage.tokens_per_s + 1) * factor)
        ),
        "kv_tokens": replace(plan, stages=changed(plan.stages, place, kv_tokens=kv_tokens)),
        "flow": replace(plan, flow=plan.flow * factor),
        "edge": replace(plan, edges=changed(plan.edges, widest, tokens_per_s=plan.edges[widest].tokens_per_s * factor)),
        "cut": replace(plan, cut=replace(plan.cut, capacity=plan.cut.capacity * factor)),
        "bound": replace(plan, certificate=replace(plan.certificate, bound=plan.certificate.bound * factor)),
    }


@pytest.mark.parametrize("field", ["tokens_per_s", "kv_tokens", "flow", "edge", "cut", "bound"])
@settings(max_examples=60)
@given(made=plans(), factor=factors, at=st.integers(0, 5))
def test_a_wrong_number_is_found(field: str, made: tuple[Problem, Plan], factor: float, at: int) -> None:
    problem, plan = made
    stage = plan.stages[at % len(plan.stages)]
    assume(field != "tokens_per_s" or abs((stage.tokens_per_s + 1) * factor - stage.tokens_per_s) > 0.01)
    tampered = numbers(plan, factor, at)[field]
    assert violations(plan, problem) == []
    assert (violations(tampered, problem) != []) == (field != "bound" or factor not in WEAKER)


@settings(max_examples=60)
@given(made=plans(), factor=factors)
def test_a_bound_of_an_earlier_release_is_searched_for_again(made: tuple[Problem, Plan], factor: float) -> None:
    problem, plan = made
    bare = replace(plan, certificate=replace(plan.certificate, witness=None, bound=plan.certificate.bound * factor))
    assert (violations(bare, problem) == []) == (factor in WEAKER)


@settings(max_examples=60)
@given(made=plans(), at=st.integers(0, 5))
def test_a_wrong_structure_is_found(made: tuple[Problem, Plan], at: int) -> None:
    problem, plan = made
    place = at % len(plan.stages)
    stage = plan.stages[place]
    beyond = LayerRange(stage.layers.start, problem.num_layers + 1)
    edge = plan.edges[at % len(plan.edges)]
    assume(edge.tokens_per_s > 0.01)
    wrong = [
        replace(plan, num_layers=plan.num_layers + 1),
        replace(plan, stages=changed(plan.stages, place, node="nobody")),
        replace(plan, stages=changed(plan.stages, place, layers=beyond)),
        replace(plan, stages=(*plan.stages, stage)),
        replace(plan, stages=()),
        replace(plan, edges=()),
        replace(plan, edges=tuple(other for other in plan.edges if other != edge)),
        replace(plan, edges=(*plan.edges, edge)),
        replace(plan, edges=(*plan.edges, EdgeFlow(edge.tail, edge.tail, 1.0))),
        replace(plan, cut=replace(plan.cut, nodes=(*plan.cut.nodes, "nobody"))),
        replace(plan, cut=replace(plan.cut, links=(*plan.cut.links, ("nobody", "nobody")))),
        replace(plan, cut=replace(plan.cut, nodes=(), links=())),
        replace(plan, certificate=replace(plan.certificate, kind="oath")),
        replace(plan, solver=replace(plan.solver, bound=plan.flow / 2)),
    ]
    assert [violations(tampered, problem) != [] for tampered in wrong] == [True] * len(wrong)
