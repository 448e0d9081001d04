"""What users should know of the speeds that a job declares: where they contradict measured curves, and what is assumed.

Owns the comparison and its sentences. Doesn't choose a speed (``speed_source``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from helix_df.graph.compile import gpu_throughput, origin_of
from helix_df.graph.problem import Origin
from helix_df.graph.speed_source import TABLE_BATCH, DeclaredTable, device_curves, find_roofline, speed_source
from helix_df.profiles.catalogue import Measured
from helix_df.profiles.expected_drafts import ExpectedDrafts
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.throughput import from_curves
from helix_df.spec.job import Job

CONTRADICTION = 1.5
"""Factor between a job's number and the catalogue's from which users are told."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Tokens/s of a GPU type with ``layers`` layers: as the job declares, and as the catalogue's curves give them."""

    gpu: str
    layers: int
    declared: float
    measured: float

    @property
    def factor(self) -> float:
        """The larger over the smaller."""
        return max(self.declared / self.measured, self.measured / self.declared)

    def __str__(self) -> str:
        layers = f"{self.layers} layer{'s' if self.layers > 1 else ''}"
        return (
            f"gpus.{self.gpu}: {self.declared:,.0f} tokens/s with {layers}, {self.measured:,.0f} by the curves, "
            f"a factor of {self.factor:.1f}"
        )


def speed_notices(job: Job, origin: Origin | None = None) -> tuple[str, ...]:
    """What users should know of a job's speeds: one notice of all contradictions, and one of each assumption.

    Layers that differ are such an assumption, and so is how often drafted tokens are right.

    Raises:
        ModelError, SpecError: as ``compile_problem``.
    """
    origin = origin or origin_of(job)
    found = contradictions(job, origin)
    told = [_contradicted(found) if found else None, *_assumptions(job, origin)]
    return tuple(filter(None, [*told, _differing(origin.geometry), _drafted(origin.requests.drafted)]))


def _drafted(drafts: ExpectedDrafts) -> str | None:
    """What plans expect of drafted tokens; None where nobody drafts."""
    if not drafts.drafts:
        return None
    steps = drafts.steps(drafts.drafts)
    return (
        f"runtime.speculation: plans expect drafts for {drafts.coverage:.0%} of the steps, each right with "
        f"{drafts.acceptance:.0%} (coverage, acceptance): with {drafts.drafts} drafts a step gives {steps.given:.2f} "
        f"tokens for {steps.carried:.2f} that devices compute and links carry; as many count as pay, by the device; "
        "bench tells what they were"
    )


def _differing(geometry: ModelGeometry) -> str | None:
    """What plans take layers for that aren't all alike; None where they are."""
    dense, windowed = len(geometry.experts.dense), sum(map(bool, geometry.attention.windows))
    told = [f"{dense} of {geometry.num_layers} have no experts"] if len(geometry.layer_kinds) > 1 else []
    if 0 < windowed < geometry.num_layers:
        told.append(f"{windowed} of {geometry.num_layers} see a window of tokens alone")
    if not told:
        return None
    return (
        f"the model's layers differ: {' and '.join(told)}; plans count every stage as the "
        "heaviest layers in a row and every layer as the slowest, so that any placement fits; bounds count the "
        "lightest and the fastest"
    )


def _contradicted(found: tuple[Contradiction, ...]) -> str:
    rows = "".join(f"\n  {one}" for one in found)
    return (
        f"the job's speeds contradict the catalogue's measured curves of the same devices and model{rows}\n"
        "  used: the job's numbers in plans for flow; curves in simulations, bench and plans for goodput\n"
        "  try: leave these profiles away and plan with the curves, or measure your devices with helix-df profile"
    )


def contradictions(job: Job, origin: Origin, factor: float = CONTRADICTION) -> tuple[Contradiction, ...]:
    """Where a job's own numbers are more than ``factor`` off the catalogue's curves of the same device and model.

    For each GPU type in use the number of layers where they are furthest apart, at the load that the job's number is
    for.
    """
    found = (_furthest(job, origin, gpu) for gpu in _used_gpus(job))
    return tuple(one for one in found if one is not None and one.factor > factor)


def _furthest(job: Job, origin: Origin, gpu: str) -> Contradiction | None:
    geometry = origin.geometry
    source, measured = speed_source(job, geometry, gpu), device_curves(job, geometry, gpu)
    if measured is None or isinstance(source, Measured):
        return None
    requests = source.measured_at(origin.requests) if isinstance(source, DeclaredTable) else origin.requests
    declared = gpu_throughput(job, geometry, requests, gpu).tokens_per_s
    curves = from_curves(measured, requests, geometry.num_layers).tokens_per_s
    pairs = enumerate(zip(declared, curves, strict=False), start=1)
    rows = [Contradiction(gpu, layers, one, other) for layers, (one, other) in pairs]
    return max(rows, key=lambda row: abs(math.log(row.factor)), default=None)


def _assumptions(job: Job, origin: Origin) -> Iterator[str]:
    for gpu in _used_gpus(job):
        source = speed_source(job, origin.geometry, gpu)
        if not isinstance(source, DeclaredTable) or device_curves(job, origin.geometry, gpu) is not None:
            continue
        if find_roofline(job, gpu) is None:
            yield (
                f"gpus.{gpu}: nothing but a table is known, so simulations take every token to cost the same at any "
                "batch; curves say more (helix-df profile)"
            )
        elif source.load is None:
            yield (
                f"gpus.{gpu}: the table doesn't say at which batch it was measured; simulations assume {TABLE_BATCH} "
                "(profile.measured_at says another)"
            )


def _used_gpus(job: Job) -> list[str]:
    """Types of the nodes that a plan may use, by name."""
    return sorted({node.gpu for name, node in job.nodes.items() if name not in job.limits.avoid})
