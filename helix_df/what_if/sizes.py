"""Plans of a job for fewer of its nodes that come and go: a ladder of sizes, each plan near the one beside it.

Owns the order in which they are made. A process of its own, ``python -m helix_df.what_if.sizes``, since who
serves must not search: it writes each plan as soon as there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from helix_df.errors import HelixError, Infeasible
from helix_df.plan.diff import stay_near
from helix_df.plan.plan import Plan, read_plan, write_plan
from helix_df.plan.sizes import size_of, sized, sizes
from helix_df.planning import make_plan
from helix_df.solvers.choice import weighs_moves
from helix_df.solvers.registry import get_solver

MOVE_PRICE = 1.0
"""Tokens/s that each GiB of weights to load must gain, as where a job is applied over one that runs."""

NICE = 10
"""Whoever serves comes first."""


def plan_sizes(plan: Plan) -> Iterator[tuple[int, Plan | str]]:
    """Each size with its plan, or why there is none: those beside the plan's own first, then further away.

    Raises:
        ModelError, SolverError: as ``make_plan``.
    """
    job, own = plan.job, size_of(plan.job)
    found = {own: plan}
    for size in sorted(sizes(job), key=lambda one: (abs(one - own), one)):
        if size == own:
            yield own, plan
            continue
        wanted = sized(job, size)
        beside = found[min(found, key=lambda one: abs(one - size))]
        near = stay_near(beside, wanted, MOVE_PRICE) if weighs_moves(get_solver(job.solver.name)) else None
        try:
            found[size] = make_plan(wanted, near=near)
        except Infeasible as error:
            yield size, error.problem
            continue
        yield size, found[size]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line of JSON for each size as its plan is written: its tokens/s, or why there is none."""
    parser = argparse.ArgumentParser(prog="helix_df.what_if.sizes", description="Plans a job for fewer of its nodes.")
    parser.add_argument("plan", type=Path)
    parser.add_argument("out", type=Path, help="a folder, for plans called SIZE.json")
    options = parser.parse_args(arguments)
    try:
        for size, found in plan_sizes(read_plan(options.plan)):
            if isinstance(found, Plan):
                write_plan(found, options.out / f"{size}.json")
                _say({"size": size, "serves": found.flow})
            else:
                _say({"size": size, "why": found})
    except HelixError as error:
        _say({"why": error.problem if error.found is None else f"{error.problem}: {error.found}"})
    return 0


def _say(document: dict[str, float | str]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.nice(NICE)
    sys.exit(main())
