"""Plans for goodput beside the Helix paper's own placements, in the same simulator.

python -m benchmarks.goodput_table [CLUSTER …]            the plans (LLaMA-2-70B), their throughput and latency
    --seconds 300           of search for each, on two cores that have nothing else to do
    --brake SECONDS         let the same counted work take longer, on a machine that has
    --rules runtime         the rules by which helix-df serves, not those of the paper's published simulator
python -m benchmarks.goodput_table --ranking              how well the surrogate ranks placements

Curves and cache sizes are measured ones. A plan has to keep the p95 of TTFT and ITL that the paper's placement has at
the published rate. The search sees one half of the recorded requests and seeds of its own; the table is of the whole
trace, and of the other half. The paper's placement runs as published, with the links that were published with it; and,
as nobody did there, with a maximum flow over every feasible link. The paper's rules turn requests away that find the
cache full; the column "ratio where they wait" is of the same rules with a queue instead. By the runtime's rules a plan
serves with the batches and limits that it chose, and the paper's placement with the job's.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.fidelity_table import ROWS
from benchmarks.paper import all_ways, published_setup
from helix_df.graph.compile import compile_problem
from helix_df.graph.stage_timing import TimingChoice
from helix_df.load import load_job
from helix_df.plan.plan import write_plan
from helix_df.planning import make_plan
from helix_df.simulator.artifact import artifact_offline, artifact_online
from helix_df.simulator.azure import azure_offline, azure_online, mean_tokens
from helix_df.simulator.options import Saturate, options_of
from helix_df.simulator.setup import Setup, setup_of
from helix_df.simulator.simulation import Course, Simulation
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.baselines import baselines
from helix_df.solvers.goodput.config import HELD_OUT, SEARCHED, Part, SearchConfig
from helix_df.solvers.goodput.evaluator import Evaluator
from helix_df.solvers.goodput.options import GoodputOptions
from helix_df.solvers.goodput.placements import Ranges, arrays, ranges_of
from helix_df.solvers.goodput.search import FIRST
from helix_df.solvers.neighbours import Neighbours
from helix_df.spec.job import Job

EXAMPLES = Path(__file__).parent.parent / "spec/examples"
CLUSTERS = ("single24", "geo24", "hetero42")
SEEDS = (0, 1, 2)
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


Contestant = tuple[Setup, Job]
"""Who serves, and the job whose serving rules it goes by."""


@dataclass(frozen=True, slots=True)
class Court:
    """A cluster, and the rules by which placements on it are compared."""

    name: str
    rules: str

    @property
    def job(self) -> Job:
        return load_job(EXAMPLES / f"{self.name}.yaml")

    @property
    def rate(self) -> float:
        return published_rate(self.name)

    @property
    def timing(self) -> TimingChoice:
        """The paper's simulator takes the curves as they stand."""
        return "published" if self.rules == "artifact" else "measured"

    def offline(self, contestant: Contestant, seed: int, part: Part, *, wait: bool = False) -> Simulation:
        """Requests never run out; they may wait for room in any case, or as the rules have it."""
        setup, job = contestant
        by_rules = artifact_offline(seed=seed) if self.rules == "artifact" else options_of(job, seed=seed)
        options = replace(by_rules, when_full="wait", feed=Saturate()) if wait else by_rules
        return _simulated(setup, Course(azure_offline(seed, part=part), options))

    def online(self, contestant: Contestant, seed: int, part: Part) -> Simulation:
        """Requests arrive at the published rate."""
        setup, job = contestant
        theirs = artifact_online(seed=seed)
        changes = {"seed": seed, "seconds": theirs.seconds, "warmup_s": theirs.warmup_s}
        options = theirs if self.rules == "artifact" else options_of(job, **changes)
        return _simulated(setup, Course(azure_online(self.rate, options.end_s, seed, part), options))


def _simulated(setup: Setup, course: Course) -> Simulation:
    run = Simulation(setup, course, form="compiled")
    while run.advance(course.options.end_s + 1):
        pass
    return run


def job_for(court: Court, theirs: Setup, seconds: float, brake_s: float | None = None) -> Job:
    """The example with the solver, the rate and the paper's latencies as limits."""
    seen = court.online((theirs, court.job), 1000, SEARCHED)
    within = GoodputOptions().within(seconds)
    options = {"rules": court.rules, "timing": "measured", "work": within.work, "explore": within.explore}
    job = court.job.with_solver(name="goodput", time_limit=brake_s or seconds, options=options)
    limits = job.limits.model_copy(
        update={f"{figure}_p95": MARGIN * seen.percentile(figure, 95) for figure in ("ttft", "itl")}
    )
    return job.model_copy(update={"workload": job.workload.model_copy(update={"rate": court.rate}), "limits": limits})


def show(court: Court, seconds: float, brake_s: float | None, keep: Path | None) -> None:
    name = court.name
    theirs, more_ways = published_setup(name, "helix-milp", court.timing), all_ways(name, court.timing)
    job = job_for(court, theirs, seconds, brake_s)
    began, busy = time.perf_counter(), time.process_time()
    plan = make_plan(job)
    took, cpu = time.perf_counter() - began, time.process_time() - busy
    ours = setup_of(plan, timing=court.timing)
    print(f"\n**{name}**: planned in {took:.0f} s, {cpu:.0f} s of CPU; ", end="")
    print(f"flow {theirs.flow:,.1f} (paper), {plan.flow:,.1f} (ours); ", end="")
    print(f"online at {court.rate:.3g} requests/s; rules: {plan.rules or 'as the job has them'}\n")
    if keep is not None:
        write_plan(plan, keep / f"{name}.plan.json")
    print(
        "| requests | seed | decode, paper | with all links | ours | ratio | to all links "
        "| turned away, paper | ours | ratio where they wait | TTFT p95, s | ITL p95, s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for part, words in ((WHOLE, "whole trace"), (HELD_OUT, "held-out half")):
        for seed in SEEDS:
            contestants = ((theirs, court.job), (more_ways, court.job), (ours, plan.served))
            figures = _row(court, contestants, seed, part)
            print(f"| {words} | {seed} {figures}", flush=True)


def _row(court: Court, contestants: tuple[Contestant, Contestant, Contestant], seed: int, part: Part) -> str:
    theirs, _, ours = contestants
    saturated = [court.offline(one, seed, part) for one in contestants]
    decode = [run.decode_tokens / run.course.options.seconds for run in saturated]
    away = " | ".join(f"{run.turned_away:.0%}" for run in (saturated[0], saturated[2]))
    waiting = [court.offline(one, seed, part, wait=True).decode_tokens for one in (theirs, ours)]
    arrivals = [court.online(one, seed, part) for one in (theirs, ours)]
    latencies = (" → ".join(f"{run.percentile(figure, 95):.2f}" for run in arrivals) for figure in ("ttft", "itl"))
    figures = " | ".join(f"{value:.1f}" for value in decode)
    ratios = f"{decode[2] / decode[0]:.2f} | {decode[2] / decode[1]:.2f}"
    return f"| {figures} | {ratios} | {away} | {waiting[1] / waiting[0]:.2f} | {' | '.join(latencies)} |"


def candidates(evaluator: Evaluator, count: int) -> list[Ranges]:
    """The rules' placements, and what random moves make of them."""
    chance = random.Random(0)
    options = SolveOptions()
    found = [
        ranges_of(*evaluator.judge.arrays(placement)) for _, placement in baselines(evaluator.problem, options, Watch())
    ]
    while len(found) < count:
        near = Neighbours(evaluator.objective, *arrays(chance.choice(found)), chance)
        for _ in range(chance.randint(1, 6)):
            near.move()
        ranges = ranges_of(near.start, near.count)
        if ranges not in found and evaluator.value(near.start, near.count) > 0:
            found.append(ranges)
    return found


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def show_ranking(name: str, count: int) -> None:
    """Rank correlation with simulated throughput, of the surrogate and of the flow."""
    job = load_job(EXAMPLES / f"{name}.yaml")
    config = SearchConfig(job, GoodputOptions(rules="artifact", timing="measured"))
    evaluator = Evaluator(config, compile_problem(job), 0)
    tried = candidates(evaluator, count)
    never: Callable[[], bool] = lambda: False  # noqa: E731
    simulated = [evaluator.simulated(ranges, never, 0, WINDOW_S, spread=FIRST).tokens_per_s for ranges in tried]
    estimated = [evaluator.value(*arrays(ranges)) for ranges in tried]
    flows = [evaluator.judge.flow(*arrays(ranges)) for ranges in tried]
    ratio = np.percentile(np.array(estimated) / np.array(simulated), (10, 50, 90))
    print(
        f"| {name} | {len(tried)} | {rank_correlation(estimated, simulated):.2f} | "
        f"{rank_correlation(flows, simulated):.2f} | {ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f}) |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--brake", type=float, help="seconds that a busy machine may take for the same work")
    parser.add_argument("--rules", choices=("artifact", "runtime"), default="artifact")
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
            show(Court(name, arguments.rules), arguments.seconds, arguments.brake, arguments.keep)


if __name__ == "__main__":
    main()
