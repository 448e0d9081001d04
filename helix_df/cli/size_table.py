"""A sizing as a person reads it: the fleet, what else there is, and what is left when nodes go.

Owns the words and the layout. Every number comes from the sizing.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table

from helix_df.cli.console import print_trimmed
from helix_df.cli.words import labelled, number, plain_table, plural, seconds
from helix_df.sizing import CheapestOf, Sizing
from helix_df.sizing.prediction import FleetPrediction

MOST_UNDECIDED = 3
"""Undecided fleets that are listed before the rest is counted."""

_ENDINGS = {
    "undecided": "cheaper fleets stay undecided",
    "fleets": "as many fleets were judged as are judged at most",
    "time": "the time limit ended the search",
    "interrupt": "stopped by you",
}


def render_sizing(sizing: Sizing, console: Console) -> None:
    """Print a sizing."""
    parts: list[RenderableType] = [labelled(_summary(sizing))]
    if sizing.alternatives:
        parts += ["", _alternatives(sizing)]
    if sizing.losses:
        parts += ["", *_losses(sizing)]
    print_trimmed(console, *parts)


def _summary(sizing: Sizing) -> Iterator[tuple[str, str]]:
    found, fleet = sizing.cheapest, sizing.fleet
    kept = len(sizing.job.nodes) - fleet.nodes
    beside = f" beside {plural(kept, 'node')} of the job's own" if kept else ""
    yield "job", f"{sizing.job.name}: {sizing.rate:g} requests/s, {number(sizing.needed_flow)} tokens/s of flow"
    yield "fleet", f"{fleet}{beside}"
    yield "cost", f"{fleet.cost:,.2f} an hour, {fleet.cost * 730:,.0f} a month of 730 hours"
    yield "bound", _bound(found)
    for text, why in found.undecided[:MOST_UNDECIDED]:
        yield "", f"{text}: {why}"
    if len(found.undecided) > MOST_UNDECIDED:
        yield "", f"and {len(found.undecided) - MOST_UNDECIDED} more"
    yield (
        "flow",
        f"{number(fleet.flow)} tokens/s (prompt and output), {fleet.flow / sizing.needed_flow:.0%} of what it takes",
    )
    if fleet.prediction is not None:
        yield "simulated", _simulated(fleet.prediction)
        if sizing.judged_by == "flow" and not fleet.prediction.begins:
            yield "", "the flow alone promises more than users get; --by simulation finds a fleet that keeps up"


def _bound(found: CheapestOf) -> str:
    judged = f"{plural(found.judged, 'fleet')} judged in {found.seconds:.1f} s"
    if found.ending == "proven":
        return f"no fleet of these offers that serves this costs less ({judged})"
    why = _ENDINGS[found.ending]
    return f"no such fleet costs less than {found.lower_bound or 0:,.2f}; gap {found.gap or 0:.1%}: {why} ({judged})"


def _simulated(found: FleetPrediction) -> str:
    tokens = f"{number(found.generated_per_s)} of {number(found.asked_per_s)} generated tokens/s asked for"
    latency = f"TTFT p95 {seconds(found.ttft_p95_s)} s, ITL p95 {seconds(found.itl_p95_s)} s"
    return f"{tokens}, {found.begun:.0%} of requests begun; {latency}"


def _alternatives(sizing: Sizing) -> Table:
    latency = ("TTFT p95", "ITL p95") if sizing.judged_by == "simulation" else ()
    heads = ("cost/h", "at least", "nodes", "flow", *latency, "s")
    table = plain_table("cheapest of", "fleet", *heads, numbers=heads)
    for title, found in [("all offers", sizing.cheapest), *((_names(one), one) for one in sizing.alternatives)]:
        table.add_row(title, *_row(found, with_latency=sizing.judged_by == "simulation"))
    return table


def _names(found: CheapestOf) -> str:
    return f"{' + '.join(found.offers)} alone"


def _row(found: CheapestOf, *, with_latency: bool) -> list[str]:
    lower = "–" if found.lower_bound is None else f"{found.lower_bound:,.2f}"
    fleet = found.fleet
    if fleet is None:
        none = "none can serve it" if found.ending == "proven" else "none was found"
        return [none, "–", lower, "–", "–", *(["–", "–"] if with_latency else []), f"{found.seconds:.1f}"]
    latency = []
    if with_latency:
        latency = ["–", "–"]
        if fleet.prediction is not None:
            latency = [seconds(fleet.prediction.ttft_p95_s), seconds(fleet.prediction.itl_p95_s)]
    return [
        str(fleet),
        f"{fleet.cost:,.2f}",
        lower,
        f"{fleet.nodes:,}",
        number(fleet.flow),
        *latency,
        f"{found.seconds:.1f}",
    ]


def _losses(sizing: Sizing) -> Iterator[RenderableType]:
    heads = ("gone", "flow, layers as they are", "of the rate", "flow, planned anew", "of the rate ")
    table = plain_table("without", *heads, numbers=heads)
    for one in sizing.losses:
        table.add_row(
            one.offer,
            f"{one.lost} of {one.owned}",
            f"{'' if one.exact else '≤ '}{number(one.kept_flow)}",
            f"{one.kept_flow / sizing.needed_flow:.0%}",
            number(one.replanned_flow),
            f"{one.replanned_flow / sizing.needed_flow:.0%}",
        )
    yield table
    yield "without: the worst choice of so many nodes of the offer, by flow; 100% and more still serves the rate"
    if not all(one.exact for one in sizing.losses):
        yield "≤: nodes go one after the other, each the worst; a worse choice may exist"
