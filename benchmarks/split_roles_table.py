"""Prompts on some nodes, decode steps on the others: what that could serve, beside one set of nodes for both.

    python -m benchmarks.split_roles_table [CLUSTER …] [--seconds 60] [--brake SECONDS] [--plans FOLDER]

Some nodes compute prompts and send their KV cache to others, which decode and never see a prompt (prefill and decode
disaggregated: DistServe, arXiv 2401.09670). LLaMA-2-70B on the Helix paper's clusters with measured curves, by the
runtime's rules. For every set of GPU types whose memory holds the model, those nodes are taken for prompts and
``goodput`` plans the others, with prompts that cost no computing there and the KV cache that they fill; the row says
what they generate when saturated for 600 s. That flatters the split, since the transfer of KV cache between the two
takes no longer than that of a prompt's activations; it is what a search finds, no bound. ``prompts`` is what a chain of
the first set computes at most, in requests/s, in pieces of 512 tokens. With ``--plans``, the last column is the ratio
to the plan for all nodes (``CLUSTER.plan.json``, as ``goodput_table --keep`` writes them).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from benchmarks.goodput_table import CLUSTERS, EXAMPLES
from helix_df.errors import Infeasible
from helix_df.graph.compile import compile_problem
from helix_df.graph.problem import Problem
from helix_df.graph.stage_timing import stage_timing
from helix_df.load import load_job
from helix_df.plan.plan import Plan, read_plan
from helix_df.planning import make_plan
from helix_df.profiles.catalogue import find_device
from helix_df.simulator import predict
from helix_df.solvers.goodput.options import GoodputOptions
from helix_df.spec.job import GpuType, Job, Profile, Runtime

PIECE = 512
"""Prompt tokens of a piece where nobody decodes beside it."""

ROOM = 0.9
"""Share of a device's memory that weights may fill where no KV cache stays."""

NOTHING_MS = 1e-6
"""Milliseconds of a prompt that comes with its KV cache: the language has no zero."""


def layers_by_memory(job: Job, problem: Problem, gpu: str) -> int:
    """Layers whose weights fit a device that keeps no KV cache."""
    device, origin = find_device(gpu), problem.origin
    assert device is not None, "the catalogue has the paper's devices"
    assert origin is not None, "compiled from a job"
    return int(ROOM * device.memory_bytes // (origin.geometry.layer_parameters * job.model.element_bytes))


def prompt_sets(job: Job, problem: Problem) -> Iterator[tuple[str, ...]]:
    """Smallest sets of GPU types whose nodes hold the model, and leave nodes that may hold it, too."""
    held = dict.fromkeys((node.gpu for node in problem.nodes), 0)
    left = dict(held)
    for node in problem.nodes:
        held[node.gpu] += layers_by_memory(job, problem, node.gpu)
        left[node.gpu] += len(node.tokens_per_s)
    found: list[set[str]] = []
    for size in range(1, len(held)):
        for chosen in combinations(held, size):
            enough = sum(held[gpu] for gpu in chosen) >= problem.num_layers
            others = sum(left[gpu] for gpu in held if gpu not in chosen) >= problem.num_layers
            if enough and others and not any(smaller <= set(chosen) for smaller in found):
                found.append(set(chosen))
                yield chosen


def prompts_per_s(job: Job, problem: Problem, chosen: tuple[str, ...]) -> float:
    """Requests/s whose prompts a chain of these nodes computes at most, when every node is busy at all times."""
    origin = problem.origin
    assert origin is not None, "compiled from a job"
    speeds = []
    for node in problem.nodes:
        if node.gpu in chosen:
            timing = stage_timing(job, origin.geometry, origin.requests, node.gpu, 1, node.kv_tokens[0])
            speeds.append(PIECE / timing.prefill_s(PIECE))
    return sum(speeds) / problem.num_layers / origin.requests.input_tokens


def decoding_job(job: Job, problem: Problem, chosen: tuple[str, ...], seconds: float, brake_s: float) -> Job:
    """The other nodes, for whom prompts come with their KV cache."""
    origin = problem.origin
    assert origin is not None, "compiled from a job"
    gpus: dict[str, GpuType] = {}
    for node in problem.nodes:
        if node.gpu not in chosen and node.gpu not in gpus:
            timing = stage_timing(job, origin.geometry, origin.requests, node.gpu, 1, node.kv_tokens[0])
            decode_ms = tuple((int(steps), 1e3 * time_s) for steps, time_s in timing.decode if steps >= 1)
            profile = Profile(prefill_ms=((1, NOTHING_MS),), decode_ms=decode_ms, kv_tokens=node.kv_tokens)
            gpus[node.gpu] = GpuType(profile=profile)
    work = GoodputOptions().within(seconds)
    solver = job.solver.model_copy(
        update={
            "name": "goodput",
            "time_limit": brake_s,
            "options": {"work": work.work, "explore": work.explore},
        }
    )
    nodes = {name: node for name, node in job.nodes.items() if node.gpu not in chosen}
    return job.model_copy(
        update={"gpus": gpus, "nodes": nodes, "solver": solver, "runtime": Runtime(max_prefill_tokens=PIECE)}
    )


def generated(plan: Plan) -> float:
    """Tokens/s when saturated for 600 s."""
    return predict(plan).decode_tokens_per_s


def rows(name: str, seconds: float, brake_s: float, plans: Path | None) -> Iterator[str]:
    """Every way to split the roles of a cluster's nodes."""
    job = load_job(EXAMPLES / f"{name}.yaml")
    problem = compile_problem(job)
    whole = generated(read_plan(plans / f"{name}.plan.json")) if plans is not None else None
    if whole is not None:
        yield f"| {name} | – | | all | {whole:,.1f} | |"
    for chosen in prompt_sets(job, problem):
        given = decoding_job(job, problem, chosen, seconds, brake_s)
        try:
            tokens_per_s = generated(make_plan(given))
        except Infeasible:
            tokens_per_s = 0.0
        ratio = f"{tokens_per_s / whole:.2f}" if whole else ""
        prompts = prompts_per_s(job, problem, chosen)
        yield f"| {name} | {', '.join(chosen)} | {prompts:.1f} | {len(given.nodes)} | {tokens_per_s:,.1f} | {ratio} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of search for each row, on two quiet cores")
    parser.add_argument("--brake", type=float, default=600.0, help="seconds that a busy machine may take for it")
    parser.add_argument("--plans", type=Path, help="a folder with plans for all nodes")
    parser.add_argument("clusters", nargs="*", default=list(CLUSTERS))
    asked = parser.parse_args()
    print("| cluster | prompts on | prompts/s | nodes that decode | tokens/s | of all nodes for both |")
    print("|---|---|---|---|---|---|")
    for name in asked.clusters:
        for row in rows(name, asked.seconds, asked.brake, asked.plans):
            print(row, flush=True)


if __name__ == "__main__":
    main()
