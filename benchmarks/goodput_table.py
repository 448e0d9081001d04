"""Plans for goodput beside the Helix paper's own placements, in the same simulator.

python -m benchmarks.goodput_table [--seconds 300] [CLUSTER …]   the plans (LLaMA-2-70B), their throughput and latency
python -m benchmarks.goodput_table --ranking [--seconds 60]      how well the surrogate ranks placements

The rules are those of the paper's published simulator, with measured curves and cache sizes. A plan has to keep the p95
of TTFT and ITL that the paper's placement has at the published rate. The search sees one half of the recorded requests
and seeds of its own; the table is of the whole trace, and of the other half. The paper's placement runs as published,
with the links that were published with it; and, as nobody did there, with a maximum flow over every feasible link.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.fidelity_table import ROWS
from benchmarks.paper import all_ways, published_setup
from helix_df.goodput.brief import HELD_OUT, SEARCHED, Brief, GoodputOptions, Part
from helix_df.goodput.planner import plan_goodput
from helix_df.goodput.workshop import Ranges, Workshop, arrays, ranges_of
from helix_df.graph.compile import compile_problem
from helix_df.load import load_job
from helix_df.plan import write_plan
from helix_df.simulator.azure import azure_offline, azure_online, mean_tokens
from helix_df.simulator.options import artifact_offline, artifact_online
from helix_df.simulator.setup import Setup, setup_of
from helix_df.simulator.stepwise import Course, Stepwise
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.neighbours import Neighbours
from helix_df.solvers.portfolio import baselines
from helix_df.spec.job import Job

EXAMPLES = Path(__file__).parent.parent / "spec/examples"
CLUSTERS = ("single24", "geo24", "hetero42")
SEEDS = (0, 1, 2)
RULES = {"rules": "artifact", "timing": "measured"}
WHOLE: Part = (0.0, 1.0)

WINDOW_S = 600.0
"""Of simulations that the estimate is compared with; shorter ones leave out the waves that requests come in."""

MARGIN = 0.98
"""A plan must stay this far below the paper's latencies on the search's half, so that it does so on the other too."""


def published_rate(name: str) -> float:
    """Requests/s of the published online run."""
    row = next(row for row in ROWS if row.name == f"{name} 70B online Helix")
    tokens_per_s = row.parts[0].tokens_per_s
    assert tokens_per_s is not None
    return tokens_per_s / mean_tokens()


def offline(setup: Setup, seed: int, part: Part) -> Stepwise:
    return _simulated(setup, Course(azure_offline(seed, part=part), artifact_offline(seed=seed)))


def online(setup: Setup, rate: float, seed: int, part: Part) -> Stepwise:
    options = artifact_online(seed=seed)
    return _simulated(setup, Course(azure_online(rate, options.end_s, seed, part), options))


def _simulated(setup: Setup, course: Course) -> Stepwise:
    run = Stepwise(setup, course)
    while run.advance(course.options.end_s + 1):
        pass
    return run


def job_for(name: str, theirs: Setup, seconds: float) -> Job:
    """The example with the objective, the rate and the paper's latencies as limits."""
    rate = published_rate(name)
    seen = online(theirs, rate, 1000, SEARCHED)
    job = load_job(EXAMPLES / f"{name}.yaml").with_solver(objective="goodput", time_limit=seconds, options=RULES)
    limits = job.limits.model_copy(
        update={f"{figure}_p95": MARGIN * seen.percentile(figure, 95) for figure in ("ttft", "itl")}
    )
    return job.model_copy(update={"workload": job.workload.model_copy(update={"rate": rate}), "limits": limits})


def show(name: str, seconds: float, keep: Path | None) -> None:
    theirs, more_ways = published_setup(name, "helix-milp"), all_ways(name)
    job = job_for(name, theirs, seconds)
    began = time.perf_counter()
    plan = plan_goodput(job)
    took = time.perf_counter() - began
    ours = setup_of(plan, timing="measured")
    print(f"\n**{name}**: planned in {took:.0f} s; flow {theirs.flow:,.1f} (paper), {plan.flow:,.1f} (ours); ", end="")
    print(f"online at {published_rate(name):.3g} requests/s\n")
    if keep is not None:
        write_plan(plan, keep / f"{name}.plan.json")
    print(
        "| requests | seed | decode, paper | with all links | ours | ratio | to all links "
        "| turned away, paper | ours | TTFT p95, s | ITL p95, s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for part, words in ((WHOLE, "whole trace"), (HELD_OUT, "held-out half")):
        for seed in SEEDS:
            figures = _row(theirs, more_ways, ours, published_rate(name), seed, part)
            print(f"| {words} | {seed} {figures}", flush=True)


def _row(theirs: Setup, more_ways: Setup, ours: Setup, rate: float, seed: int, part: Part) -> str:
    saturated = [offline(setup, seed, part) for setup in (theirs, more_ways, ours)]
    decode = [run.decode_tokens / run.course.options.seconds for run in saturated]
    away = " | ".join(f"{run.turned_away:.0%}" for run in (saturated[0], saturated[2]))
    arrivals = [online(setup, rate, seed, part) for setup in (theirs, ours)]
    latencies = (" → ".join(f"{run.percentile(figure, 95):.2f}" for run in arrivals) for figure in ("ttft", "itl"))
    figures = " | ".join(f"{value:.1f}" for value in decode)
    ratios = f"{decode[2] / decode[0]:.2f} | {decode[2] / decode[1]:.2f}"
    return f"| {figures} | {ratios} | {away} | {' | '.join(latencies)} |"


def candidates(workshop: Workshop, count: int) -> list[Ranges]:
    """The rules' placements, and what random moves make of them."""
    chance = random.Random(0)
    options = SolveOptions()
    found = [
        ranges_of(*workshop.judge.arrays(placement)) for _, placement in baselines(workshop.problem, options, Watch())
    ]
    while len(found) < count:
        near = Neighbours(workshop.objective, *arrays(chance.choice(found)), chance)
        for _ in range(chance.randint(1, 6)):
            near.move()
        ranges = ranges_of(near.start, near.count)
        if ranges not in found and workshop.value(near.start, near.count) > 0:
            found.append(ranges)
    return found


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def show_ranking(name: str, count: int) -> None:
    """Rank correlation with simulated throughput, of the surrogate and of the flow."""
    job = load_job(EXAMPLES / f"{name}.yaml")
    workshop = Workshop(Brief(job, GoodputOptions(rules="artifact", timing="measured")), compile_problem(job), 0)
    tried = candidates(workshop, count)
    never: Callable[[], bool] = lambda: False  # noqa: E731
    simulated = [workshop.audition(ranges, never, 0, WINDOW_S).tokens_per_s for ranges in tried]
    estimated = [workshop.value(*arrays(ranges)) for ranges in tried]
    flows = [workshop.judge.flow(*arrays(ranges)) for ranges in tried]
    ratio = np.percentile(np.array(estimated) / np.array(simulated), (10, 50, 90))
    print(
        f"| {name} | {len(tried)} | {rank_correlation(estimated, simulated):.2f} | "
        f"{rank_correlation(flows, simulated):.2f} | {ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f}) |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--ranking", action="store_true")
    parser.add_argument("--placements", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="a folder for the plans")
    parser.add_argument("clusters", nargs="*", default=list(CLUSTERS))
    arguments = parser.parse_args()
    if arguments.ranking:
        print("| cluster | placements | rank correlation, surrogate | flow | estimate / simulation (10 to 90 %) |")
        print("|---|---|---|---|---|")
    for name in arguments.clusters:
        if arguments.ranking:
            show_ranking(name, arguments.placements)
        else:
            show(name, arguments.seconds, arguments.keep)


if __name__ == "__main__":
    main()
