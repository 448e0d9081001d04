"""How long simulations take, and how much memory: ``python -m benchmarks.bench_simulator`` or under pytest-benchmark.

Each case runs in a process of its own with one thread, so that its peak memory is its own. The first is the published
single24 run of LLaMA-2-70B, 60 s + 600 s; then the runtime's rules; then 10,000 and 100,000 requests that arrive at a
cluster of 200 random nodes planned by ``petals`` (few hops), at half of the rate that its flow allows.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from helix_df.graph.problem import NodeProfile
    from helix_df.profiles.timing import LayerTiming
    from helix_df.simulator import Setup
    from helix_df.simulator.options import Options
    from helix_df.simulator.trace import Trace

CASES = ("artifact", "runtime", "200 nodes 10000", "200 nodes 100000")


def run_case(case: str) -> dict[str, float]:
    """Run one case here; seconds and CPU seconds of the simulation alone, peak memory in MB, and what was simulated."""
    setup, trace, options = _case(case)
    from helix_df.simulator import simulate

    began, used = time.perf_counter(), time.process_time()
    outcome = simulate(setup, trace, options)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - used,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "requests": len(outcome.requests),
        "tokens": int(outcome.requests.generated_tokens.sum()),
        "decode_tokens_per_s": outcome.decode_tokens_per_s,
    }


def _case(case: str) -> tuple[Setup, Trace, Options]:
    from helix_df.simulator.artifact import artifact_offline
    from helix_df.simulator.azure import azure_offline
    from helix_df.simulator.options import Options

    if case == "artifact":
        from benchmarks.paper import published_setup

        return published_setup("single24", "helix-milp"), azure_offline(), artifact_offline()
    if case == "runtime":
        from benchmarks.paper import published_setup

        return published_setup("single24", "helix-milp"), azure_offline(), Options(max_batch=64)
    return _large(int(case.rpartition(" ")[2]))


def _large(requests: int) -> tuple[Setup, Trace, Options]:
    from benchmarks.generate import random_cluster
    from helix_df.simulator.options import Options
    from helix_df.simulator.setup import StageSetup, assemble_setup
    from helix_df.simulator.synthetic import Lengths, poisson
    from helix_df.solvers.api import SolveOptions, Watch
    from helix_df.solvers.planner import solve_problem
    from helix_df.solvers.registry import get_solver

    problem = random_cluster(200)
    placement, flow, *_ = solve_problem(problem, get_solver("petals"), SolveOptions(), Watch())
    nodes = {node.name: node for node in problem.nodes}
    stages = tuple(
        StageSetup(
            name,
            layers,
            _timing(nodes[name], len(layers)),
            max(nodes[name].kv_tokens[len(layers) - 1], 50_000),
            nodes[name].nic_bytes_per_s,
        )
        for name, layers in sorted(placement.items())
    )
    setup = assemble_setup("200 nodes", problem, stages, flow.edges, flow.value)
    inputs, outputs = Lengths("uniform", 50, 450), Lengths("uniform", 10, 90)
    rate = 0.5 * flow.value / 300
    trace = poisson(rate, requests / rate, inputs, outputs, seed=1)
    seconds = trace.requests[-1].arrival_s
    return setup, trace, Options(seconds=seconds, warmup_s=0.0, drain=True, max_batch=256, max_queue=10**9)


def _timing(node: NodeProfile, layers: int) -> LayerTiming:
    """The generator's throughput in the shape that was measured on a like GPU."""
    from benchmarks.paper import measured
    from helix_df.profiles.throughput import Requests
    from helix_df.profiles.timing import declared_timing, measured_timing

    shape = measured_timing(measured("70b", "A100-40GB"), layers)
    return declared_timing(node.throughput(layers), node.kv_tokens[layers - 1], layers, shape, Requests(250, 100, 256))


def in_a_process(case: str) -> dict[str, float]:
    """The case in a process of its own, which has one thread."""
    command = [sys.executable, "-m", "benchmarks.bench_simulator", case]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(found.stdout)
    return result


@pytest.mark.parametrize("case", CASES[:3])
def test_bench_simulator(benchmark: Any, case: str) -> None:
    result = benchmark.pedantic(in_a_process, args=(case,), rounds=1)
    benchmark.extra_info.update(result)
    assert result["peak_mb"] < 500


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(run_case(sys.argv[1])))
        return
    print(f"{'case':18} {'requests':>9} {'tokens':>11} {'seconds':>8} {'CPU s':>7} {'peak MB':>8} {'µs/token':>9}")
    for case in CASES:
        row = in_a_process(case)
        each = 1e6 * row["cpu_seconds"] / row["tokens"]
        print(
            f"{case:18} {row['requests']:9,.0f} {row['tokens']:11,.0f} {row['seconds']:8.1f} "
            f"{row['cpu_seconds']:7.1f} {row['peak_mb']:8.0f} "
            f"{each:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
