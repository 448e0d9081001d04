"""A job whose nodes come and go, beside fleets of fixed sizes, under one trace.

Owns the figures of the comparison. Plans (``sizes``) and simulations (``simulator.scaled``) are others'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from helix_df.errors import SpecError
from helix_df.plan.plan import Plan
from helix_df.plan.sizes import whole
from helix_df.planning import make_plan
from helix_df.simulator.scaled import ScaledOutcome, simulate_scaled
from helix_df.simulator.trace import Trace
from helix_df.solvers.api import Watch
from helix_df.spec.job import Job
from helix_df.spec.scale import Scale
from helix_df.what_if.sizes import plan_sizes

START_S = 15.0
"""From a step to when its plan takes over, unless somebody knows better: about what a small model takes to load."""

TTFT_S = 5.0
"""Time to first token after which a request counts as missed, unless the job limits it."""


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """A fleet's figures: generated tokens/s of requests whose first token came in time, hours of nodes with layers, the
    share of requests whose first token came late or never, and the 95th percentile of the time to it (s)."""

    name: str
    goodput: float
    node_hours: float
    missed: float
    ttft_p95_s: float


@dataclass(frozen=True, slots=True)
class ScaleAnswer:
    """Plans by size, in tokens/s why where there is none, and under a trace: what the job did, and each fleet's row."""

    job: Job
    plans: Mapping[int, Plan]
    lacking: Mapping[int, str]
    scaled: ScaledOutcome | None = None
    rows: tuple[ScaleRow, ...] = ()


def plan_scale(job: Job, watch: Watch | None = None) -> ScaleAnswer:
    """The plans of all sizes of a job.

    Raises:
        SpecError: when all of its nodes stay.
        Infeasible, SolverError, ModelError: as ``make_plan``, for the job with all of its nodes.
    """
    scale_of(job)
    found = dict(plan_sizes(make_plan(whole(job), watch=watch)))
    plans = {size: plan for size, plan in sorted(found.items()) if isinstance(plan, Plan)}
    return ScaleAnswer(job, plans, {size: why for size, why in sorted(found.items()) if isinstance(why, str)})


def compare_scale(
    answer: ScaleAnswer, trace: Trace, *, seconds: float, start_s: float = START_S, ttft_s: float | None = None
) -> ScaleAnswer:
    """The same answer, with what users get under a trace: of the job, and of each size if it stays.

    Args:
        answer: of ``plan_scale``.
        trace: what comes, by time.
        seconds: how long sizes are chosen.
        start_s: from a step to when its plan takes over.
        ttft_s: after which a first token is late; by default the job's limit, else ``TTFT_S``.

    Raises:
        SimulationError: as ``simulate``.
    """
    job, plans, scale = answer.job, answer.plans, scale_of(answer.job)
    late_s = ttft_s or job.limits.ttft_p95 or TTFT_S

    def run(some: Mapping[int, Plan]) -> ScaledOutcome:
        return simulate_scaled(some, max(some), trace, scale, seconds=seconds, start_s=start_s)

    scaled = run(plans)
    stay = len(whole(job).nodes) - len(scale.named(job.nodes)) - _avoided(job, scale)
    rows = [_row(f"{min(plans)} to {max(plans)}, by scale", scaled, stay, late_s)]
    rows += [_row(f"always {size}", run({size: plan}), stay, late_s) for size, plan in plans.items()]
    return ScaleAnswer(job, plans, answer.lacking, scaled, tuple(rows))


def scale_of(job: Job) -> Scale:
    """The job's ``scale``.

    Raises:
        SpecError: when it has none.
    """
    if job.scale is None:
        raise SpecError(
            "all nodes of this job stay",
            where="scale",
            expected="the nodes that come and go, such as scale: {nodes: ['spot-*']}",
        )
    return job.scale


def scale_document(answer: ScaleAnswer) -> dict[str, Any]:
    """The answer as a JSON document."""
    steps: Iterable[Any] = () if answer.scaled is None else answer.scaled.sizes
    return {
        "format": "helix-df-scale",
        "version": 1,
        "sizes": [
            *({"size": size, "tokens_per_s": plan.flow, "gap": plan.gap} for size, plan in answer.plans.items()),
            *({"size": size, "why": why} for size, why in answer.lacking.items()),
        ],
        "steps": [
            {"size": one.size, "begun_s": one.begun_s, "from_s": one.from_s, "why": str(one.step)}
            for one in steps
            if one.step is not None
        ],
        "fleets": [asdict(row) for row in answer.rows],
    }


def _avoided(job: Job, scale: Scale) -> int:
    """Nodes that stay and are left out."""
    return len(set(job.limits.avoid) - set(scale.named(job.nodes)))


def _row(name: str, found: ScaledOutcome, stay: int, late_s: float) -> ScaleRow:
    times = sorted(found.ttft_s())
    return ScaleRow(
        name,
        found.goodput(late_s),
        (found.node_seconds + stay * found.seconds) / 3600,
        found.missed(late_s),
        float(times[int(0.95 * (len(times) - 1))]),
    )
