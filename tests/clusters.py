"""The three clusters of the Helix paper as problems; see ``tests/data/README.md``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from helix_df.graph.problem import COORDINATOR, Link, LinkTable, NodeProfile, Placement, Problem
from helix_df.layers import LayerRange

CLUSTERS = ("single24", "geo24", "hetero42")
NUM_LAYERS = 80
ACTIVATION_BYTES = 8192 * 2


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "helix_clusters.json").read_text())
    return data


@cache
def cluster(name: str, partial: bool = True) -> Problem:
    """LLaMA-2-70B on one of the paper's clusters. KV sizes, which planning by flow ignores, are 0."""
    data = _data()[name]
    tables = {
        gpu: tuple(by_layers[str(k)] for k in range(1, len(by_layers) + 1))
        for gpu, by_layers in data["tokens_per_s_by_gpu_and_layers"].items()
    }
    nodes = tuple(
        NodeProfile(node, gpu, "default", tables[gpu], (0,) * len(tables[gpu]), data["node_nic_bytes_per_s"])
        for node, gpu in data["nodes"].items()
    )
    # The paper draws the way to and from the coordinator separately; neither ever binds, so the first stands for both.
    links = LinkTable.symmetric(
        (a, COORDINATOR if b == "source" else b, Link(bytes_per_s, latency_s))
        for a, b, bytes_per_s, latency_s in data["links"]
        if b != "sink"
    )
    regions = dict.fromkeys([*data["nodes"], COORDINATOR], "default")
    return Problem(NUM_LAYERS, nodes, LinkTable(regions, by_node=links), 2, ACTIVATION_BYTES, partial)


def published(name: str, method: str) -> tuple[Placement, float, float]:
    """A published placement and its flow in tokens/s, without and with partial inference."""
    data = _data()[name]["published_placements"][method]
    placement = {node: LayerRange(start, stop) for node, (start, stop) in data["layers"].items()}
    return placement, data["max_flow_exact"], data["max_flow_partial"]
