"""The Helix paper's clusters and placements as setups for the simulator, with measured timing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.max_flow import solve_max_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.layers import LayerRange
from helix_df.profiles.catalogue import Measured, find_measured
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.timing import measured_timing
from helix_df.simulator.setup import Setup, StageSetup, assemble_setup
from helix_df.spec.source import parse_source
from tests.clusters import cluster, published

MODELS = {"70b": "random:llama-2-70b", "30b": "random:llama-30b"}
NIC_BYTES_PER_S = 1e10


@cache
def measured(model: str, gpu: str) -> Measured:
    found = find_measured(gpu, read_geometry(parse_source(MODELS[model])), "float16")
    assert found is not None
    return found


def placed(
    name: str,
    problem: Problem,
    placement: Placement,
    *,
    model: str = "70b",
    kv_tokens: Mapping[str, int] | None = None,
    links: Iterable[Sequence[str]] | None = None,
) -> Setup:
    """A placement with measured curves and KV cache.

    ``kv_tokens`` is for nodes that hold more layers than were measured; ``links`` are the only ones to be used.
    """
    gpus = {node.name: node.gpu for node in problem.nodes}
    graph = build_graph(problem, placement)
    if links is not None:
        only = {(tail, head) for tail, head in links}
        kept = tuple(edge for edge in graph.edges if (edge.tail, edge.head) in only)
        graph = FlowGraph(graph.num_layers, graph.nodes, kept)
    flow = solve_max_flow(graph)
    stages = tuple(
        StageSetup(
            node,
            layers,
            measured_timing(measured(model, gpus[node]), len(layers)),
            (kv_tokens or {}).get(node) or measured(model, gpus[node]).kv_tokens[len(layers) - 1],
            NIC_BYTES_PER_S,
        )
        for node, layers in ((one.name, placement[one.name]) for one in problem.nodes if one.name in placement)
    )
    return assemble_setup(name, problem, stages, flow.edges, flow.value, graph=graph)


@cache
def published_setup(name: str, method: str) -> Setup:
    """One of the published LLaMA-2-70B placements; the paper's own ones with the links that were published with them."""
    links = _published()["links"][name] if method == "helix-milp" else None
    return placed(f"{name} {method}", cluster(name), published(name, method)[0], links=links)


@cache
def all_ways(name: str) -> Setup:
    """The paper's own placement with every feasible hop, and a maximum flow over them."""
    return placed(f"{name} helix-milp, all ways", cluster(name), published(name, "helix-milp")[0])


@cache
def scheduling_study() -> Setup:
    """The placement of the paper's scheduling study on geo24."""
    ranges = _published()["geo24_scheduling_study"]
    placement = {node: LayerRange(start, stop) for node, (start, stop) in ranges.items()}
    links = _published()["links"]["geo24"]
    return placed("geo24, scheduling study", cluster("geo24"), placement, links=links)


@cache
def _published() -> dict[str, Any]:
    text = (Path(__file__).parent / "data" / "published_links.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
