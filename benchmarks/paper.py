"""The Helix paper's clusters and placements as setups for the simulator, with measured timing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.max_flow import solve_max_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.graph.stage_timing import TimingChoice
from helix_df.layers import LayerRange
from helix_df.profiles.catalogue import Measured, find_measured
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.throughput import Requests, from_curves, reading_weights
from helix_df.profiles.timing import measured_timing
from helix_df.simulator.setup import Setup, StageSetup, assemble_setup
from helix_df.spec.source import parse_source
from tests.clusters import cluster, published

MODELS = {"70b": "random:llama-2-70b", "30b": "random:llama-30b"}
NIC_BYTES_PER_S = 1e10
MEAN_REQUEST = Requests(750, 240, 480)


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
    timing: TimingChoice = "published",
) -> Setup:
    """A placement with measured curves and KV cache.

    ``kv_tokens`` is for nodes that hold more layers than were measured; ``links`` are the only ones to be used;
    ``timing`` says whether curves run straight to zero, as published, or read weights, as everywhere else.
    """
    gpus = {node.name: node.gpu for node in problem.nodes}
    graph = build_graph(problem, placement)
    if links is not None:
        only = {(tail, head) for tail, head in links}
        kept = tuple(edge for edge in graph.edges if (edge.tail, edge.head) in only)
        graph = FlowGraph(graph.num_layers, graph.nodes, kept)
    flow = solve_max_flow(graph)
    curves = reading_weights if timing == "measured" else _as_they_stand
    stages = tuple(
        StageSetup(
            node,
            layers,
            measured_timing(curves(measured(model, gpus[node])), len(layers)),
            (kv_tokens or {}).get(node) or measured(model, gpus[node]).kv_tokens[len(layers) - 1],
            NIC_BYTES_PER_S,
        )
        for node, layers in ((one.name, placement[one.name]) for one in problem.nodes if one.name in placement)
    )
    return assemble_setup(name, problem, stages, flow.edges, flow.value, graph=graph)


def _as_they_stand(curves: Measured) -> Measured:
    return curves


@cache
def published_setup(name: str, method: str, timing: TimingChoice = "published") -> Setup:
    """One of the published LLaMA-2-70B placements; the paper's own ones with the links published with them."""
    links = _published()["links"][name] if method == "helix-milp" else None
    return placed(f"{name} {method}", cluster(name), published(name, method)[0], links=links, timing=timing)


@cache
def all_ways(name: str, timing: TimingChoice = "published") -> Setup:
    """The paper's own placement with every feasible hop, and a maximum flow over them."""
    return placed(f"{name} helix-milp, all ways", cluster(name), published(name, "helix-milp")[0], timing=timing)


@cache
def scheduling_study() -> Setup:
    """The placement of the paper's scheduling study on geo24."""
    ranges = _published()["geo24_scheduling_study"]
    placement = {node: LayerRange(start, stop) for node, (start, stop) in ranges.items()}
    links = _published()["links"]["geo24"]
    return placed("geo24, scheduling study", cluster("geo24"), placement, links=links)


@cache
def swarm_30b(name: str) -> Setup:
    """The published Swarm placement of LLaMA-30B."""
    ranges = _published()["llama_30b_swarm"][name]
    placement = {node: LayerRange(start, stop) for node, (start, stop) in ranges.items()}
    return placed(f"{name} swarm 30B", cluster_30b(name), placement, model="30b")


@cache
def cluster_30b(name: str) -> Problem:
    """The same machines and links with LLaMA-30B, whose throughput follows from the measured curves."""
    problem = cluster(name)
    geometry = read_geometry(parse_source(MODELS["30b"]))
    tables = {
        gpu: from_curves(measured("30b", gpu), MEAN_REQUEST, geometry.num_layers)
        for gpu in {node.gpu for node in problem.nodes}
    }
    nodes = tuple(
        replace(node, tokens_per_s=tables[node.gpu].tokens_per_s, kv_tokens=tables[node.gpu].kv_tokens)
        for node in problem.nodes
    )
    size = geometry.activation_bytes(2)
    return replace(problem, num_layers=geometry.num_layers, nodes=nodes, activation_bytes=size)


def chain_of(name: str, gpu: str, model: str, layers: Sequence[int], order: Sequence[int] | None = None) -> Setup:
    """One separate pipeline: the GPUs of a type in a row, each with so many layers, in the order of the cluster.

    ``order`` gives another one, as numbers among the GPUs of the type. Nodes may hold more layers than were measured,
    as in the published runs, whose cache never filled; so it is left without limit.
    """
    problem = cluster(name) if model == "70b" else cluster_30b(name)
    nodes = [node for node in problem.nodes if node.gpu == gpu]
    nodes = [nodes[number] for number in order or range(len(nodes))]
    bounds = [0, *accumulate(layers)]
    placement = {
        node.name: LayerRange(start, stop) for node, (start, stop) in zip(nodes, pairwise(bounds), strict=True)
    }
    long = tuple(replace(node, tokens_per_s=(1e4,) * bounds[-1], kv_tokens=(10**9,) * bounds[-1]) for node in nodes)
    within = len(layers) and max(layers) <= len(measured(model, gpu).kv_tokens)
    kv_tokens = None if within else dict.fromkeys(placement, 10**9)
    return placed(f"{name} {gpu} {model}", replace(problem, nodes=long), placement, model=model, kv_tokens=kv_tokens)


@cache
def _published() -> dict[str, Any]:
    text = (Path(__file__).parent / "data" / "published.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
