"""A plan for a job whose nodes or links are slower, or faster again, than it says: by what was measured of them.

A process of its own, ``python -m helix_df.what_if.measured_speeds``, which reads the plan's file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from helix_df.graph.compile import compile_problem
from helix_df.graph.problem import Problem
from helix_df.plan.plan import Plan, read_plan
from helix_df.rules.schedulers.registry import follows_flow
from helix_df.spec.job import Job
from helix_df.what_if.changes import SetLink, with_node_link
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


def with_links(job: Job, links: Iterable[SetLink]) -> Job:
    """The job with the links that were measured between some nodes."""
    for link in links:
        job = with_node_link(job, link)
    return job


def served_by_shares(problem: Problem, plan: Plan) -> float:
    """Tokens/s that a plan serves whose nodes and links are others by now, as long as each hop gets the share of all
    requests that it was planned to get: what is slowest holds up all."""
    through: dict[str, float] = {}
    rates = []
    for edge in plan.edges:
        through[edge.head] = through.get(edge.head, 0.0) + edge.tokens_per_s
        rates.append((problem.link_capacity(edge.tail, edge.head), edge.tokens_per_s))
    for name, held in plan.placement.items():
        rates.append((problem.node_capacity(problem.node(name), len(held)), through.get(name, 0.0)))
    return plan.flow * min((capacity / used for capacity, used in rates if used > capacity), default=1.0)


def plan_measured(
    running: Plan, speeds: Mapping[str, float], most_bytes: int | None = None, links: Iterable[SetLink] = ()
) -> WorthwhilePlan:
    """The best plan near the one that runs, for nodes and links as they were measured.

    Args:
        running: what runs, made with other speeds.
        speeds: of some of its nodes, as ``speed`` in the job.
        most_bytes: of weights that workers may load; those of the model if None.
        links: between some of its nodes.

    Raises:
        Infeasible, SolverError, ModelError: as ``worthwhile_plan``.
    """
    job = keeping_others(with_links(with_speeds(running.served, speeds), links), running, running)
    shares = follows_flow(running.served.runtime.scheduler)
    left = served_by_shares(compile_problem(job), running) if shares else None
    return worthwhile_plan(job, running, WORTH, most_bytes=most_bytes, left=left)


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``write_if_found``."""
    parser = argparse.ArgumentParser(prog="helix_df.what_if.measured_speeds", description="Plans by measured speeds.")
    parser.add_argument("running", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--speed", action="append", default=[], metavar="NODE=SPEED")
    parser.add_argument("--link", action="append", default=[], nargs=4, metavar=("TAIL", "HEAD", "BYTES/S", "S"))
    parser.add_argument("--most-bytes", type=int)
    given = parser.parse_args(arguments)
    speeds = {node: float(speed) for node, _, speed in (text.rpartition("=") for text in given.speed)}
    links = [SetLink((tail, head), float(rate), float(late), one_way=True) for tail, head, rate, late in given.link]
    return write_if_found(lambda: plan_measured(read_plan(given.running), speeds, given.most_bytes, links), given.out)


if __name__ == "__main__":
    os.nice(NICE)
    sys.exit(main())
