"""What it costs that a request which loses a node is computed anew on all of its new pipeline, and what could be saved.

Simulates the paper's own placements under the Azure trace at 60 % of what is left without a node, which is lost in the
middle. The same again as if prompts cost nothing on all nodes before the lost layers, for everybody: more than any way
to keep what they have computed could save.

``python -m benchmarks.retry_table [CLUSTER …]`` prints the table of ``docs/reliability.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.paper import all_ways
from helix_df.graph.problem import COORDINATOR
from helix_df.rules.mended_flow import mended_flow
from helix_df.simulator.azure import azure_online, mean_tokens
from helix_df.simulator.options import NodeEvent, Options
from helix_df.simulator.setup import Setup, StageSetup
from helix_df.simulator.simulate import simulate

CLUSTERS = ("single24", "hetero42", "geo24")
LOST_S, AFTER_S = 180.0, 120.0
SHARE = 0.6
LEAST_LEFT = 0.5
FREE = ((0.0, 0.0), (1.0, 1e-9))
"""A curve of prompts that cost next to nothing."""


def left_without(setup: Setup, node: str) -> float:
    """Tokens/s that are left without a node."""
    assert setup.ways is not None
    edges = mended_flow(setup.ways, setup.edges, lambda name: name != node)
    return sum(edge.tokens_per_s for edge in edges if edge.tail == COORDINATOR)


def lost_node(setup: Setup) -> StageSetup:
    """Of the nodes without which much is left, the one with the most layers before it: where most could be kept."""
    carried = {edge.head for edge in setup.edges}
    known = [it for it in setup.stages if it.name in carried and left_without(setup, it.name) > LEAST_LEFT * setup.flow]
    return max(known, key=lambda stage: stage.layers.start)


def free_before(setup: Setup, layer: int) -> Setup:
    """The same where prompts cost nothing on nodes that hold only layers before this one."""
    stages = tuple(
        replace(stage, timing=replace(stage.timing, prefill=FREE)) if stage.layers.stop <= layer else stage
        for stage in setup.stages
    )
    return replace(setup, stages=stages)


def resumed_s(setup: Setup, lost: StageSetup, requests_per_s: float) -> tuple[int, np.ndarray]:
    """How many requests had tokens and started over, and the times (s) that each waited for its next token."""
    options = Options(
        warmup_s=LOST_S, seconds=AFTER_S, events=(NodeEvent(LOST_S, lost.name, up=False),), ways="feasible"
    )
    outcome = simulate(setup, azure_online(requests_per_s, LOST_S + AFTER_S), options, form="compiled")
    times = outcome.requests
    over = int(np.sum((times.retries > 0) & (times.first_token_s < LOST_S)))
    return over, np.sort(outcome.gaps_s)[::-1][:over]


def rows(names: tuple[str, ...]) -> Iterator[str]:
    """A row a cluster: as it is, and the bound."""
    for name in names:
        setup = all_ways(name, "measured")
        lost = lost_node(setup)
        left = left_without(setup, lost.name)
        rate = SHARE * left / mean_tokens()
        over, now = resumed_s(setup, lost, rate)
        _, bound = resumed_s(free_before(setup, lost.layers.start), lost, rate)
        seconds = " | ".join(f"{np.median(one):.2f} / {one.max():.2f} s" for one in (now, bound))
        yield f"| {name} | {lost.name}, {lost.layers} | {left / setup.flow:.0%} | {over} | {seconds} |"


def main() -> None:
    """Print the table."""
    heads = (
        "cluster",
        "lost",
        "flow left",
        "requests started over",
        "to resume, p50 / most",
        "nothing before to compute",
    )
    print(f"| {' | '.join(heads)} |\n|---|---|---|---|---|---|")
    for row in rows(tuple(sys.argv[1:]) or CLUSTERS):
        print(row, flush=True)


if __name__ == "__main__":
    main()
