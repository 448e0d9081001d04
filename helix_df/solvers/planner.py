"""A solver's placement, judged: checked before it is used, and its flow is what the exact max flow says.

Owns the distrust. Doesn't know how any solver works. Nodes that the solver placed and that carry no
flow stay in the plan: they hold layers that requests may need when another node is busy or gone.
"""

from __future__ import annotations

from typing import NamedTuple

from helix_df.errors import Infeasible, SolverError
from helix_df.graph.even_flow import PLANNED, spread_flow
from helix_df.graph.feasibility import explain_infeasible, explain_no_flow
from helix_df.graph.flow import Flow
from helix_df.graph.limits import broken_limits
from helix_df.graph.problem import Placement, Problem
from helix_df.layers import LayerRange
from helix_df.plan.goodput import Generated
from helix_df.plan.serving import ServingRules
from helix_df.solvers.api import SolveOptions, Solver, SolveResult, Termination, Watch

MOST_BROKEN = 3
"""Broken limits that a message lists."""


class Judged(NamedTuple):
    """A checked placement, its exact maximum flow above 0, spread, why the solver stopped, rules to serve by, and what
    it generates where the solver has simulated it."""

    placement: Placement
    flow: Flow
    termination: Termination
    rules: ServingRules | None
    generated: Generated | None = None


def solve_problem(problem: Problem, solver: Solver, options: SolveOptions, watch: Watch) -> Judged:
    """What a solver finds, judged.

    Raises:
        Infeasible: when the model can't be served on the nodes, or nothing was found that serves it; says why.
        SolverError: for an option that the solver doesn't know, or a solver that broke its contract.
    """
    impossible = explain_infeasible(problem)
    if impossible is not None:
        raise impossible
    result = solver.solve(problem, options, watch)
    if not isinstance(result, SolveResult):
        raise SolverError(
            f"the solver {solver.name} broke its contract", found=type(result).__name__, expected="a SolveResult"
        )
    if result.placement is None:
        raise _no_placement(solver, result.termination)
    check_placement(problem, result.placement, solver.name)
    broken = broken_limits(problem, result.placement)
    if broken:
        raise _breaks_limits(solver.name, broken)
    flow = spread_flow(problem, result.placement, result.spread or PLANNED)
    if flow.value <= 0:
        raise explain_no_flow(problem, result.placement)
    return Judged(dict(result.placement), flow, result.termination, result.rules, result.generated)


def _breaks_limits(solver: str, broken: list[str]) -> Infeasible:
    rest = f"; and {len(broken) - MOST_BROKEN} more" if len(broken) > MOST_BROKEN else ""
    return Infeasible(
        f"the placement that {solver} found doesn't keep the limits",
        where="limits",
        found="; ".join(broken[:MOST_BROKEN]) + rest,
        hint="the solver auto or cover" if solver not in ("auto", "cover") else "looser limits, or more time",
    )


def _no_placement(solver: Solver, termination: Termination) -> Infeasible:
    proven = termination.reason == "infeasible"
    return Infeasible(
        "no placement can serve the model" if proven else f"the solver {solver.name} found no placement",
        where="solver.name",
        found=termination.detail or termination.limit or termination.reason,
        hint=None if proven else "more time, or looser limits" if solver.name == "auto" else "the solver auto",
    )


def check_placement(problem: Problem, placement: Placement, solver: str) -> None:
    """That every range of a placement belongs to a node, lies inside the model and fits.

    Raises:
        SolverError: naming the solver and all that is wrong.
    """
    limits = {node.name: node.max_layers for node in problem.nodes}
    wrong = []
    for name, layers in placement.items():
        if name not in limits:
            wrong.append(f"{name} is not a node")
        elif not isinstance(layers, LayerRange):
            wrong.append(f"{name} holds {layers!r}, not a LayerRange")  # type: ignore[unreachable]
        elif layers.stop > problem.num_layers:
            wrong.append(f"{name} holds {layers}, beyond layer {problem.num_layers}")
        elif len(layers) > limits[name]:
            wrong.append(f"{name} holds {len(layers)} layers, but {limits[name]} fit")
    if wrong:
        raise SolverError(
            f"the solver {solver} broke its contract: its placement can't be",
            found="; ".join(wrong),
            expected=f"ranges within [0, {problem.num_layers}) that fit on their nodes",
            hint="this is a bug of the solver; use another",
        )
