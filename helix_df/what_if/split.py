"""One fleet as several jobs over nodes of their own, each with a coordinator: for more than one of them passes on.

Nodes that are alike are dealt out evenly, so that the jobs serve about the same and one balancer in front of them needs
to know nothing. Owns who gets which node. Doesn't know how jobs are run.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from helix_df.errors import Infeasible, SpecError
from helix_df.graph.compile import compile_problem
from helix_df.plan.plan import Plan
from helix_df.planning import make_plan
from helix_df.spec.addresses import split_address
from helix_df.spec.job import Job
from helix_df.spec.nodes import Node
from helix_df.what_if.changes import RemoveNode, changed


@dataclass(frozen=True, slots=True)
class SplitFleet:
    """The plan of each of the jobs, and that of one job with all nodes."""

    parts: tuple[Plan, ...]
    whole: Plan

    @property
    def flow(self) -> float:
        """Tokens/s of all of them together."""
        return sum(part.flow for part in self.parts)


def split_fleet(job: Job, count: int) -> SplitFleet:
    """Plan a fleet as one job and as ``count`` jobs.

    Raises:
        SpecError: for fewer than two parts, or more than nodes.
        Infeasible: when a part can't hold the model.
        SolverError, ModelError: as ``make_plan``.
    """
    jobs = parted(job, count)
    parts = tuple(_planned(part, number, count) for number, part in enumerate(jobs, start=1))
    return SplitFleet(parts, make_plan(job))


def parted(job: Job, count: int) -> tuple[Job, ...]:
    """The fleet as ``count`` jobs with names and ports of their own.

    Raises:
        SpecError: for fewer than two parts, or more than nodes.
    """
    if not 2 <= count <= len(job.nodes):
        raise SpecError(
            "a fleet can't be split into so many jobs",
            where="--parts",
            found=count,
            expected=f"2 to {len(job.nodes)}, the nodes of the job" if len(job.nodes) > 1 else "a job of several nodes",
        )
    part_of = _dealt(job, count)
    found = []
    for part in range(count):
        others = [RemoveNode(name) for name in job.nodes if part_of[name] != part]
        found.append(_apart(changed(job, others), part))
    return tuple(found)


def part_yaml(part: Job) -> str:
    """A job file with the nodes of a part, and all else that the whole job says."""
    document = part.model_dump(mode="json", exclude_unset=True)
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return text


def _dealt(job: Job, count: int) -> dict[str, int]:
    """Which part each node goes to: the one with least so far of what it can do, kind by kind, the fastest first."""
    problem = compile_problem(job)
    fastest = {node.name: max(node.tokens_per_s, default=0.0) * max(1, node.max_layers) for node in problem.nodes}
    kinds: dict[str, list[str]] = {}
    for name, node in job.nodes.items():
        kinds.setdefault(_kind(node), []).append(name)
    sums = [0.0] * count
    found = {}
    for names in sorted(kinds.values(), key=lambda names: (-fastest[names[0]], names[0])):
        nodes = [0] * count
        for name in names:
            part = min(range(count), key=lambda part: (nodes[part], sums[part], part))
            nodes[part] += 1
            sums[part] += fastest[name]
            found[name] = part
    return found


def _kind(node: Node) -> str:
    """What nodes have in common that are alike."""
    return node.model_copy(update={"address": None}).model_dump_json()


def _apart(job: Job, part: int) -> Job:
    """A part under a name of its own, and at ports that the others don't have."""
    host, port = split_address(job.coordinator.address)
    coordinator = job.coordinator
    if port is not None:
        coordinator = coordinator.model_copy(update={"address": f"{host}:{int(port) + part}"})
    runtime = job.runtime
    if runtime.port:
        runtime = runtime.model_copy(update={"port": runtime.port + part})
    return job.model_copy(update={"name": f"{job.name}-{part + 1}", "coordinator": coordinator, "runtime": runtime})


def _planned(job: Job, number: int, count: int) -> Plan:
    try:
        return make_plan(job)
    except Infeasible as error:
        raise Infeasible(
            f"part {number} of {count} can't serve the model by itself: {error.problem}",
            where=error.where,
            found=error.found,
            expected=error.expected,
            hint="fewer parts",
        ) from error
