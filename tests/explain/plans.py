"""Plans of small problems by hand, for the tests of what looks at plans."""

from __future__ import annotations

from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, SolverReport, assemble
from property_tests.strategies import job_for


def plan_of(problem: Problem, placement: Placement) -> Plan:
    """The plan that some solver would have made; its job stands in for the real one."""
    report = SolverReport("mip", None, "optimal", "", None, 0.0)
    return assemble(job_for(problem, "mip"), problem, placement, placement_flow(problem, placement), report)


def placed(**ranges: tuple[int, int]) -> dict[str, LayerRange]:
    """``placed(a=(0, 4))`` is a placement."""
    return {name: LayerRange(*layers) for name, layers in ranges.items()}
