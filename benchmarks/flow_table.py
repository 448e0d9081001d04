"""A solver's corner of the maximum flow beside spread ones: what they serve, what they cost to find and to route by.

python -m benchmarks.flow_table [CLUSTER …]
    --spreads quick-nodes     the spread flows to show, of ``even_flow.COST_PRESETS``; the default is what plans have
    --placements cover        who places: solvers of flow, or ``published``
    --seconds 10              of search for each placement
    --seeds 3                 of the recorded requests

Placements are made for the objective ``flow`` (solver ``cover``), by petals' rule, or as the Helix paper published
them. Simulated by the rules by which helix-df serves, with
the measured curves of the same GPUs, saturated, 60 s of warm-up and 600 s. Flow, cut and placement are the same along
a row; only the split of the flow differs. Below the table: seconds of the min-cost flow on placements of 200 and 1,000
nodes, and pipelines that a router picks in a second with the corner and with the spread flow.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.generate import random_cluster
from benchmarks.paper import placed
from helix_df.graph.compile import compile_problem
from helix_df.graph.even_flow import COST_PRESETS, PLANNED, CostPreset, spread_flow
from helix_df.graph.flow import EdgeFlow, Flow
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.max_flow import placement_flow, solve_max_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.load import load_job
from helix_df.rules.routing import FlowRouter, KvLedger
from helix_df.simulator.azure import azure_offline
from helix_df.simulator.options import Options
from helix_df.simulator.simulation import Course, Simulation
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.petals import PetalsSolver
from helix_df.solvers.planner import solve_problem
from helix_df.solvers.registry import get_solver
from tests.clusters import CLUSTERS as PAPER
from tests.clusters import published

EXAMPLES = Path(__file__).parent.parent / "spec/examples"

MEASURED_AS = {"A100": "A100-40GB", "V100": "V100-16GB"}
"""Whose curves the GPUs of random clusters have, where the catalogue names them otherwise."""

PICKS = 2000
ROUNDS = 3
"""Of timings, whose median counts."""


def example(name: str) -> Callable[[], Problem]:
    return lambda: compile_problem(load_job(EXAMPLES / f"{name}.yaml"))


def generated(count: int, seed: int) -> Callable[[], Problem]:
    def make() -> Problem:
        problem = random_cluster(count, seed=seed)
        nodes = tuple(replace(node, gpu=MEASURED_AS.get(node.gpu, node.gpu)) for node in problem.nodes)
        return replace(problem, nodes=nodes)

    return make


CASES: dict[str, Callable[[], Problem]] = {
    **{name: example(name) for name in ("single24", "geo24", "hetero42")},
    "random16": generated(16, 1),
    "random24": generated(24, 2),
    "random40": generated(40, 3),
    "random60": generated(60, 4),
    # The flow that plans carry was chosen by those above; nobody looked at these before.
    "random20": generated(20, 11),
    "random32": generated(32, 12),
    "random48": generated(48, 13),
    "random72": generated(72, 14),
}


@dataclass(frozen=True, slots=True)
class Served:
    """What a flow serves: generated tokens/s of every seed."""

    links: int
    decode_tokens_per_s: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.decode_tokens_per_s)


def planned(problem: Problem, seconds: float, solver: str = "cover") -> Placement:
    """A placement made for its flow."""
    return solve_problem(problem, get_solver(solver), SolveOptions(seconds), Watch())[0]


def served(problem: Problem, placement: Placement, flow: Flow, seeds: int) -> Served:
    setup = replace(placed("flow", problem, placement, timing="measured"), edges=flow.edges)
    found = []
    for seed in range(seeds):
        run = Simulation(setup, Course(azure_offline(seed), Options(seed=seed)), form="compiled")
        while run.advance(run.course.options.end_s + 1):
            pass
        found.append(run.decode_tokens / run.course.options.seconds)
    return Served(len(flow.edges), tuple(found))


def show(name: str, rule: str, spreads: Iterable[CostPreset], seconds: float, seeds: int) -> None:
    """One row a spread flow, each beside the corner."""
    problem = CASES[name]()
    placement = published(name, "helix-milp")[0] if rule == "published" else planned(problem, seconds, rule)
    corner = placement_flow(problem, placement)
    before = served(problem, placement, corner, seeds)
    for spread in spreads:
        flow = spread_flow(problem, placement, spread)
        after = served(problem, placement, flow, seeds)
        assert flow.value == corner.value
        print(
            f"| {name} | {rule} | {flow.value:,.1f} | {spread} | {before.links} | {after.links} "
            f"| {before.median:,.1f} | {after.median:,.1f} | {after.median / before.median:.2f} |",
            flush=True,
        )


def median_s(work: Callable[[], object]) -> float:
    """CPU seconds, which a busy machine leaves as they are."""
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def pipelines_per_s(placement: Placement, edges: tuple[EdgeFlow, ...]) -> float:
    """Picks of a router whose nodes all have room; each asks the ledger about every node it might pass."""
    router = FlowRouter(placement, edges)
    ledger = KvLedger(dict.fromkeys(router.nodes, 1_000_000), 0.9)

    def picks() -> None:
        for _ in range(PICKS):
            assert router.route(ledger.admitting(300, 1000)) is not None

    return PICKS / median_s(picks)


def cost_row(rule: str, problem: Problem, placement: Placement, spread: CostPreset) -> str:
    corner, flow = placement_flow(problem, placement), spread_flow(problem, placement, spread)
    graph = build_graph(problem, placement)
    seconds = [median_s(partial(build_graph, problem, placement)), median_s(partial(solve_max_flow, graph))]
    whole = median_s(partial(spread_flow, problem, placement, spread))
    seconds.append(whole - sum(seconds))
    speeds = [pipelines_per_s(placement, one.edges) for one in (corner, flow)]
    return " | ".join(
        [
            f"| {len(problem.nodes):,} | {rule} | {len(graph.edges):,} | {len(corner.edges):,} | {len(flow.edges):,}",
            *(f"{part:.2f}" for part in seconds),
            *(f"{speed:,.0f}" for speed in speeds),
        ]
    )


def show_costs(spread: CostPreset) -> None:
    print(f"\nSpread flow: {spread}; seconds of CPU.\n")
    print(
        "| nodes | placement by | links | used, corner | spread | build the graph, s | max flow, s | min-cost flow, s "
        "| pipelines/s, corner | spread |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for count in (200, 1000):
        problem = random_cluster(count)
        petals = PetalsSolver().solve(problem, SolveOptions(extra={"rounds": 1}), Watch()).placement or {}
        for rule, placement in (("cover", planned(problem, 5.0)), ("petals", petals)):
            print(cost_row(rule, problem, placement, spread) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spreads", nargs="+", choices=COST_PRESETS, default=[PLANNED])
    parser.add_argument("--placements", nargs="+", default=["cover", "petals", "published"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("clusters", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    print(
        "| cluster | placement by | flow | spread | links used, corner | spread "
        "| decode tokens/s, corner | spread | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, rule in product(arguments.clusters, arguments.placements):
        if rule != "published" or name in PAPER:
            show(name, rule, arguments.spreads, arguments.seconds, arguments.seeds)
    show_costs(arguments.spreads[0])


if __name__ == "__main__":
    main()
