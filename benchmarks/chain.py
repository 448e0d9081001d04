"""A pipeline of nodes one behind the other, each with as many of a model's layers, for benchmarks of the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.halves import geometry_of
from helix_df.graph.compile import compile_problem
from helix_df.graph.max_flow import placement_flow
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, SolverReport, assemble
from helix_df.spec.job import Job


def chain_plan(source: str, nodes: int, link: Mapping[str, Any], *, context: int = 1024, **runtime: Any) -> Plan:
    """So many nodes, all links, the coordinator's too, as ``link`` declares, and emulated."""
    layers = geometry_of(source).num_layers
    profile = {"tokens_per_s": [100.0] * layers, "kv_tokens": [20 * context] * layers}
    names = [f"node-{at}" for at in range(nodes)]
    job = Job.model_validate(
        {
            "name": "chain",
            "model": {"source": source, "context": context, "dtype": "float32"},
            "gpus": {"cpu": {"memory": "8GB", "profile": profile}},
            "nodes": {name: {"gpu": "cpu"} for name in names},
            "links": {"default": dict(link)},
            "runtime": {"port": 0, "emulate": True} | runtime,
        }
    )
    problem = compile_problem(job)
    cuts = [layers * at // nodes for at in range(nodes + 1)]
    placement = {name: LayerRange(*cuts[at : at + 2]) for at, name in enumerate(names)}
    report = SolverReport("hand", None, "finished", "", None, 0.0)
    return assemble(job, problem, placement, placement_flow(problem, placement), report)
