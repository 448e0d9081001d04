"""A plan for a job that has lost nodes: near the one that runs, and worth what it makes workers load.

A process of its own, ``python -m helix_df.what_if.without_nodes``, which reads the plans' files.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from helix_df.plan.plan import Plan, read_plan
from helix_df.what_if.worthwhile import NICE, WorthwhilePlan, keeping_others, worthwhile_plan, write_if_found

WORTH = 1.01
"""A plan must serve so many times what is left of the one that runs."""


def plan_without(wanted: Plan, running: Plan, lost: Collection[str], most_bytes: int | None = None) -> WorthwhilePlan:
    """The best plan of a job near the one that runs, without the nodes that were lost.

    Layers move among nodes whose workers are started by this machine alone.

    Args:
        wanted: the plan of the job with all its nodes, whose rules stay.
        running: what runs.
        lost: nodes to do without.
        most_bytes: of weights that workers may load; those of the model if None.

    Raises:
        Infeasible, SolverError, ModelError: as ``worthwhile_plan``.
    """
    job = keeping_others(wanted.served, wanted, running, lost)
    return worthwhile_plan(job, running, WORTH, lost=lost, most_bytes=most_bytes)


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``write_if_found``."""
    parser = argparse.ArgumentParser(prog="helix_df.what_if.without_nodes", description="Plans a job without nodes.")
    parser.add_argument("wanted", type=Path)
    parser.add_argument("running", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--without", action="append", default=[], metavar="NODE")
    parser.add_argument("--most-bytes", type=int)
    given = parser.parse_args(arguments)
    return write_if_found(
        lambda: plan_without(read_plan(given.wanted), read_plan(given.running), given.without, given.most_bytes),
        given.out,
    )


if __name__ == "__main__":
    os.nice(NICE)
    sys.exit(main())
