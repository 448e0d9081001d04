"""Several variants of a plan, its trace or its rules, simulated one after the other, and a row of figures for each.

Owns the figures that a comparison shows. Doesn't know how variants came about or how a table looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from helix_df.graph.stage_timing import TimingChoice
from helix_df.plan.plan import Plan
from helix_df.simulator import Options, Outcome, Trace, predict
from helix_df.simulator.outcome import to_document
from helix_df.simulator.simulation import SimulationWatch


@dataclass(frozen=True, slots=True)
class Variant:
    """What is simulated under which name."""

    name: str
    plan: Plan
    trace: Trace
    options: Options
    timing: TimingChoice = "measured"


@dataclass(frozen=True, slots=True)
class Simulated:
    """A plan and what its users got."""

    name: str
    plan: Plan
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """Figures of one variant: tokens/s, seconds, and ``busy``, the nodes' mean share of time at work.

    Latencies are NaN where nothing came to a first, second or last token.
    """

    name: str
    nodes: int
    flow: float
    decode_tokens_per_s: float
    prompt_tokens_per_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    itl_p50_s: float
    itl_p95_s: float
    busy: float
    rejected: int


def compare(
    variants: Iterable[Variant], watch: Callable[[Variant], SimulationWatch | None] | None = None
) -> list[Simulated]:
    """Simulate every variant, in order; ``watch`` says who watches each. One that is stopped is the last.

    Raises:
        SimulationError: as ``simulate``.
    """
    results = []
    for variant in variants:
        watching = watch(variant) if watch is not None else None
        outcome = predict(variant.plan, variant.trace, variant.options, timing=variant.timing, watch=watching)
        results.append(Simulated(variant.name, variant.plan, outcome))
        if outcome.stopped:
            break
    return results


def row_of(simulated: Simulated) -> ComparisonRow:
    """The figures of one variant."""
    outcome = simulated.outcome
    return ComparisonRow(
        name=simulated.name,
        nodes=len(outcome.nodes),
        flow=outcome.flow,
        decode_tokens_per_s=outcome.decode_tokens_per_s,
        prompt_tokens_per_s=outcome.prompt_tokens_per_s,
        ttft_p50_s=outcome.percentile("ttft", 50),
        ttft_p95_s=outcome.percentile("ttft", 95),
        itl_p50_s=outcome.percentile("itl", 50),
        itl_p95_s=outcome.percentile("itl", 95),
        busy=sum(node.utilisation for node in outcome.nodes) / max(len(outcome.nodes), 1),
        rejected=outcome.rejected,
    )


def comparison_document(results: Iterable[Simulated]) -> dict[str, Any]:
    """The comparison as a JSON document: a row each, and the outcome without single requests and series."""
    return {
        "format": "helix-df-comparison",
        "version": 1,
        "variants": [
            {**_plain(row_of(one)), "outcome": to_document(one.outcome, requests=False, series=False)}
            for one in results
        ],
    }


def _plain(row: ComparisonRow) -> dict[str, Any]:
    """JSON has no NaN."""
    values = asdict(row)
    return {field.name: value if (value := values[field.name]) == value else None for field in fields(row)}
