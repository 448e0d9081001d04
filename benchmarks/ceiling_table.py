"""The ceiling of generated tokens/s beside what placements and rules generate in simulation.

python -m benchmarks.ceiling_table [CLUSTER …]
    --random 12               random placements of each cluster: the rules' own, changed by random moves
    --seconds 60              of the goodput solver's search on the paper's clusters; 0 leaves it out
    --plans FILE …            plan files to simulate, too, on the cluster of their job's name

The bound is for the recorded requests (``lengths``), and beside it for requests that are all like the mean one.
Simulated by the rules by which helix-df serves, with the measured curves of the same GPUs, saturated, 60 s of warm-up
and 600 s; each placement with every one of ``RULES``, and the best counts. The table fails where anything generates
more than the bound. Random clusters have the caches that were measured with the curves.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.flow_table import CASES, EXAMPLES, planned
from benchmarks.paper import measured, placed, published_setup
from helix_df.graph.even_flow import spread_flow
from helix_df.graph.goodput_prices import goodput_bound
from helix_df.graph.judge import Judge
from helix_df.graph.problem import NodeProfile, Placement, Problem
from helix_df.graph.serving_load import ServingLoad, load_of, load_of_mean
from helix_df.load import load_job
from helix_df.plan.plan import Plan, read_plan
from helix_df.planning import make_plan
from helix_df.profiles.throughput import Requests, reading_weights
from helix_df.profiles.timing import LayerTiming, measured_timing
from helix_df.simulator.azure import azure_offline, lengths
from helix_df.simulator.options import Options, options_of
from helix_df.simulator.setup import Setup, setup_of
from helix_df.simulator.simulation import Course, Simulation
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.baselines import baselines
from helix_df.solvers.neighbours import Neighbours
from helix_df.solvers.objective import Objective
from tests.clusters import CLUSTERS as PAPER

RULES = tuple(
    Options(max_batch=batch, max_prefill_tokens=tokens, prefill_chunk=tokens)
    for batch, tokens in ((16, 512), (64, 64), (64, 128), (128, 128), (256, 256))
)
"""Requests and prompt tokens of a batch; the first are the defaults."""

MEAN = Requests(750, 240, 16)
SHOWN = (*PAPER, "random16", "random24", "random40")


@dataclass(frozen=True, slots=True)
class Best:
    """The most generated tokens/s, of which placement by which rules."""

    tokens_per_s: float
    words: str


def cluster_of(name: str) -> Problem:
    """The cluster, with the caches that were measured with the curves."""
    problem = CASES[name]()
    nodes = []
    for node in problem.nodes:
        kv_tokens = measured("70b", node.gpu).kv_tokens[: node.max_layers]
        nodes.append(replace(node, kv_tokens=kv_tokens, tokens_per_s=node.tokens_per_s[: len(kv_tokens)]))
    return replace(problem, nodes=tuple(nodes))


def timing_of(node: NodeProfile, layers: int) -> LayerTiming:
    """As measured, weights read."""
    return measured_timing(reading_weights(measured("70b", node.gpu)), layers)


def bound_of(problem: Problem, load: ServingLoad) -> tuple[float, float]:
    """The bound and the seconds that it took."""
    began = time.perf_counter()
    found = goodput_bound(problem, timing_of, load)
    assert found is not None
    return found.tokens_per_s, time.perf_counter() - began


def generated(setup: Setup, options: Options) -> float:
    run = Simulation(setup, Course(azure_offline(0), options), form="compiled")
    while run.advance(options.end_s + 1):
        pass
    return run.decode_tokens / options.seconds


def best_of(setup: Setup, words: str) -> Best:
    """The best of all rules."""
    found = [
        Best(generated(setup, rules), f"{words}, {rules.max_batch} / {rules.max_prefill_tokens}") for rules in RULES
    ]
    return max(found, key=lambda one: one.tokens_per_s)


def spread(problem: Problem, placement: Placement) -> Setup:
    flow = spread_flow(problem, placement)
    return replace(placed("ceiling", problem, placement, timing="measured"), edges=flow.edges)


def random_placements(problem: Problem, count: int) -> Iterator[Placement]:
    """The rules' placements, and what random moves make of them."""
    chance, judge = random.Random(0), Judge(problem)
    objective = Objective(judge)
    found = [judge.arrays(placement) for _, placement in baselines(problem, SolveOptions(), Watch())]
    yield from (judge.placement(*one) for one in found)
    made = 0
    while made < count:
        near = Neighbours(objective, *chance.choice(found), chance)
        for _ in range(chance.randint(1, 6)):
            near.move()
        if objective.admits(near.start, near.count) and judge.flow(near.start, near.count) > 0:
            made += 1
            yield judge.placement(near.start, near.count)


def of_plan(plan: Plan, words: str) -> Best:
    return Best(generated(setup_of(plan), options_of(plan.served)), f"{words}, {plan.rules}")


def contestants(name: str, problem: Problem, seconds: float, plans: list[Plan]) -> Iterator[Best]:
    """Published, made for flow, made for goodput."""
    if name in PAPER:
        yield best_of(published_setup(name, "helix-milp", "measured"), "published")
    yield best_of(spread(problem, planned(problem, 10.0)), "made for flow")
    if name in PAPER and seconds:
        job = load_job(EXAMPLES / f"{name}.yaml").with_solver(name="goodput", time_limit=seconds)
        yield of_plan(make_plan(job), f"made for goodput in {seconds:g} s")
    yield from (of_plan(plan, "plan file") for plan in plans if plan.job.name == name)


def show(name: str, count: int, seconds: float, plans: list[Plan]) -> None:
    problem = cluster_of(name)
    bound, took = bound_of(problem, load_of(lengths()))
    alike, _ = bound_of(problem, load_of_mean(MEAN))
    named = list(contestants(name, problem, seconds, plans))
    tried = [best_of(spread(problem, one), "random") for one in random_placements(problem, count)]
    best, highest = max([*named, *tried], key=lambda one: one.tokens_per_s), max(one.tokens_per_s for one in tried)
    assert best.tokens_per_s <= bound, f"{best} is over the bound {bound}"
    print(
        f"| {name} | {len(problem.nodes)} | {bound:,.1f} | {alike:,.1f} | {took:.2f} | {best.tokens_per_s:,.1f} "
        f"| {best.words} | {1 - best.tokens_per_s / bound:.0%} | {named[0].tokens_per_s:,.1f} ({named[0].words}) "
        f"| {highest:,.1f} of {len(tried)} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--plans", type=Path, nargs="*", default=[])
    parser.add_argument("clusters", nargs="*", default=list(SHOWN))
    arguments = parser.parse_args()
    print(
        "| cluster | nodes | bound | for mean requests | s | best | by | gap | first | highest of random placements |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    plans = [read_plan(path) for path in arguments.plans]
    for name in arguments.clusters:
        show(name, arguments.random, arguments.seconds, plans)


if __name__ == "__main__":
    main()
