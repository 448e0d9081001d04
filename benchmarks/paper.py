"""The Helix paper's clusters and placements as setups for the simulator, with measured timing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, NodeProfile, Placement, Problem
from helix_df.profiles.catalogue import find_measured
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.timing import measured_timing
from helix_df.simulator.setup import Setup, StageSetup, assemble_setup
from helix_df.spec.source import parse_source
from tests.clusters import cluster, published

MODELS = {"70b": "random:llama-2-70b", "30b": "random:llama-30b"}


@cache
def measured(model: str, gpu: str):
    found = find_measured(gpu, read_geometry(parse_source(MODELS[model])), "float16")
    assert found is not None
    return found


def setup(name: str, problem: Problem, placement: Placement, model: str = "70b", kv: Mapping[str, int] = {}) -> Setup:
    """A placement with measured curves and KV cache (``kv`` gives tokens for nodes that hold more than was measured)."""
    gpus = {node.name: node.gpu for node in problem.nodes}
    flow = placement_flow(problem, placement)
    order = [node.name for node in problem.nodes if node.name in placement]
    stages = tuple(
        StageSetup(
            node,
            placement[node],
            measured_timing(measured(model, gpus[node]), len(placement[node])),
            kv.get(node) or measured(model, gpus[node]).kv_tokens[len(placement[node]) - 1],
            1e10,
        )
        for node in order
    )
    return assemble_setup(name, problem, stages, flow.edges, flow.value, placement=placement)


@cache
def published_setup(name: str, method: str) -> Setup:
    """One of the published LLaMA-2-70B placements."""
    return setup(f"{name} {method}", cluster(name), published(name, method)[0])
