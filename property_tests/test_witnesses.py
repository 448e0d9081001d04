"""Witnesses of bounds: an honest one proves what was found, and no other proves too much."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helix_df.errors import PlanError
from helix_df.graph.bounds import all_bounds, best_bound
from helix_df.graph.limits import broken_limits
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.graph.witness import (
    LayerCovering,
    LimitedCovering,
    LinkedCovering,
    NodePrices,
    SiteShares,
    Witness,
    read_witness,
    witness_document,
)
from helix_df.plan.plan import from_document, to_document
from helix_df.plan.violations import violations
from property_tests.brute_force import all_placements, placement_count
from property_tests.strategies import limited_problems, placements, problems
from property_tests.test_priced_covering import split_clusters
from tests.explain.plans import placed, plan_of
from tests.problems import node, problem

ROUNDING = 1e-9
ABSOLUTE = 1e-6
"""Tokens/s: the resolution of a flow."""

every_problem = st.one_of(problems(), limited_problems(), split_clusters(8, 8))
tiny = st.one_of(problems(max_nodes=3, max_layers=3), limited_problems(max_nodes=3, max_layers=3), split_clusters(3, 3))
numbers = st.one_of(
    st.floats(0, 3000), st.sampled_from((0.0, -1.0, 1e-300, 1e300, math.inf, math.nan)), st.floats(allow_nan=True)
)


@given(every_problem)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_evaluation_gives_the_bound_that_was_found(problem: Problem) -> None:
    for bound in all_bounds(problem):
        assert bound.witness.evaluate(problem) == pytest.approx(bound.bound, rel=1e-12, abs=0)
        text = json.dumps(witness_document(bound.witness))
        assert read_witness(bound.kind, json.loads(text)) == bound.witness


def best_allowed(problem: Problem) -> float:
    """The most flow of any placement that keeps the limits."""
    flows = [placement_flow(problem, one).value for one in all_placements(problem) if not broken_limits(problem, one)]
    return max(flows, default=0.0)


@given(tiny)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_no_placement_beats_an_evaluation(problem: Problem) -> None:
    assume(placement_count(problem) <= 1000)
    best = best_allowed(problem)
    for bound in all_bounds(problem):
        assert best <= bound.witness.evaluate(problem) * (1 + ROUNDING) + ABSOLUTE


@st.composite
def groups(draw: st.DrawFn, problem: Problem) -> tuple[tuple[str, ...], ...]:
    """Nodes in any groups; now and then one is missing, unknown or in two."""
    names = [node.name for node in problem.nodes]
    site = {name: draw(st.integers(0, 2)) for name in names}
    found = [[name for name in names if site[name] == group] for group in range(3)]
    match draw(st.integers(0, 9)):
        case 0:
            found[0] = found[0][1:]
        case 1:
            found[1].append("nobody")
        case 2:
            found[2] += names[:1]
    return tuple(tuple(group) for group in found)


@st.composite
def any_witness(draw: st.DrawFn, problem: Problem) -> Witness:
    """Numbers that somebody made up, or those that were found with one of them changed."""
    found = {bound.kind: bound.witness for bound in all_bounds(problem)}
    if draw(st.booleans()):
        return draw(changed(draw(st.sampled_from(list(found.values()))), problem))
    prices = st.fixed_dictionaries({node.name: numbers for node in problem.nodes if draw(st.integers(0, 5))})
    return draw(
        st.one_of(
            st.builds(LayerCovering, numbers),
            st.builds(LinkedCovering, numbers),
            st.builds(LimitedCovering, numbers, numbers, numbers),
            st.builds(SiteShares, groups(problem), st.lists(numbers, min_size=2, max_size=3).map(tuple)),
            st.builds(NodePrices, numbers, prices, groups(problem)),
        )
    )


@st.composite
def changed(draw: st.DrawFn, witness: Witness, problem: Problem) -> Witness:
    factor = draw(st.sampled_from((0.0, 0.5, 0.99, 1 - 1e-6, 1.01, 2.0, -1.0, math.nan, math.inf)))
    field = draw(st.sampled_from([field.name for field in fields(witness)]))
    value = getattr(witness, field)
    if field == "sites":
        return replace(cast(Any, witness), sites=draw(groups(problem)))
    if field == "prices":
        name = draw(st.sampled_from(sorted(value)))
        return replace(cast(Any, witness), prices={**value, name: value[name] * factor})
    if field == "alone":
        return replace(cast(Any, witness), alone=tuple(flow * factor for flow in value))
    return replace(witness, **{field: value * factor})


@given(every_problem, st.data())
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_a_made_up_witness_never_proves_too_much(problem: Problem, data: st.DataObject) -> None:
    placement: Placement = {**data.draw(placements(problem)), **problem.limits.fixed}
    assume(not broken_limits(problem, placement))
    flow = placement_flow(problem, placement).value
    proven = data.draw(any_witness(problem)).evaluate(problem)
    assert flow <= proven * (1 + ROUNDING) + ABSOLUTE


@given(tiny, st.data())
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_a_made_up_witness_proves_no_less_than_the_best_placement(problem: Problem, data: st.DataObject) -> None:
    assume(placement_count(problem) <= 500)
    best = best_allowed(problem)
    for _ in range(5):
        proven = data.draw(any_witness(problem)).evaluate(problem)
        assert best <= proven * (1 + ROUNDING) + ABSOLUTE


# ------------------------------------------------------------------ in plans


def chain(num_layers: int, *speeds: float) -> Problem:
    return problem(num_layers, *(node(f"n{i}", *speeds) for i in range(num_layers)))


def test_a_weaker_claim_passes_and_a_stronger_one_is_refused() -> None:
    given_problem = chain(2, 100.0)
    plan = plan_of(given_problem, placed(n0=(0, 1), n1=(1, 2)))
    certificate = plan.certificate

    def claimed(factor: float) -> list[str]:
        return violations(
            replace(plan, certificate=replace(certificate, bound=certificate.bound * factor)), given_problem
        )

    assert claimed(1.0) == claimed(1.01) == []
    (wrong,) = claimed(0.99)
    assert "below its own flow" in wrong


def test_a_claim_below_what_the_witness_proves_is_refused() -> None:
    given_problem = chain(2, 100.0, 30.0)
    plan = plan_of(given_problem, placed(n0=(0, 2)))
    certificate = plan.certificate
    assert certificate.bound > plan.flow * 1.1
    low = replace(plan, certificate=replace(certificate, bound=certificate.bound * 0.99))
    (wrong,) = violations(low, given_problem)
    assert "its witness (covering) proves no less than 100" in wrong


def test_a_witness_of_another_kind_or_without_proof_is_refused() -> None:
    given_problem = chain(2, 100.0, 30.0)
    plan = plan_of(given_problem, placed(n0=(0, 2)))
    other = replace(plan.certificate, witness=LinkedCovering(plan.certificate.bound))
    (wrong,) = violations(replace(plan, certificate=other), given_problem)
    assert "kinds that can be checked" in wrong
    nothing = replace(plan.certificate, kind="priced covering", witness=NodePrices(1.0, {}, ()))
    (wrong,) = violations(replace(plan, certificate=nothing), given_problem)
    assert "proves none" in wrong


def test_a_better_bound_of_a_later_release_leaves_old_plans_valid() -> None:
    """The plan claims what plain covering proves, although another kind proves less by now."""
    given_problem = problem(2, *(node(name, 29) for name in "abcde"))
    plan = plan_of(given_problem, placed(a=(0, 1), b=(1, 2)))
    best, simple = best_bound(given_problem), all_bounds(given_problem)[0]
    assert simple.bound > best.bound * 1.1
    for witness in (simple.witness, None):
        old = replace(
            plan, certificate=replace(plan.certificate, kind=simple.kind, bound=simple.bound, witness=witness)
        )
        assert violations(old, given_problem) == []


def test_an_unknown_kind_or_broken_witness_is_told_when_read() -> None:
    document = to_document(plan_of(chain(2, 100.0), placed(n0=(0, 1), n1=(1, 2))))
    assert from_document(document).certificate.witness is not None
    for changes in ({"kind": "oath"}, {"witness": {"flow": "much"}}, {"witness": {}}):
        with pytest.raises(PlanError, match=r"certificate|witness"):
            from_document({**document, "certificate": {**document["certificate"], **changes}})
