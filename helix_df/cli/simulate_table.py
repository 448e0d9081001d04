"""A simulation's outcome as a person reads it. Every number comes from the outcome."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from helix_df.cli.console import print_trimmed
from helix_df.cli.words import labelled, number, plain_table
from helix_df.pictures.load_words import layers_held, link_rates, node_cells
from helix_df.simulator.outcome import Outcome

MOST_NODES = 50
MOST_LINKS = 8
SHOWN = (5, 50, 95, 99)
BUSY_LINK = 0.01
"""Share of its time from which a link is worth a line."""


def render_outcome(outcome: Outcome, console: Console, *, every_node: bool = False) -> None:
    """Print the outcome: what users get, then nodes, then the busiest links."""
    nodes = outcome.nodes if every_node else outcome.nodes[:MOST_NODES]
    left_out = len(outcome.nodes) - len(nodes)
    print_trimmed(
        console,
        labelled(_summary(outcome)),
        "",
        Padding(_latencies(outcome), (0, 0, 0, 2)),
        "",
        _nodes(outcome, len(nodes)),
        *([f"… and {left_out} more nodes; --all lists them"] if left_out else []),
        "",
        _links(outcome, every_node),
    )


def _summary(outcome: Outcome) -> Iterator[tuple[str, str]]:
    until = ", stopped by you" if outcome.stopped else ""
    yield "trace", f"{outcome.trace}; seed {outcome.seed}"
    yield "window", f"{outcome.start_s:g} s to {outcome.end_s:g} s of simulated time{until}"
    yield "scheduler", outcome.scheduler
    yield "decode", f"{number(outcome.decode_tokens_per_s)} tokens/s"
    share = outcome.tokens_per_s / outcome.flow if outcome.flow else 0.0
    yield (
        "prompt",
        f"{number(outcome.prompt_tokens_per_s)} tokens/s; total {share:.0%} of the plan's flow of "
        f"{number(outcome.flow)}",
    )
    retries = int(outcome.requests.retries.sum())
    retried = f"; {retries:,} {'retry' if retries == 1 else 'retries'}" if retries else ""
    yield (
        "requests",
        f"{len(outcome.requests):,} arrived, {outcome.finished:,} finished in the window, "
        f"{outcome.in_flight:,} in flight, {outcome.waiting:,} waiting, {outcome.rejected:,} rejected{retried}",
    )


def _latencies(outcome: Outcome) -> Table:
    heads = [f"p{percent}" for percent in SHOWN]
    table = plain_table("seconds", *heads, numbers=heads)
    names = (("time to first token", "ttft"), ("inter-token latency", "itl"), ("end-to-end latency", "e2e"))
    for label, figure in names:
        table.add_row(label, *(_seconds(outcome.percentile(figure, percent)) for percent in SHOWN))
    return table


def _nodes(outcome: Outcome, most: int) -> Table:
    heads = ("layers", "busy", "decode batch", "decode/s", "prompt/s", "KV mean", "KV peak", "waiting")
    table = plain_table("node", *heads, numbers=heads)
    for node in outcome.nodes[:most]:
        table.add_row(node.name, layers_held(node), *node_cells(node))
    return table


def _links(outcome: Outcome, every: bool) -> Table:
    heads = ("busy", "carried", "of")
    table = plain_table("busiest links", *heads, numbers=heads)
    links = sorted(outcome.links, key=lambda link: (-link.utilisation, link.tail, link.head))
    shown = links if every else [link for link in links[:MOST_LINKS] if link.utilisation >= BUSY_LINK]
    for link in shown:
        table.add_row(f"{link.tail} → {link.head}", f"{link.utilisation:.0%}", *link_rates(link))
    if not shown:
        table.add_row(f"all below {BUSY_LINK:.0%}", "", "", "")
    return table


def _seconds(value: float) -> str:
    return "–" if value != value else f"{value:.3f}" if value < 10 else f"{value:.1f}"
