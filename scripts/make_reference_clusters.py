"""Write single24.yaml, geo24.yaml and hetero42.yaml: the Helix paper's clusters in this project's language.

    python scripts/make_reference_clusters.py CLUSTERS.json PROFILES.json

The inputs are the published data of Helix (Mei et al., ASPLOS'25, arXiv 2406.01566; artifact under Apache-2.0) in the
layout of tests/data. Every number is carried over. One thing can't be: in the geo-distributed cluster the way from the
coordinator to a node differs from the way back, and links here are the same both ways. Those links get the lower
bandwidth (it never binds: a token is 2 bytes there) and the mean latency, so a round trip takes as long as before.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from helix_df.spec.units import format_bandwidth, format_duration

ABOUT = {
    "single24": "24 nodes in one data centre (4 A100, 8 L4, 12 T4), 1 GB/s between any two",
    "geo24": "24 nodes in three regions (4 A100, 8 L4, 12 T4), 10 to 15 MB/s and about 50 ms between regions",
    "hetero42": "42 nodes of seven kinds in one data centre, 1 GB/s between any two",
}
KV_BLOCK_TOKENS = 16

Pair = tuple[str, str]
Quality = tuple[float, float]


def links_by_pair(rows: list[list[Any]]) -> dict[Pair, Quality]:
    """Bytes/s and seconds of every pair; source and sink are both the coordinator."""
    found: dict[Pair, list[Quality]] = {}
    for a, b, bandwidth, latency in rows:
        ends = ["coordinator" if end in ("source", "sink") else end for end in (a, b)]
        first, second = sorted(ends, key=_order)
        found.setdefault((first, second), []).append((bandwidth, latency))
    return {
        pair: (min(way[0] for way in ways), round(sum(way[1] for way in ways) / len(ways), 6))
        for pair, ways in sorted(found.items(), key=lambda item: (_order(item[0][0]), _order(item[0][1])))
    }


def _order(name: str) -> int:
    return -1 if name == "coordinator" else int(name[1:])


def quality(link: Quality) -> str:
    """The YAML of what a link carries."""
    return f"bandwidth: {format_bandwidth(link[0])}, latency: {format_duration(link[1])}"


def links_yaml(links: dict[Pair, Quality], names: list[str]) -> list[str]:
    """A default where every pair has it, and each pair that differs."""
    everyone = len(names) * (len(names) + 1) // 2
    common, count = Counter(links.values()).most_common(1)[0]
    lines = ["links:"]
    with_default = len(links) == everyone and count > 1 and count > everyone // 2
    if with_default:
        lines.append(f"  default: {{{quality(common)}}}")
    named = {pair: link for pair, link in links.items() if not (with_default and link == common)}
    if named:
        lines.append("  nodes:")
        lines += [f"  - {{between: [{a}, {b}], {quality(link)}}}" for (a, b), link in named.items()]
    return lines


def gpus_yaml(cluster: dict[str, Any], profiles: dict[str, Any]) -> list[str]:
    """The paper's measured throughput and vLLM's KV cache, by layers held."""
    lines = ["gpus:  # measured with 750 input and 240 output tokens; entry k is for k layers held"]
    for gpu, table in cluster["tokens_per_s_by_gpu_and_layers"].items():
        blocks = profiles[gpu]["kv_blocks_by_layers"]
        rates = [table[str(k)] for k in range(1, len(table) + 1)]
        tokens = [blocks[str(k)] * KV_BLOCK_TOKENS for k in range(1, len(table) + 1)]
        lines += [
            f"  {gpu}:",
            "    profile:",
            f"      tokens_per_s: [{', '.join(map(repr, rates))}]",
            f"      kv_tokens: [{', '.join(map(str, tokens))}]",
        ]
    return lines


def cluster_yaml(name: str, cluster: dict[str, Any], profiles: dict[str, Any]) -> str:
    """The whole job file of one cluster."""
    nic = format_bandwidth(cluster["node_nic_bytes_per_s"])
    lines = [
        "# yaml-language-server: $schema=../schema.json",
        f"# The Helix paper's cluster: {ABOUT[name]}.",
        "# Data: arXiv 2406.01566 (ASPLOS'25), artifact under Apache-2.0; written by make_reference_clusters.py.",
        f"name: {name}",
        "model: {source: random:llama-2-70b, dtype: float16}",
        "workload: {input_length: 750, output_length: 240}",
        "solver: {name: auto, time_limit: 60s}",
        "",
        *gpus_yaml(cluster, profiles),
        "",
        "nodes:",
        *(f"  {node}: {{gpu: {gpu}, nic: {nic}}}" for node, gpu in cluster["nodes"].items()),
        "",
        *links_yaml(links_by_pair(cluster["links"]), list(cluster["nodes"])),
    ]
    return "\n".join(lines) + "\n"


def main(clusters_path: str, profiles_path: str) -> None:
    """Write one file for each cluster beside this script."""
    clusters = json.loads(Path(clusters_path).read_text("utf-8"))
    profiles = json.loads(Path(profiles_path).read_text("utf-8"))
    for name, cluster in clusters.items():
        text = cluster_yaml(name, cluster, profiles[cluster["model"]]["gpus"])
        (Path(__file__).parents[1] / "spec/examples" / f"{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
