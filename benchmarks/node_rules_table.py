"""Batches of their own for each GPU type, or each node: what they would serve beyond the best common ones.

    python -m benchmarks.node_rules_table [CLUSTER …] [--plans FOLDER] [--by node]

LLaMA-2-70B on the Helix paper's clusters with measured curves, by the runtime's rules: the paper's placements, and
plans (``CLUSTER.plan.json``, as ``goodput_table --keep`` writes them). ``max_batch`` and ``max_prefill_tokens`` are
stepped one at a time for as long as that generates more when requests never run out, 600 s on two draws: first for all
nodes alike, from what the plan chose; then from there for each GPU type alone, or each node. Pieces of prompts are cut
before they reach a node, so what a node alone may choose is how many it takes at once; their length is stepped along
with the others, for all. ``elsewhere`` is the gain on the half of the recorded requests that nobody stepped by, on
three draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.goodput_table import CLUSTERS, SEEDS, Court
from benchmarks.paper import published_setup
from helix_df.plan.plan import read_plan
from helix_df.plan.serving import ServingRules, next_to, rules_of, with_rules
from helix_df.simulator.azure import azure_offline
from helix_df.simulator.options import options_of
from helix_df.simulator.setup import Setup, setup_of
from helix_df.simulator.simulation import Course, Simulation
from helix_df.simulator.trace import Trace
from helix_df.solvers.goodput.config import HELD_OUT, SEARCHED
from helix_df.solvers.goodput.worker_pool import WorkerPool, open_pool
from helix_df.spec.job import Job
from tests.clusters import cluster

STEPPED = ("max_batch", "max_prefill_tokens")
DRAWS = (1000, 1001)
"""Seeds of the requests that rules are stepped by."""

SWEEPS = 4
"""Most rounds through all groups."""

COLUMNS = ("placement", "common rules", "tokens/s", "pieces", "of their own", "tokens/s", "gain", "elsewhere", "tried")


@dataclass(frozen=True, slots=True)
class NodeRules:
    """Rules of all nodes, and those of some groups of nodes instead."""

    common: ServingRules
    own: Mapping[str, ServingRules] = field(default_factory=dict)

    def of(self, group: str) -> ServingRules:
        """By which a group's nodes batch."""
        return self.own.get(group, self.common)

    def __str__(self) -> str:
        others = {group: rules for group, rules in sorted(self.own.items()) if rules != self.common}
        words = [f"{group} {rules.max_batch} / {rules.max_prefill_tokens}" for group, rules in others.items()]
        return ", ".join(words) or "none"


@dataclass(frozen=True, slots=True)
class GroupedSetup:
    """A placement, the job that it serves, and which group each of its nodes is of."""

    setup: Setup
    job: Job
    group_of: Mapping[str, str]

    @property
    def groups(self) -> list[str]:
        """Those that hold layers."""
        return sorted({self.group_of[stage.name] for stage in self.setup.stages})

    def generated(self, rules: NodeRules, trace: Trace, seed: int) -> float:
        """Tokens/s when requests never run out."""
        stages = tuple(
            replace(stage, max_batch=own.max_batch, max_prefill_tokens=own.max_prefill_tokens)
            for stage in self.setup.stages
            for own in (rules.of(self.group_of[stage.name]),)
        )
        options = options_of(with_rules(self.job, rules.common), seed=seed)
        run = Simulation(replace(self.setup, stages=stages), Course(trace, options), form="compiled")
        run.run()
        return run.decode_tokens / options.seconds


@dataclass(slots=True)
class Descent:
    """Steps one rule at a time; ``best`` generates ``tokens_per_s`` on the draws of the search."""

    trial: GroupedSetup
    pool: WorkerPool
    best: NodeRules
    traces: Sequence[Trace] = field(default_factory=lambda: [azure_offline(seed, part=SEARCHED) for seed in DRAWS])
    tokens_per_s: float = 0.0
    tried: int = 0

    def __post_init__(self) -> None:
        self.tokens_per_s = self._worth([self.best])[0]

    def step(self, others: Sequence[NodeRules]) -> bool:
        """Go to the best of these, if it is better."""
        worths = self._worth(others)
        best = max(range(len(others)), key=worths.__getitem__)
        if worths[best] <= self.tokens_per_s:
            return False
        self.best, self.tokens_per_s = others[best], worths[best]
        return True

    def common(self) -> None:
        """The best rules of all nodes alike."""
        while self.step([NodeRules(rules) for rules in next_to(self.best.common, STEPPED)]):
            pass

    def own(self) -> None:
        """The best rules of every group, from the best common ones."""
        for _ in range(SWEEPS):
            steps = [self._length(), *(self._group(group) for group in self.trial.groups)]
            moved = [self.step(list(others)) for others in steps]
            if not any(moved):
                return

    def _length(self) -> Iterator[NodeRules]:
        """Pieces of another length for all, while every group takes as much at once as it did."""
        kept = {group: self.best.of(group) for group in self.trial.groups}
        return (NodeRules(rules, kept) for rules in next_to(self.best.common, ("max_prefill_tokens",)))

    def _group(self, group: str) -> Iterator[NodeRules]:
        for rules in next_to(self.best.of(group), STEPPED):
            yield NodeRules(self.best.common, {**self.best.own, group: rules})

    def _worth(self, rules: Sequence[NodeRules]) -> list[float]:
        tasks = [(one, trace, seed) for one in rules for trace, seed in zip(self.traces, DRAWS, strict=True)]
        found = self.pool.perform(lambda task: self.trial.generated(*task), tasks, lambda: False)
        self.tried += len(rules)
        values = [value for value in found if value is not None]
        return [sum(values[at : at + len(DRAWS)]) / len(DRAWS) for at in range(0, len(values), len(DRAWS))]


def row(name: str, who: str, trial: GroupedSetup, pool: WorkerPool) -> str:
    """The best common rules, the best of each group, and what the latter bring on other requests."""
    descent = Descent(trial, pool, NodeRules(rules_of(trial.job)))
    descent.common()
    common, common_tokens_per_s = descent.best, descent.tokens_per_s
    descent.own()
    found, gain = descent.best, descent.tokens_per_s / common_tokens_per_s - 1
    traces = [azure_offline(seed, part=HELD_OUT) for seed in SEEDS]
    before, after = (
        [trial.generated(rules, trace, seed) for trace, seed in zip(traces, SEEDS, strict=True)]
        for rules in (common, found)
    )
    others = ", ".join(f"{other / one - 1:+.1%}" for one, other in zip(before, after, strict=True))
    rules = f"{common.common.max_batch} / {common.common.max_prefill_tokens}"
    pieces = found.common.max_prefill_tokens
    return (
        f"| {name}, {who} | {rules} | {sum(before) / len(before):,.1f} | {pieces} | {found} "
        f"| {sum(after) / len(after):,.1f} | {gain:+.1%} | {others} | {descent.tried} |"
    )


def trials(name: str, plans: Path | None, by: str) -> Iterator[tuple[str, GroupedSetup]]:
    """What serves a cluster."""
    court = Court(name, "runtime")

    def groups(gpus: Mapping[str, str]) -> Mapping[str, str]:
        return gpus if by == "gpu" else {node: node for node in gpus}

    published = published_setup(name, "helix-milp", court.timing)
    yield "published", GroupedSetup(published, court.job, groups({node.name: node.gpu for node in cluster(name).nodes}))
    path = plans / f"{name}.plan.json" if plans is not None else None
    if path is not None and path.exists():
        plan = read_plan(path)
        gpus = {node: declared.gpu for node, declared in plan.job.nodes.items()}
        yield "ours", GroupedSetup(setup_of(plan, timing=court.timing), plan.served, groups(gpus))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=Path, help="a folder with plans")
    parser.add_argument("--by", choices=("gpu", "node"), default="gpu", help="whose rules are stepped alone")
    parser.add_argument("--only", choices=("published", "ours"), help="of the placements")
    parser.add_argument("clusters", nargs="*", default=list(CLUSTERS))
    asked = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with open_pool() as pool:
        for name in asked.clusters:
            for who, trial in trials(name, asked.plans, asked.by):
                if asked.only in (None, who):
                    print(row(name, who, trial, pool), flush=True)


if __name__ == "__main__":
    main()
