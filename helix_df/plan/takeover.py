"""A plan that takes over from one that runs: which workers stay, which come beside them, and what the job is meanwhile.

A node whose worker can't serve the new plan as it is gets a second worker beside the first, under a name of its own, so
that both can be told apart until the first has nothing left to do. Pure: doesn't know sockets, requests or processes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Any

from helix_df.errors import DeploymentError
from helix_df.graph.held_weights import known_weights
from helix_df.layers import LayerRange
from helix_df.plan.moves import load_bytes
from helix_df.plan.plan import Plan, Stage
from helix_df.spec.addresses import host_of
from helix_df.spec.job import Job, Limits, Links, PairLink
from helix_df.spec.nodes import Node

APPLIED = frozenset(
    {
        "kv_high_water",
        "expected_output",
        "max_batch",
        "max_prefill_tokens",
        "micro_batches",
        "shortest_first",
        "max_queue",
        "scheduler",
        "speculation",
        "start_timeout",
        "request_timeout",
        "path_timeout",
        "lost_after",
        "replan_after",
        "replan_bytes",
        "replan_speeds",
    }
)
"""Fields of ``runtime`` that a running job takes over; others need it to be started anew."""

OF_WORKERS = ("max_batch", "max_prefill_tokens", "event_log", "emulate", "attention")
"""Fields of ``runtime`` that a worker goes by from its start on."""


@dataclass(frozen=True, slots=True)
class Spare:
    """The worker of a node that was lost, and that the plan which runs does without: it may come back as it was.

    ``stage`` is what it holds, under its own name; ``job`` the one it was told of, as it was served.
    """

    stage: Stage
    job: Job


@dataclass(frozen=True, slots=True)
class Takeover:
    """How a plan takes over.

    ``plan`` is the new one with its nodes under the names of their workers, ``names`` says which node has which;
    ``coming`` are those that have to be started. ``job`` names the nodes of both plans, with all their links.
    ``spares`` are workers by the nodes that the new plan does without until they are back.
    """

    plan: Plan
    names: Mapping[str, str]
    coming: tuple[str, ...]
    job: Job
    spares: Mapping[str, Spare]

    @property
    def load_bytes(self) -> int:
        """Bytes that the workers which have to be started load: each all of its layers, whatever its node holds now."""
        geometry, element_bytes = self.plan.geometry, self.plan.job.model.element_bytes
        weights = known_weights(self.plan.job, geometry)
        coming = [stage for stage in self.plan.stages if stage.node in self.coming]
        return sum(load_bytes(None, stage.layers, geometry, element_bytes, weights) for stage in coming)


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A plan with its nodes under the names of their workers, which node's worker has which name, and who is spare."""

    plan: Plan
    names: Mapping[str, str]
    spares: Mapping[str, Spare] = field(default_factory=dict)


def takeover(
    running: Plan,
    names: Mapping[str, str],
    new: Plan,
    taken: Collection[str],
    spares: Mapping[str, Spare] | None = None,
    without: Collection[str] = (),
) -> Takeover:
    """How ``new`` takes over from ``running``.

    Args:
        running: the plan that runs, with its nodes under the names of their workers.
        names: the worker of each of its nodes.
        new: the plan that is to run.
        taken: names that workers have, or ever had.
        spares: workers of nodes that ``running`` does without.
        without: nodes that ``new`` does without until they are back.

    Raises:
        DeploymentError: when the two differ in something that only a new start can change.
    """
    require_changeable(running.job, new.job)
    spares = spares or {}
    stays = {node: name for node, name in names.items() if _stays(_held(running, name), new, node)}
    stays |= {node: spare.stage.node for node, spare in spares.items() if _stays(spare, new, node)}
    known = {*running.job.nodes, *new.job.nodes, *taken}
    found = {
        node: stays[node]
        if node in stays
        else _free_name(node, known)
        if node in taken or running.job.nodes.get(node, declared) != declared
        else node
        for node, declared in new.job.nodes.items()
    }
    plan = renamed(new, found)
    coming = tuple(found[stage.node] for stage in new.stages if stage.node not in stays)
    held = {node: spares.get(node) or _held(running, names[node]) for node in without}
    left = {node: spare for node, spare in held.items() if spare is not None}
    return Takeover(plan, found, coming, both(running.job, plan.job), left)


def takeover_of_plans(running: Plan, new: Plan) -> Takeover:
    """The same for two plans as they were made, whose nodes' workers have their names.

    Raises:
        DeploymentError: as ``takeover``.
    """
    names = {stage.node: stage.node for stage in running.stages}
    return takeover(running, names, new, names)


def spares_document(spares: Mapping[str, Spare]) -> dict[str, Any]:
    """Spare workers by their nodes as a JSON document."""
    return {
        node: {"stage": asdict(spare.stage), "job": spare.job.model_dump(mode="json", exclude_none=True)}
        for node, spare in spares.items()
    }


def read_spares(document: Mapping[str, Any]) -> dict[str, Spare]:
    """What ``spares_document`` made.

    Raises:
        ValueError, TypeError, KeyError: when it isn't that.
    """
    return {
        node: Spare(
            Stage(**{**one["stage"], "layers": LayerRange(**one["stage"]["layers"])}), Job.model_validate(one["job"])
        )
        for node, one in document.items()
    }


def require_changeable(running: Job, new: Job) -> None:
    """Make sure that a job can become another while it runs.

    Raises:
        DeploymentError: with the fields that only a new start can change.
    """
    fields = [
        *(field for field in ("model", "coordinator", "launchers") if getattr(running, field) != getattr(new, field)),
        *(
            f"runtime.{field}"
            for field in type(new.runtime).model_fields
            if field not in APPLIED and getattr(running.runtime, field) != getattr(new.runtime, field)
        ),
    ]
    if fields:
        raise DeploymentError(
            f"job {new.name} can't become this one while it runs",
            found=f"another {', '.join(fields)}",
            hint=f"`helix-df down {new.name}` first; `--name` runs this one beside it",
        )


def renamed(plan: Plan, names: Mapping[str, str]) -> Plan:
    """The same plan with its nodes, those with layers and all others, under other names.

    Limits that name nodes are left out of its job: they have done their part.
    """
    job = plan.job
    here = {**{node: node for node in job.nodes}, **names}
    # A second worker on a host can't have the first one's port.
    nodes = {
        name: declared if name == node else declared.model_copy(update={"address": _host(declared)})
        for node, name in here.items()
        for declared in (job.nodes[node],)
    }
    links = Links(
        default=job.links.default,
        regions=job.links.regions,
        nodes=tuple(_between(link, here) for link in job.links.nodes),
    )
    return replace(
        plan,
        job=job.model_copy(update={"nodes": nodes, "links": links, "limits": Limits()}),
        stages=tuple(replace(stage, node=here[stage.node]) for stage in plan.stages),
        edges=tuple(
            replace(edge, tail=here.get(edge.tail, edge.tail), head=here.get(edge.head, edge.head))
            for edge in plan.edges
        ),
    )


def both(running: Job, new: Job) -> Job:
    """A job with the nodes of two, the links of the new one, and those of the other that name its own nodes."""
    gone: dict[str, Node] = {name: node for name, node in running.nodes.items() if name not in new.nodes}
    kept = tuple(link for link in running.links.nodes if any(end in gone for end in link.between))
    links = new.links.model_copy(update={"nodes": (*new.links.nodes, *kept)})
    gpus = {**running.gpus, **new.gpus}
    return new.model_copy(update={"nodes": {**gone, **new.nodes}, "links": links, "gpus": gpus})


def _held(running: Plan, name: str) -> Spare | None:
    """What a worker of a plan that runs holds, if it holds layers."""
    stage = next((stage for stage in running.stages if stage.node == name), None)
    return None if stage is None else Spare(stage, running.served)


def _stays(worker: Spare | None, new: Plan, node: str) -> bool:
    """Whether the worker of a node can serve the new plan as it is."""
    after = next((stage for stage in new.stages if stage.node == node), None)
    if worker is None or after is None:
        return False
    before, job = worker.stage, worker.job
    one, other = job.nodes[before.node], new.job.nodes[node]
    return (
        (before.layers, before.kv_tokens, before.kv_shape) == (after.layers, after.kv_tokens, after.kv_shape)
        and _as_served(one, job) == _as_served(other, new.job)
        and _host(one) == _host(other)
        and job.gpus.get(one.gpu) == new.job.gpus.get(other.gpu)
        and all(getattr(job.runtime, it) == getattr(new.served.runtime, it) for it in OF_WORKERS)
    )


def _as_served(node: Node, job: Job) -> Node:
    """A node as its worker goes by it: an address is compared by host, and a speed counts where it is emulated."""
    speed = node.speed if job.runtime.emulate else 1.0
    return node.model_copy(update={"address": None, "speed": speed})


def _host(node: Node) -> str | None:
    return None if node.address is None else host_of(node.address)


def _free_name(node: str, taken: Iterable[str]) -> str:
    known = set(taken)
    return next(name for name in (f"{node}.{number}" for number in count(2)) if name not in known)


def _between(link: PairLink, names: Mapping[str, str]) -> PairLink:
    one, other = link.between
    return link.model_copy(update={"between": (names.get(one, one), names.get(other, other))})
