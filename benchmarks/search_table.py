"""The same plan on any machine: ``python -m benchmarks.search_table [CLUSTER …]``.

Searches for goodput with 1, 2 and 4 workers, first on the machine as it is and then beside one busy loop for each core,
and prints a fingerprint of each plan's placement and flow with the seconds that it took. Work is counted, so that all
fingerprints of a cluster are the same; ends with 1 where they aren't.

    --work 400 --explore 1500   of each search, see ``docs/goodput.md``
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helix_df.load import load_job
from helix_df.plan.plan import Plan
from helix_df.planning import make_plan

EXAMPLES = Path(__file__).parent.parent / "spec/examples"
CLUSTERS = ("single24", "geo24", "hetero42")
WORKERS = (1, 2, 4)

BRAKE_S = 3600.0
"""A time limit that no search here comes to."""


def fingerprint(plan: Plan) -> str:
    """Names a placement and its flow, to the digit."""
    return hashlib.sha256(repr((plan.stages, plan.edges)).encode()).hexdigest()[:12]


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep so many cores busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def search(cluster: str, workers: int, work: int, explore: int) -> tuple[str, float, float]:
    """A plan's fingerprint, and the seconds and CPU seconds that it took."""
    options = {"work": work, "explore": explore, "workers": workers, "timing": "measured"}
    job = load_job(EXAMPLES / f"{cluster}.yaml").with_solver(name="goodput", time_limit=BRAKE_S, options=options)
    began, used = time.perf_counter(), time.process_time()
    plan = make_plan(job)
    return fingerprint(plan), time.perf_counter() - began, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clusters", nargs="*", default=CLUSTERS)
    parser.add_argument("--work", type=int, default=400)
    parser.add_argument("--explore", type=int, default=1500)
    asked = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    search("single24", 1, 1, 1)
    print(f"{cores} cores; seconds (CPU seconds) of a search with 1, 2 and 4 workers\n")
    print("| cluster | beside | 1 | 2 | 4 | plan |\n|---|---|---|---|---|---|")
    same = True
    for cluster in asked.clusters:
        seen: set[str] = set()
        for loops in (0, cores):
            with busy_loops(loops):
                found = [search(cluster, workers, asked.work, asked.explore) for workers in WORKERS]
            seen |= {one for one, _, _ in found}
            times = " | ".join(f"{wall:.0f} ({cpu:.0f})" for _, wall, cpu in found)
            beside = f"{loops} busy loops" if loops else "nothing"
            print(f"| {cluster} | {beside} | {times} | {', '.join(sorted(seen))} |", flush=True)
        same = same and len(seen) == 1
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
