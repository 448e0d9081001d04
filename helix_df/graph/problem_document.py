"""A placement problem as a JSON document, so that another process can work on it.

Owns the translation both ways, without loss. Doesn't check: a document comes from ``to_document``.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from helix_df.graph.problem import Limits, Link, LinkTable, NodeProfile, Origin, Placement, Problem
from helix_df.layers import LayerRange


def to_document(problem: Problem) -> dict[str, Any]:
    """The problem in lists, numbers and texts."""
    links, limits = problem.links, problem.limits
    return {
        "num_layers": problem.num_layers,
        "nodes": [asdict(node) for node in problem.nodes],
        "links": {
            "regions": dict(links.regions),
            "default": _link(links.default),
            "by_region": [[*pair, _link(link)] for pair, link in links.by_region.items()],
            "by_node": [[*pair, _link(link)] for pair, link in links.by_node.items()],
        },
        "token_bytes": problem.token_bytes,
        "activation_bytes": problem.activation_bytes,
        "element_bytes": problem.element_bytes,
        "partial_inference": problem.partial_inference,
        "limits": {
            "max_hops": limits.max_hops,
            "min_requests": limits.min_requests,
            "request_tokens": limits.request_tokens,
            "required": sorted(limits.required),
            "excluded": sorted(limits.excluded),
            "fixed": placement_document(limits.fixed),
        },
        "origin": None if problem.origin is None else asdict(problem.origin),
    }


def from_document(document: dict[str, Any]) -> Problem:
    """The problem of a document that ``to_document`` made."""
    links, limits = document["links"], document["limits"]
    return Problem(
        num_layers=document["num_layers"],
        nodes=tuple(
            NodeProfile(**{**node, "tokens_per_s": tuple(node["tokens_per_s"]), "kv_tokens": tuple(node["kv_tokens"])})
            for node in document["nodes"]
        ),
        links=LinkTable(
            links["regions"],
            _read_link(links["default"]),
            {(a, b): Link(*link) for a, b, link in links["by_region"]},
            {(a, b): Link(*link) for a, b, link in links["by_node"]},
        ),
        token_bytes=document["token_bytes"],
        activation_bytes=document["activation_bytes"],
        element_bytes=document["element_bytes"],
        partial_inference=document["partial_inference"],
        limits=Limits(
            max_hops=limits["max_hops"],
            min_requests=limits["min_requests"],
            request_tokens=limits["request_tokens"],
            required=frozenset(limits["required"]),
            excluded=frozenset(limits["excluded"]),
            fixed=read_placement(limits["fixed"]),
        ),
        origin=TypeAdapter(Origin | None).validate_python(document["origin"]),
    )


def placement_document(placement: Placement) -> dict[str, list[int]]:
    """Start and stop by node."""
    return {name: [layers.start, layers.stop] for name, layers in placement.items()}


def read_placement(document: dict[str, list[int]]) -> Placement:
    """The placement of a document that ``placement_document`` made."""
    return {name: LayerRange(start, stop) for name, (start, stop) in document.items()}


def _link(link: Link | None) -> list[Any] | None:
    return None if link is None else [link.bytes_per_s, link.latency_s, link.codec]


def _read_link(link: list[Any] | None) -> Link | None:
    return None if link is None else Link(*link)
