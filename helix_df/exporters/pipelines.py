"""The pipelines of a plan as other systems can run them, or why they can't.

Owns what exporters share: the stages that carry flow, the refusals that name them, and where nodes are. Doesn't know
any target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from helix_df.errors import PlanError
from helix_df.plan.plan import Plan, Stage
from helix_df.profiles.hub import hub_model
from helix_df.spec.addresses import host_of
from helix_df.spec.job import Job

PLACEHOLDER = "MODEL"
MAX_REASONS = 6
_COUNTED = re.compile(r"([1-9][0-9]?)x.+")


def linear_chain(plan: Plan, target: str) -> tuple[Stage, ...]:
    """The stages in order, if the plan's traffic runs through one pipeline of ranges that follow one another.

    Raises:
        PlanError: naming the stages that are replicated, overlap or leave a gap.
    """
    stages = sorted(busy_stages(plan), key=lambda stage: (stage.layers, stage.node))
    wrong = [*_replicated(stages), *_overlapping(stages), *_gaps(stages, plan.num_layers)]
    if wrong:
        raise refusal(
            f"{target} runs one pipeline, and this plan's traffic doesn't",
            wrong,
            expected="ranges that follow one another from the first layer to the last, each on one node",
            hint="plan fewer nodes, or with the solver even, which makes one pipeline of all",
        )
    return tuple(stages)


def refusal(problem: str, wrong: Iterable[str], expected: str, hint: str | None = None) -> PlanError:
    """The error for a plan that a target can't express."""
    reasons = list(wrong)
    more = [f"and {len(reasons) - MAX_REASONS} more"] if len(reasons) > MAX_REASONS else []
    return PlanError(
        problem, where="export", found="; ".join([*reasons[:MAX_REASONS], *more]), expected=expected, hint=hint
    )


def busy_stages(plan: Plan) -> tuple[Stage, ...]:
    """Stages that flow passes, in the order of the plan."""
    busy = {edge.head for edge in plan.edges if edge.tokens_per_s > 0}
    return tuple(stage for stage in plan.stages if stage.node in busy)


def idle_note(plan: Plan) -> tuple[str, ...]:
    """A note on the nodes that an export leaves out."""
    busy = {stage.node for stage in busy_stages(plan)}
    idle = [stage.node for stage in plan.stages if stage.node not in busy]
    return (f"left out, since no traffic of the plan passes: {', '.join(idle)}",) if idle else ()


def said(stage: Stage) -> str:
    """``a [0, 20)``."""
    return f"{stage.node} {stage.layers}"


def worker_host(job: Job, node: str) -> str:
    """The host that a node's worker listens on; a node without an address is on the coordinator's machine."""
    if job.nodes[node].is_placed:
        raise PlanError(
            "a command needs the host that it is for, and this node's is chosen when its worker starts",
            where=f"nodes.{node}.address",
            found=job.nodes[node].address,
            expected="a host's name or number",
        )
    return host_of(job.nodes[node].address or job.coordinator.address)


def gpu_count(job: Job, node: str) -> int:
    """How many devices a node runs under tensor parallelism: the ``N`` of ``NxGPU``."""
    match = _COUNTED.fullmatch(job.nodes[node].gpu)
    return int(match[1]) if match else 1


def model_path(job: Job, *kinds: str) -> tuple[str, tuple[str, ...]]:
    """The model's path for a target that reads ``kinds`` of sources, else a placeholder, and notes on it."""
    source, kept = job.model.parsed_source, job.model.weights
    packed: tuple[str, ...] = ()
    if kept not in (None, job.model.dtype):
        packed = (f"the plan counts packed weights ({kept}): give the target a model that is as small",)
    if job.model.kv_format != job.model.dtype:
        packed += (f"the plan counts a KV cache in {job.model.kv_format}: give the target one that is as small",)
    if source.kind in kinds:
        of_hub = hub_model(source.location) if source.kind == "hf" else None
        if of_hub is not None and of_hub.revision is not None:
            return of_hub.repo, (f"the plan was made for revision {of_hub.revision} of {of_hub.repo}", *packed)
        return source.location, packed
    return PLACEHOLDER, (f"put the model in place of {PLACEHOLDER}: the job has {job.model.source}", *packed)


def _replicated(stages: Sequence[Stage]) -> list[str]:
    groups = [list(group) for _, group in groupby(stages, key=lambda stage: stage.layers)]
    return [
        f"stage {group[0].layers} is replicated on {', '.join(stage.node for stage in group)}"
        for group in groups
        if len(group) > 1
    ]


def _overlapping(stages: Sequence[Stage]) -> list[str]:
    return [
        f"{said(a)} and {said(b)} overlap"
        for i, a in enumerate(stages)
        for b in stages[i + 1 :]
        if a.layers != b.layers and b.layers.start < a.layers.stop
    ]


def _gaps(stages: Sequence[Stage], num_layers: int) -> list[str]:
    covered = {layer for stage in stages for layer in range(stage.layers.start, stage.layers.stop)}
    missing = [layer for layer in range(num_layers) if layer not in covered]
    return [f"no node runs layer {', '.join(map(str, missing))}"] if missing else []
