"""A plan for a job that has lost nodes: near the one that runs, and worth what it makes workers load.

Owns when such a plan is worth it. A process of its own, ``python -m helix_df.what_if.without_nodes``, since who serves
must not search: it reads the plans' files and says in a line of JSON what it has found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from helix_df.errors import HelixError, Infeasible
from helix_df.graph.compile import compile_problem
from helix_df.graph.held_weights import known_weights
from helix_df.graph.max_flow import placement_flow
from helix_df.layers import LayerRange
from helix_df.plan.diff import PlanDiff, diff, stay_near
from helix_df.plan.moves import load_bytes
from helix_df.plan.plan import Plan, read_plan, write_plan
from helix_df.plan.takeover import takeover_of_plans
from helix_df.planning import make_plan
from helix_df.solvers.choice import weighs_moves
from helix_df.solvers.registry import get_solver
from helix_df.spec.job import Job

PRICES = (1.0, 100.0, 10_000.0)
"""Tokens/s that each GiB of weights to load must gain: the next one where a plan would load too much."""

WORTH = 1.01
"""A plan must serve so many times what is left of the one that runs."""

NICE = 10
"""Whoever serves comes first."""


@dataclass(frozen=True, slots=True)
class PlanWithout:
    """A plan without some nodes, what it changes, what workers load for it (bytes), and the tokens/s that are left
    without it."""

    plan: Plan
    changes: PlanDiff
    loaded_bytes: int
    left: float

    def __str__(self) -> str:
        moves = ", ".join(f"{move.node} {_words(move.old)} → {_words(move.new)}" for move in self.changes.moves)
        load = f"{self.loaded_bytes / 1e6:.3g} MB to load"
        return f"{moves}; {load}; {self.plan.flow:.4g} tokens/s instead of {self.left:.4g}"


def plan_without(wanted: Plan, running: Plan, lost: Collection[str], most_bytes: int | None = None) -> PlanWithout:
    """The best plan of a job near the one that runs, without the nodes that were lost.

    Layers move among nodes whose workers are started by this machine alone. A worker whose layers change is started
    anew beside the one of now, so it loads all that it is to hold.

    Args:
        wanted: the plan of the job with all its nodes, whose rules stay.
        running: what runs.
        lost: nodes to do without.
        most_bytes: of weights that workers may load; those of the model if None.

    Raises:
        Infeasible: when there is none, none that is worth it, or none that loads so little.
        SolverError, ModelError: as ``make_plan``.
    """
    job = _job_without(wanted, running, lost)
    problem = compile_problem(job)
    left = placement_flow(problem, {name: held for name, held in running.placement.items() if name not in lost}).value
    most = _model_bytes(wanted) if most_bytes is None else most_bytes
    prices: tuple[float | None, ...] = PRICES if weighs_moves(get_solver(job.solver.name)) else (None,)
    for price in prices:
        near = None if price is None else stay_near(running, job, price)
        plan = make_plan(job, problem=problem, near=near)
        loaded = takeover_of_plans(running, plan).load_bytes
        if plan.flow <= WORTH * left:
            raise Infeasible(
                "no plan without them serves more than what is left of this one", found=f"{left:.4g} tokens/s are left"
            )
        if loaded <= most:
            return PlanWithout(plan, diff(running, plan), loaded, left)
    raise Infeasible(
        "a plan without them would have workers load too much",
        found=f"{loaded / 1e6:.3g} MB",
        expected=f"{most / 1e6:.3g} MB at most",
        hint="a larger runtime.replan_bytes",
    )


def _job_without(wanted: Plan, running: Plan, lost: Collection[str]) -> Job:
    job = wanted.served
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


def _model_bytes(plan: Plan) -> int:
    weights = known_weights(plan.job, plan.geometry)
    return load_bytes(None, LayerRange(0, plan.num_layers), plan.geometry, plan.job.model.element_bytes, weights)


def _words(layers: LayerRange | None) -> str:
    return "nothing" if layers is None else str(layers)


def _say(document: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print ``{"found": …}`` once the plan is written, or ``{"why": …}`` if there is none."""
    parser = argparse.ArgumentParser(prog="helix_df.what_if.without_nodes", description="Plans a job without nodes.")
    parser.add_argument("wanted", type=Path)
    parser.add_argument("running", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--without", action="append", default=[], metavar="NODE")
    parser.add_argument("--most-bytes", type=int)
    options = parser.parse_args(arguments)
    try:
        wanted, running = read_plan(options.wanted), read_plan(options.running)
        found = plan_without(wanted, running, options.without, options.most_bytes)
        write_plan(found.plan, options.out)
    except HelixError as error:
        _say({"why": error.problem if error.found is None else f"{error.problem}: {error.found}"})
        return 0
    _say({"found": str(found)})
    return 0


if __name__ == "__main__":
    os.nice(NICE)
    sys.exit(main())
