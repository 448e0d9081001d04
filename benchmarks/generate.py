"""Random clusters of any size: 6 GPU types in 8 regions, for timing and for scaling tests.

GPU tables are invented but shaped like measured ones: throughput falls faster than 1/k, because every layer held also
takes memory from the KV cache.
"""

from __future__ import annotations

import random
from itertools import combinations

from helix_df.graph.problem import COORDINATOR, Link, LinkTable, NodeProfile, PlacementLimits, Problem

GPUS = {
    "A100": (12, 24000),
    "2xL4": (14, 17000),
    "V100": (4, 14000),
    "2xT4": (9, 12000),
    "L4": (7, 7500),
    "T4": (4, 5700),
}
"""Most layers that fit, and tokens/s with one layer."""

REGIONS = tuple(f"region{i}" for i in range(8))
NUM_LAYERS = 80
TOKEN_BYTES = 2
ACTIVATION_BYTES = 16384
GIGABYTE = 1e9
REQUEST_TOKENS = 750 + 240
"""Prompt and output of the mean request."""


def random_cluster(count: int, seed: int = 0, num_layers: int = NUM_LAYERS) -> Problem:
    """``count`` nodes, fast links inside a region and slow ones between."""
    chance = random.Random(seed)
    nodes = []
    for i in range(count):
        gpu = chance.choice(sorted(GPUS))
        most, single = GPUS[gpu]
        speeds = tuple(round(single / k**1.15, 3) for k in range(1, most + 1))
        kv_tokens = tuple(4000 * (most + 1 - k) for k in range(1, most + 1))
        nodes.append(NodeProfile(f"n{i}", gpu, chance.choice(REGIONS), speeds, kv_tokens, 10 * GIGABYTE))
    inside = [(region, region, Link(1.25 * GIGABYTE, 0.001)) for region in REGIONS]
    between = [
        (a, b, Link(chance.uniform(0.01, 0.1) * GIGABYTE, chance.uniform(0.02, 0.1)))
        for a, b in combinations(REGIONS, 2)
    ]
    regions = {node.name: node.region for node in nodes} | {COORDINATOR: REGIONS[0]}
    links = LinkTable(regions, by_region=LinkTable.symmetric([*inside, *between]))
    limits = PlacementLimits(request_tokens=REQUEST_TOKENS)
    return Problem(num_layers, tuple(nodes), links, TOKEN_BYTES, ACTIVATION_BYTES, limits=limits)
