"""The promise on hosts that are apart: workers in network namespaces, links of the rates that the kernel gives them.

    python -m benchmarks.promise_hosts_table                  # about 8 minutes
    python -m benchmarks.promise_hosts_table --clusters two-sites --seconds 60

The clusters of ``benchmarks.promise_table``, routed by the flow. A worker keeps to its node's speed; what a host sends
to another goes at the rate of their link (``tc``, a class of HTB for each pair), headers of Ethernet, IP and TCP
included. The kernel here can't delay packets, so workers hold messages back for the latency of a link, and for that
alone. Beside it the simulation of the same plan under the same requests, with the links as the job declares them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.promise_table import CLUSTERS, IN_FLIGHT, TRACE, Run, kept_up, plan_of, promise_rows
from helix_df.benchmarking import Load, bench_job
from helix_df.benchmarking.run import at_rest
from helix_df.graph.compile import link_table
from helix_df.graph.problem import COORDINATOR
from helix_df.models.tokenizer import load_tokenizer
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import LocalJob
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.coordinator.shell import Coordinator, context_of
from helix_df.spec.job import CoordinatorHost, Links
from tests.chaos.hosts import HOME, Hosts, enter, inside, why_not
from tests.chaos.launcher import HostLauncher

UNLIMITED = 1e12
"""Bytes/s of a link whose rate isn't the workers' to keep to."""


def on_hosts(plan: Plan, hosts: Hosts) -> Plan:
    """The plan with its nodes on hosts, whose workers keep to speeds and latencies, and not to rates of links."""
    job = plan.job
    declared = job.links
    links = Links.model_construct(
        default=None if declared.default is None else declared.default.model_copy(update={"bandwidth": UNLIMITED}),
        regions=tuple(one.model_copy(update={"bandwidth": UNLIMITED}) for one in declared.regions),
        nodes=tuple(one.model_copy(update={"bandwidth": UNLIMITED}) for one in declared.nodes),
    )
    nodes = {name: node.model_copy(update={"address": hosts.address[name]}) for name, node in job.nodes.items()}
    home = CoordinatorHost(region=job.coordinator.region, address=HOME)
    runtime = job.runtime.model_copy(update={"encryption": "never", "trust_network": True})
    changed = {"links": links, "nodes": nodes, "coordinator": home, "runtime": runtime}
    return replace(plan, job=job.model_copy(update=changed))


def shape(plan: Plan, hosts: Hosts) -> None:
    """Give every link between two hosts the rate that the job declares."""
    table = link_table(plan.job)
    address = {name: hosts.address[name] for name in plan.job.nodes} | {COORDINATOR: HOME}

    def rates(tail: str) -> Mapping[str, float]:
        links = {head: table.find(tail, head) for head in address if head != tail}
        return {address[head]: 8 * link.bytes_per_s for head, link in links.items() if link is not None}

    for tail in address:
        hosts.shape(None if tail == COORDINATOR else tail, rates(tail))


async def measure(plan: Plan, hosts: Hosts, load: Load) -> Run:
    """One run of a cluster on hosts."""
    served, model = on_hosts(plan, hosts), plan.job.model
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as logs:
        launcher = HostLauncher(hosts, tells=True)
        coordinator = Coordinator(served, lambda _: launcher, log_dir=Path(logs))
        tokenizer = load_tokenizer(model.parsed_source)
        service = TextService(coordinator, tokenizer, model_name=model.served_name, context=context_of(plan))
        try:
            await coordinator.start()
            await coordinator.wait_ready(plan.job.runtime.start_timeout)
            job = LocalJob(service)
            await at_rest(job, plan.job.name, lambda shapes: None)
            shape(plan, hosts)
            return Run(await bench_job(job, plan, TRACE, load), *kept_up(Path(logs)))
        finally:
            await coordinator.close()


async def show(clusters: list[str], load: Load) -> None:
    runs = {}
    hosts = Hosts(list(dict.fromkeys(name for cluster in clusters for name in CLUSTERS[cluster]["nodes"])))
    for cluster in clusters:
        runs[cluster, "flow"] = run = await measure(plan_of(cluster), hosts, load)
        print(
            f"{cluster}: {run.report.measured.tokens_per_s:.1f} tokens/s, {run.kept_up}, "
            f"load average {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    print("\n" + "\n".join(promise_rows(runs)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", nargs="+", choices=CLUSTERS, default=list(CLUSTERS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of the window")
    parser.add_argument("--warmup", type=float, default=30.0, help="seconds before it")
    asked = parser.parse_args()
    if inside():
        asyncio.run(show(asked.clusters, Load(asked.seconds, asked.warmup, IN_FLIGHT)))
        return
    if why_not() is not None:
        parser.error(f"no hosts can be made here: {why_not()}")
    times = ["--seconds", str(asked.seconds), "--warmup", str(asked.warmup)]
    with enter("benchmarks.promise_hosts_table", ["--clusters", *asked.clusters, *times]) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
    raise SystemExit(process.returncode)


if __name__ == "__main__":
    main()
