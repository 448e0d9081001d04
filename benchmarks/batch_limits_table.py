"""What batches are worth: the same placements under several limits on prompt tokens and steps, and under chosen rules.

    python -m benchmarks.batch_limits_table [CLUSTER …] [--plans FOLDER]

LLaMA-2-70B on the Helix paper's clusters with measured curves, by the runtime's rules, saturated for 600 s after 60 s
of warm-up: generated tokens/s and the median time to first token. The paper's placements have the links that were
published with them, and a row of what they serve where no piece of a prompt rides with decode steps; plans
(``CLUSTER.plan.json``, as ``goodput_table --keep`` writes them) have their own flow, and a column for the rules that
they chose.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.goodput_table import CLUSTERS, Contestant, Court
from benchmarks.paper import published_setup
from helix_df.plan.plan import read_plan
from helix_df.plan.serving import rules_of, with_rules
from helix_df.simulator.azure import azure_offline
from helix_df.simulator.options import options_of
from helix_df.simulator.setup import setup_of
from helix_df.simulator.simulate import simulate

LIMITS = ((512, 16), (128, 64), (64, 64))
"""Prompt tokens and steps of a batch; the first are the defaults."""


def figures(contestant: Contestant, rides: bool = True) -> str:
    setup, job = contestant
    run = simulate(setup, azure_offline(), options_of(job, rides=rides), form="compiled")
    return f"{run.decode_tokens_per_s:,.1f}, {run.percentile('ttft', 50):.1f} s"


def row(court: Court, who: str, contestant: Contestant, rides: bool = True) -> str:
    """One placement under all limits, and by its own rules where it has some."""
    setup, job = contestant
    rules, own = rules_of(court.job), rules_of(job)
    limits = [replace(rules, max_prefill_tokens=tokens, max_batch=steps) for tokens, steps in LIMITS]
    cells = [figures((setup, with_rules(court.job, one)), rides) for one in limits]
    cells.append(f"{figures(contestant, rides)} ({own})" if own != rules else "")
    return f"| {court.name}, {who} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=Path, help="a folder with plans")
    parser.add_argument("clusters", nargs="*", default=list(CLUSTERS))
    arguments = parser.parse_args()
    heads = " | ".join(f"{tokens} / {steps}" for tokens, steps in LIMITS)
    print(f"| placement | {heads} | chosen rules |\n|---|{'---|' * (len(LIMITS) + 1)}")
    for name in arguments.clusters:
        court = Court(name, "runtime")
        published = published_setup(name, "helix-milp", court.timing), court.job
        print(row(court, "published, prompts apart", published, rides=False), flush=True)
        print(row(court, "published", published), flush=True)
        path = arguments.plans / f"{name}.plan.json" if arguments.plans is not None else None
        if path is not None and path.exists():
            plan = read_plan(path)
            print(row(court, "ours", (setup_of(plan, timing=court.timing), plan.served)), flush=True)


if __name__ == "__main__":
    main()
