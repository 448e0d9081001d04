"""Small problems by hand, for tests that want to see every number."""

from __future__ import annotations

from collections.abc import Iterable

from helix_df.graph.problem import COORDINATOR, Link, LinkTable, NodeProfile, Problem

FAST = Link(1e9, 0.001)
TOKEN_BYTES = 2
ACTIVATION_BYTES = 100


def node(name: str, *tokens_per_s: float, gpu: str = "L4") -> NodeProfile:
    """A node that serves the given tokens/s with 1, 2, 3, … layers."""
    return NodeProfile(name, gpu, "default", tokens_per_s, tuple(range(len(tokens_per_s), 0, -1)))


def problem(
    num_layers: int,
    *nodes: NodeProfile,
    default: Link | None = FAST,
    links: Iterable[tuple[str, str, Link]] = (),
    partial: bool = True,
) -> Problem:
    """Nodes with a link of ``default`` between all, but for those named."""
    regions = dict.fromkeys([COORDINATOR, *(n.name for n in nodes)], "default")
    table = LinkTable(regions, default, by_node=LinkTable.symmetric(links))
    return Problem(num_layers, nodes, table, TOKEN_BYTES, ACTIVATION_BYTES, partial)
