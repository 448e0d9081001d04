"""llama.cpp: one pipeline over RPC servers.

Sources: ``tools/rpc/README.md`` (``rpc-server``, ``--rpc host:port,…``, ``--tensor-split`` over all devices).
``src/llama.cpp`` (RPC devices come first, in the order of ``--rpc``) and ``load_tensors`` in ``src/llama-model.cpp``:
of ``L`` layers and the output layer as number ``L``, layer ``i`` goes to the first device whose share of the split,
added up, is above ``i / (L + 1)`` once all are offloaded. So counts that add up to ``L + 1``, the last one including
the output layer, place every layer exactly. ``common/arg.cpp`` accepts fewer entries than ``llama_max_devices()``, 16.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from helix_df.exporters.api import Command, Export
from helix_df.exporters.pipelines import gpu_count, idle_note, linear_chain, model_path, refusal, worker_host
from helix_df.plan.plan import Plan, Stage
from helix_df.profiles.read_geometry import locate_gguf

NAME = "llama.cpp"
FIRST_PORT = 50052
MAX_DEVICES = 15


def export(plan: Plan) -> Export:
    """The commands that run a plan's pipeline on one RPC server a node.

    Raises:
        PlanError: for several pipelines, nodes of several GPUs under tensor parallelism, or more than 15 nodes.
    """
    chain = linear_chain(plan, NAME)
    _require_expressible(plan, chain)
    split = [len(stage.layers) for stage in chain]
    split[-1] += 1
    endpoints = _endpoints(plan, chain)
    model, notes = _model(plan)
    commands = [
        Command(host, (stage.node,), shlex.join(["rpc-server", "--host", host, "--port", str(port)]))
        for stage, (host, port) in zip(chain, endpoints, strict=True)
    ]
    rpc = ",".join(f"{host}:{port}" for host, port in endpoints)
    shares = ",".join(map(str, split))
    main = ["llama-server", "--model", model, "--rpc", rpc, "--split-mode", "layer", "--tensor-split", shares]
    main += ["--n-gpu-layers", str(plan.num_layers + 1)]
    commands.append(Command("the coordinator's host", (), shlex.join(main)))
    facts = {"tensor_split": split, "rpc": rpc, "n_gpu_layers": plan.num_layers + 1}
    return Export("llama.cpp", tuple(commands), facts, (*idle_note(plan), *notes, *_NOTES))


_NOTES = (
    "let every rpc-server see one device only (CUDA_VISIBLE_DEVICES); newer builds call it ggml-rpc-server",
    "the last share counts the output layer; activations pass through the coordinator's host, not from node to node",
    "RPC servers trust whoever reaches them: keep their ports on a network of your own",
)


def _model(plan: Plan) -> tuple[str, tuple[str, ...]]:
    if plan.job.model.parsed_source.kind == "package":
        return str(locate_gguf(plan.job.model.parsed_source)), ()
    return model_path(plan.job, "gguf")


def _require_expressible(plan: Plan, chain: Sequence[Stage]) -> None:
    several = [f"{stage.node} has {count}" for stage in chain if (count := gpu_count(plan.job, stage.node)) > 1]
    if several:
        raise refusal(
            "llama.cpp splits by layers only, and would give each GPU of a node layers of its own",
            several,
            expected="nodes of one GPU",
            hint="declare each GPU as a node of its own and plan again",
        )
    if len(chain) > MAX_DEVICES:
        raise refusal(
            "llama.cpp splits over 15 devices at most",
            [f"{len(chain)} nodes: {', '.join(stage.node for stage in chain)}"],
            expected="a pipeline of 15 nodes or fewer",
        )


def _endpoints(plan: Plan, chain: Sequence[Stage]) -> list[tuple[str, int]]:
    used: dict[str, int] = {}
    endpoints = []
    for stage in chain:
        host = worker_host(plan.job, stage.node)
        used[host] = used.get(host, 0) + 1
        endpoints.append((host, FIRST_PORT + used[host] - 1))
    return endpoints
