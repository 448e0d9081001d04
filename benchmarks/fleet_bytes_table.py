"""One table: published models planned on a mixed fleet, and the bytes of weights that each node gets, counted twice.

    python -m benchmarks.fleet_bytes_table [--seconds 10] [MODEL …]

The plan's count is the geometry's. The other adds up the tensors of which transformers makes the model
(``tests/oracle/recorded/headers.json``), two bytes a number, or as many bits as ``weights`` says and what goes with 32
numbers of each matrix that stays packed. ``free`` is what the plan leaves of a node's memory for KV cache, in tokens.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helix_df.graph.held_weights import held_weights
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.plan.moves import load_bytes
from helix_df.plan.plan import Plan
from helix_df.planning import make_plan

HEADERS = Path(__file__).parent.parent / "tests/oracle/recorded/headers.json"
NUMBER_BYTES = 2
PACKED_BYTES = {"int8": 8 / 8 + 2 / 32, "int4": 4 / 8 + (2 + 2) / 32}
NUMBERS = ("mlp.gate.weight", "mlp.router.weight", "self_attn.kv_b_proj.weight")
"""Matrices that never stay packed; nor do biases of all experts, although they have two axes."""

FOUR = {"A100-40GB": 1, "L4": 1, "4xT4": 1, "RTX-4090": 1}


@dataclass(frozen=True, slots=True)
class Fleet:
    """Nodes by GPU, and how weights are kept."""

    nodes: dict[str, int]
    weights: str | None = None


FLEETS = {
    "qwen3-30b-a3b": Fleet(FOUR),
    "llama-3.3-70b": Fleet(FOUR, "int4"),
    "gemma-3-27b": Fleet(FOUR),
    "gpt-oss-120b": Fleet({"A100-80GB": 2, "L4": 3, "4xT4": 2, "RTX-4090": 3}),
    # A layer takes 23 GB: only the A100s hold any. Latents aren't divided among devices.
    "deepseek-v3": Fleet({"A100-80GB": 23, "L4": 1, "T4": 1, "RTX-4090": 1}),
}


def job_text(model: str, seconds: float) -> str:
    """The job that is planned."""
    fleet = FLEETS[model]
    nodes = [f"{gpu}-{number}" for gpu, count in fleet.nodes.items() for number in range(count)]
    return json.dumps(
        {
            "name": "fleet",
            "model": {"source": f"random:{model}", "name": model, "dtype": "float16", "weights": fleet.weights},
            "nodes": {name.lower(): {"gpu": name.rpartition("-")[0]} for name in nodes},
            "links": {"default": {"bandwidth": "1GB/s", "latency": "1ms"}},
            "workload": {"input_length": 500, "output_length": 200},
            "solver": {"name": "auto", "time_limit": f"{seconds:g}s"},
        }
    )


def counted_bytes(header: dict[str, Any], layers: LayerRange, weights: str | None) -> float:
    """Bytes of the tensors of ``layers``, with the embedding where they begin the model and the head where they end it.

    Where the header has no head, that is the embedding.
    """
    each = [run["tensors"] for run in header["layers"] for _ in range(run["count"])]
    held: list[tuple[str, list[int]]] = [
        named for tensors in each[layers.start : layers.stop] for named in tensors.items()
    ]
    ends = header["outside"]
    if layers.start == 0:
        held.append(("embedding", ends["model.embed_tokens.weight"]))
    if layers.stop == len(each):
        held.append(("norm", ends["model.norm.weight"]))
        if "lm_head.weight" in ends or layers.start > 0:
            held.append(("head", ends.get("lm_head.weight", ends["model.embed_tokens.weight"])))
    return sum((math.prod(shape) * _bytes(name, shape, weights) for name, shape in held), 0.0)


def _bytes(name: str, shape: list[int], weights: str | None) -> float:
    is_packed = len(shape) > 1 and name not in NUMBERS and not name.endswith("_bias")
    return PACKED_BYTES.get(weights or "", NUMBER_BYTES) if is_packed else NUMBER_BYTES


def planned_bytes(plan: Plan) -> dict[str, int]:
    """What each node of a plan has to load, as plans count."""
    geometry, job = plan.geometry, plan.job
    weights = held_weights(job, geometry)
    return {
        stage.node: load_bytes(None, stage.layers, geometry, job.model.element_bytes, weights) for stage in plan.stages
    }


def plan_of(model: str, seconds: float) -> Plan:
    return make_plan(parse_job(job_text(model, seconds)))


def rows(model: str, plan: Plan) -> list[tuple[str, LayerRange, int, float, int]]:
    """Node, layers, bytes as planned, bytes as counted, tokens of KV cache beside them."""
    header, planned = json.loads(HEADERS.read_text())[model], planned_bytes(plan)
    return [
        (
            stage.node,
            stage.layers,
            planned[stage.node],
            counted_bytes(header, stage.layers, FLEETS[model].weights),
            stage.kv_tokens,
        )
        for stage in plan.stages
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("models", nargs="*")
    given = parser.parse_args()
    for model in given.models or FLEETS:
        plan = plan_of(model, given.seconds)
        kept = FLEETS[model].weights or "float16"
        print(f"\n{model}, {kept}: {plan.flow:,.0f} tokens/s, gap {plan.gap:.1%}\n")
        print("| node | layers | planned | counted | off by | KV tokens |\n|---|---|---|---|---|---|")
        for node, layers, planned, counted, tokens in rows(model, plan):
            off = planned / counted - 1
            print(f"| {node} | {layers} | {planned / 1e9:.3f} GB | {counted / 1e9:.3f} GB | {off:+.4%} | {tokens:,} |")


if __name__ == "__main__":
    main()
