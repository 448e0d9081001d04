"""Jobs of many nodes as a user meets them: seconds and peak memory of ``helix-df validate`` and ``plan``.

    python -m benchmarks.fleet_jobs_table [--nodes 1000 10000] [--time-limit 30s]

Nodes are declared by GPU type and site in groups (``count``), so that the job has few lines however many there are.
Each command runs in a process of its own; memory is the largest of any process of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helix_df.plan.plan import read_plan

GPUS = {"A100-40GB": 0.1, "L4": 0.3, "T4": 0.3, "2xL4": 0.1, "4xT4": 0.2}
"""Shares of the nodes, as single nodes of the paper's large cluster have them, roughly."""

SITES = ("frankfurt", "virginia", "tokyo", "sydney")

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a command took, and what it printed."""

    seconds: float
    peak_mib: float
    printed: str


def job_text(nodes: int) -> str:
    """A job of so many nodes, alike but for type and site."""
    groups = [
        f"  {gpu.lower()}-{site}: {{gpu: {gpu}, region: {site}, count: {max(1, round(nodes * share / len(SITES)))}, "
        f"address: '{gpu.lower()}-{{n}}.{site}.example'}}"
        for gpu, share in GPUS.items()
        for site in SITES
    ]
    between = [f"    - {{between: [{site}, {site}], bandwidth: 10Gbps, latency: 0.5ms}}" for site in SITES]
    lines = [
        f"name: fleet{nodes}",
        "model: {source: 'random:llama-2-70b', dtype: float16}",
        "nodes:",
        *groups,
        "links:",
        "  default: {bandwidth: 1Gbps, latency: 60ms}",
        "  regions:",
        *between,
        f"coordinator: {{region: {SITES[0]}, address: api.example}}",
        "limits: {max_hops: 10}",
    ]
    return "\n".join([*lines, ""])


def taken(command: Command) -> Taken:
    """Run a command of helix-df."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, "-m", "helix_df", *command], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise SystemExit(f"helix-df {' '.join(command)}\n{printed}")
    return Taken(seconds, usage.ru_maxrss / 1024, printed)


def measure(nodes: int, time_limit: str, folder: Path) -> str:
    """A row of the table."""
    job, plan = folder / f"fleet{nodes}.yaml", folder / f"fleet{nodes}.plan.json"
    job.write_text(job_text(nodes), encoding="utf-8")
    checked = taken(("validate", str(job)))
    planned = taken(("plan", str(job), "--time-limit", time_limit, "--out", str(plan)))
    found = read_plan(plan)
    return (
        f"| {len(found.job.nodes):,} | {len(job.read_text('utf-8').splitlines())} | {checked.seconds:.1f} | "
        f"{checked.peak_mib:,.0f} | {planned.seconds:.1f} | {planned.peak_mib:,.0f} | "
        f"{found.flow:,.0f} | {100 * found.gap:.1f} % |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--time-limit", default="30s", help="of the solver")
    options = parser.parse_args(arguments)
    print("| nodes | lines | validate, s | MiB | plan, s | MiB | tokens/s | below the bound |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for nodes in options.nodes:
            print(measure(nodes, options.time_limit, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
