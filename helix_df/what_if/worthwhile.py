"""A plan near the one that runs which is worth what it makes workers load; made beside who serves.

Owns when a plan is worth it, and which workers keep their layers. Why another plan is looked for is the caller's. A
process of its own makes it, since who serves must not search: it says in a line of JSON what it has found.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from helix_df.errors import HelixError, Infeasible
from helix_df.graph.compile import compile_problem
from helix_df.graph.held_weights import known_weights
from helix_df.graph.max_flow import placement_flow
from helix_df.layers import LayerRange
from helix_df.plan.diff import PlanDiff, diff, stay_near
from helix_df.plan.moves import load_bytes
from helix_df.plan.plan import Plan, write_plan
from helix_df.plan.takeover import takeover_of_plans
from helix_df.planning import make_plan
from helix_df.solvers.choice import weighs_moves
from helix_df.solvers.registry import get_solver
from helix_df.spec.job import Job

PRICES = (1.0, 10.0, 100.0, 10_000.0)
"""Tokens/s that each GiB of weights to load must gain: the next one where a plan would load too much."""

NICE = 10
"""Whoever serves comes first."""


@dataclass(frozen=True, slots=True)
class WorthwhilePlan:
    """A plan, what it changes, what workers load for it (bytes), and the tokens/s that the one that runs serves by
    now."""

    plan: Plan
    changes: PlanDiff
    loaded_bytes: int
    left: float

    def __str__(self) -> str:
        moved = ", ".join(f"{move.node} {_words(move.old)} → {_words(move.new)}" for move in self.changes.moves)
        load = f"{self.loaded_bytes / 1e6:.3g} MB to load"
        served = f"{self.plan.flow:.4g} tokens/s instead of {self.left:.4g}"
        return f"{moved or 'requests take other ways'}; {load}; {served}"


def worthwhile_plan(
    job: Job,
    running: Plan,
    worth: float,
    *,
    lost: Collection[str] = (),
    most_bytes: int | None = None,
    left: float | None = None,
) -> WorthwhilePlan:
    """The best plan of a job near the one that runs, if it is worth it.

    A worker whose layers change is started anew beside the one of now, so it loads all that it is to hold.

    Args:
        job: as it is by now.
        running: what runs.
        worth: how many times what is left of the plan that runs another one must serve.
        lost: nodes of the plan that runs which serve nothing any more.
        most_bytes: of weights that workers may load; those of the model if None.
        left: tokens/s that the one that runs serves by now; if None, those of its placement's maximum flow.

    Raises:
        Infeasible: when there is none, none that is worth it, or none that loads so little.
        SolverError, ModelError: as ``make_plan``.
    """
    problem = compile_problem(job)
    if left is None:
        holds = {name: held for name, held in running.placement.items() if name not in lost}
        left = placement_flow(problem, holds).value
    most = model_bytes(running) if most_bytes is None else most_bytes
    prices: tuple[float | None, ...] = PRICES if weighs_moves(get_solver(job.solver.name)) else (None,)
    least: int | None = None
    for price in prices:
        near = None if price is None else stay_near(running, job, price)
        plan = make_plan(job, problem=problem, near=near)
        loaded = takeover_of_plans(running, plan).load_bytes
        if plan.flow <= worth * left:
            break
        if loaded <= most:
            return WorthwhilePlan(plan, diff(running, plan), loaded, left)
        least = loaded if least is None else min(least, loaded)
    if least is None:
        raise Infeasible(
            "no other plan serves more than what is left of this one", found=f"{left:.4g} tokens/s are left"
        )
    raise Infeasible(
        "another plan would have workers load too much",
        found=f"{least / 1e6:.3g} MB",
        expected=f"{most / 1e6:.3g} MB at most",
        hint="a larger runtime.replan_bytes",
    )


def keeping_others(job: Job, wanted: Plan, running: Plan, lost: Collection[str] = ()) -> Job:
    """The job in which the nodes keep their layers whose workers people start, and ``lost`` ones are left out."""
    by_hand = {name for name, node in job.nodes.items() if node.started_by == "external" and name not in lost}
    held = {**wanted.placement, **running.placement}
    limits = job.limits
    changed = limits.model_copy(
        update={
            "use": tuple(name for name in limits.use if name not in lost),
            "avoid": tuple(dict.fromkeys([*limits.avoid, *lost, *sorted(by_hand - held.keys())])),
            "pin": {
                **{name: layers for name, layers in limits.pin.items() if name not in lost},
                **{name: (held[name].start, held[name].stop) for name in sorted(by_hand & held.keys())},
            },
        }
    )
    return job.model_copy(update={"limits": changed})


def model_bytes(plan: Plan) -> int:
    """Bytes of all weights of a plan's model."""
    weights = known_weights(plan.job, plan.geometry)
    return load_bytes(None, LayerRange(0, plan.num_layers), plan.geometry, plan.job.model.element_bytes, weights)


def write_if_found(find: Callable[[], WorthwhilePlan], out: Path) -> int:
    """Print ``{"found": …}`` once the plan is written, or ``{"why": …}`` if there is none."""
    try:
        found = find()
        write_plan(found.plan, out)
    except HelixError as error:
        _say({"why": error.problem if error.found is None else f"{error.problem}: {error.found}"})
        return 0
    _say({"found": str(found)})
    return 0


def _words(layers: LayerRange | None) -> str:
    return "nothing" if layers is None else str(layers)


def _say(document: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
