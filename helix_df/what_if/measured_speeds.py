"""A plan for a job whose nodes are slower, or faster again, than it says: by what was measured of them.

A process of its own, ``python -m helix_df.what_if.measured_speeds``, which reads the plan's file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from helix_df.plan.plan import Plan, read_plan
from helix_df.spec.job import Job
from helix_df.what_if.worthwhile import NICE, WorthwhilePlan, keeping_others, worthwhile_plan, write_if_found

WORTH = 1.1
"""A plan must serve so many times what the one that runs really does."""


def with_speeds(job: Job, speeds: Mapping[str, float]) -> Job:
    """The job with the speeds that were measured of some nodes, shares of their GPU type's."""
    nodes = {
        name: node.model_copy(update={"speed": speeds[name]}) if name in speeds else node
        for name, node in job.nodes.items()
    }
    return job.model_copy(update={"nodes": nodes})


def plan_measured(running: Plan, speeds: Mapping[str, float], most_bytes: int | None = None) -> WorthwhilePlan:
    """The best plan near the one that runs, for nodes of the speeds that were measured.

    Args:
        running: what runs, made with other speeds.
        speeds: of some of its nodes, as ``speed`` in the job.
        most_bytes: of weights that workers may load; those of the model if None.

    Raises:
        Infeasible, SolverError, ModelError: as ``worthwhile_plan``.
    """
    job = keeping_others(with_speeds(running.served, speeds), running, running)
    return worthwhile_plan(job, running, WORTH, most_bytes=most_bytes)


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``write_if_found``."""
    parser = argparse.ArgumentParser(prog="helix_df.what_if.measured_speeds", description="Plans by measured speeds.")
    parser.add_argument("running", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--speed", action="append", default=[], metavar="NODE=SPEED")
    parser.add_argument("--most-bytes", type=int)
    given = parser.parse_args(arguments)
    speeds = {node: float(speed) for node, _, speed in (text.rpartition("=") for text in given.speed)}
    return write_if_found(lambda: plan_measured(read_plan(given.running), speeds, given.most_bytes), given.out)


if __name__ == "__main__":
    os.nice(NICE)
    sys.exit(main())
