"""vLLM: one pipeline of uneven stages.

Sources (github.com/vllm-project/vllm): ``get_pp_indices`` in ``vllm/distributed/utils.py`` and its test
``tests/distributed/test_pipeline_partition.py`` (``VLLM_PP_LAYER_PARTITION`` holds one count a stage, comma-separated;
as many as ``--pipeline-parallel-size``, and their sum is the model's layers). ``docs/serving/parallelism_scaling.md``
on multiprocessing (``--nnodes``, ``--node-rank``, ``--master-addr``, and ``--headless`` on all hosts but the first).
That backend is exported, since Ray orders stages by the address of their node (``ray_executor.py``): only node ranks
keep the plan's order.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import groupby

from helix_df.exporters.api import Command, Export
from helix_df.exporters.pipelines import gpu_count, idle_note, linear_chain, model_path, refusal, worker_host
from helix_df.plan.plan import Plan, Stage

NAME = "vLLM"


def export(plan: Plan) -> Export:
    """The environment and the commands that run a plan's pipeline in vLLM.

    Raises:
        PlanError: for several pipelines, stages with different numbers of GPUs, or hosts with different numbers of
            stages.
    """
    chain = linear_chain(plan, NAME)
    tensor_parallel = _tensor_parallel(plan, chain)
    hosts = _hosts(plan, chain)
    partition = ",".join(str(len(stage.layers)) for stage in chain)
    model, model_notes = model_path(plan.job, "hf")
    common = [
        *("vllm", "serve", model, "--dtype", plan.job.model.dtype),
        *("--tensor-parallel-size", str(tensor_parallel)),
        *("--pipeline-parallel-size", str(len(chain))),
    ]
    if plan.job.model.context is not None:
        common += ["--max-model-len", str(plan.job.model.context)]
    commands = []
    for rank, (host, stages) in enumerate(hosts):
        arguments = list(common)
        if len(hosts) > 1:
            arguments += ["--nnodes", str(len(hosts)), "--node-rank", str(rank), "--master-addr", hosts[0][0]]
        if rank:
            arguments.append("--headless")
        names = tuple(stage.node for stage in stages)
        commands.append(Command(host, names, f"VLLM_PP_LAYER_PARTITION={partition} {shlex.join(arguments)}"))
    facts = {
        "VLLM_PP_LAYER_PARTITION": partition,
        "pipeline_parallel_size": len(chain),
        "tensor_parallel_size": tensor_parallel,
        "node_order": [stage.node for stage in chain],
    }
    return Export("vllm", tuple(commands), facts, (*idle_note(plan), *model_notes, *_host_notes(hosts)))


def _tensor_parallel(plan: Plan, chain: Sequence[Stage]) -> int:
    counts = {stage.node: gpu_count(plan.job, stage.node) for stage in chain}
    if len(set(counts.values())) > 1:
        found = [
            f"{count} GPU{'s' if count > 1 else ''} each: {', '.join(name for name in counts if counts[name] == count)}"
            for count in sorted(set(counts.values()))
        ]
        raise refusal(
            "vLLM has one --tensor-parallel-size for all stages", found, expected="as many GPUs in every stage's node"
        )
    return next(iter(counts.values()))


def _hosts(plan: Plan, chain: Sequence[Stage]) -> list[tuple[str, list[Stage]]]:
    by_host = groupby(chain, key=lambda stage: worker_host(plan.job, stage.node))
    hosts = [(host, list(stages)) for host, stages in by_host]
    sizes = {len(stages) for _, stages in hosts}
    if len(sizes) > 1 or len({host for host, _ in hosts}) < len(hosts):
        raise refusal(
            "vLLM gives every host the same number of stages, in the order of node ranks",
            [f"{host}: {', '.join(stage.node for stage in stages)}" for host, stages in hosts],
            expected="hosts with equally many stages, those of a host next to each other",
        )
    return hosts


def _host_notes(hosts: Sequence[tuple[str, Sequence[Stage]]]) -> tuple[str, ...]:
    notes = []
    if any(len(stages) > 1 for _, stages in hosts):
        notes.append(
            "a host's stages take its GPUs in order: set CUDA_VISIBLE_DEVICES to the GPUs of the nodes as listed"
        )
    if len(hosts) > 1 and hosts[0][0].startswith("127."):
        notes.append(f"the other hosts can't reach {hosts[0][0]}: put an address of this machine after --master-addr")
    return tuple(notes)
