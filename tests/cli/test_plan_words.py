"""What the summary of a plan says of its bound: never two truths in one header."""

from __future__ import annotations

from dataclasses import replace

from helix_df.cli.plan_table import _bound
from helix_df.load import parse_job
from helix_df.plan.violations import violations
from helix_df.planning import make_plan

UNREACHED = """
model: {source: 'random:tiny'}
nodes:
  a: {gpu: L4, region: r}
  b: {gpu: L4, region: s}
  c: {gpu: L4, region: s}
coordinator: {region: r}
links:
  regions:
  - {between: [r, r], bandwidth: 1Gbps}
  - {between: [s, s], bandwidth: 1Gbps}
"""


def test_what_the_search_proved_comes_before_what_the_certificate_proves() -> None:
    plan = make_plan(parse_job(UNREACHED))
    assert plan.solver.reason == "optimal"
    weaker = replace(plan, certificate=replace(plan.certificate, bound=2 * plan.flow))
    words = _bound(weaker)
    assert words.startswith(_bound(replace(plan, certificate=replace(plan.certificate, bound=plan.flow))).split(" ")[0])
    assert "as the solver's search says; gap 0.0%" in words
    assert "50.0% by the certificate alone" in words


def test_nodes_that_the_coordinator_cannot_reach_serve_nothing() -> None:
    plan = make_plan(parse_job(UNREACHED))
    assert plan.gap < 1e-9
    assert violations(plan) == []


def test_a_certificate_that_says_as_much_stands_alone() -> None:
    plan = make_plan(parse_job(UNREACHED))
    same = replace(plan, certificate=replace(plan.certificate, bound=plan.flow))
    assert _bound(same).endswith("is the most any placement can have; gap 0.0%")
    unsaid = replace(same, solver=replace(plan.solver, bound=None))
    assert _bound(unsaid) == _bound(same)
