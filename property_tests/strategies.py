"""Random placement problems, placements and jobs for the planning properties."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

from hypothesis import strategies as st

from helix_df.graph.problem import COORDINATOR, Link, LinkTable, NodeProfile, Placement, PlacementLimits, Problem
from helix_df.layers import LayerRange
from helix_df.profiles.geometry import ModelGeometry
from helix_df.spec.job import Job

TOKEN_BYTES = 2
ACTIVATION_BYTES = 64

speeds = st.integers(1, 2_000_000).map(lambda thousandths: thousandths / 1000)
"""Tokens/s, from a thousandth to 2,000."""

links = st.builds(
    Link,
    # From links that bind any node to links that bind none.
    bytes_per_s=st.one_of(st.integers(1, 2_000).map(float), st.just(1e9)).map(lambda rate: rate * ACTIVATION_BYTES),
    latency_s=st.sampled_from((0.0, 0.001, 0.05)),
)


@st.composite
def gpu_tables(draw: st.DrawFn, num_layers: int, least: int = 0) -> tuple[float, ...]:
    """Tokens/s by layers held; mostly falling, as on real GPUs, but nothing relies on it."""
    size = draw(st.integers(least, num_layers))
    table = draw(st.lists(speeds, min_size=size, max_size=size))
    return tuple(sorted(table, reverse=True) if draw(st.booleans()) else table)


@st.composite
def link_tables(draw: st.DrawFn, names: list[str], regions: dict[str, str]) -> LinkTable:
    """Links by default, region or node, any of which may be missing, and be other ones, or none, in one direction."""
    region_pairs = list(combinations_with_replacement(sorted(set(regions.values())), 2))
    node_pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]] + [(name, COORDINATOR) for name in names]
    default = draw(st.one_of(st.none(), links, links))
    return LinkTable(regions, default, draw(pair_links(region_pairs, 3)), draw(pair_links(node_pairs, 6)))


@st.composite
def pair_links(draw: st.DrawFn, pairs: list[tuple[str, str]], most: int) -> dict[tuple[str, str], Link]:
    """Links between some pairs, the same both ways, of one direction alone, or of each its own."""
    found = LinkTable.symmetric((a, b, draw(links)) for a, b in draw(some_pairs(pairs, most)))
    for a, b in draw(st.one_of(st.just([]), some_pairs([*pairs, *((b, a) for a, b in pairs)], most))):
        found[a, b] = draw(links)
    return found


def some_pairs(pairs: list[tuple[str, str]], most: int) -> st.SearchStrategy[list[tuple[str, str]]]:
    """A few of some pairs."""
    return st.lists(st.sampled_from(pairs), max_size=most, unique=True)


@st.composite
def problems(
    draw: st.DrawFn, max_nodes: int = 6, max_layers: int = 8, partial: bool | None = None, servable: bool = False
) -> Problem:
    """1 to ``max_nodes`` nodes of a few GPU types in a few regions; ``servable`` ones have memory and all links."""
    num_layers = draw(st.integers(1, max_layers))
    least = 1 if servable else 0
    gpus = draw(st.lists(gpu_tables(num_layers, least), min_size=1, max_size=3))
    if servable:
        gpus[0] = draw(st.lists(speeds, min_size=num_layers, max_size=num_layers).map(tuple))
    names = [f"n{i}" for i in range(draw(st.integers(1, max_nodes)))]
    regions = {name: draw(st.sampled_from(("east", "west"))) for name in [COORDINATOR, *names]}
    nics = st.one_of(st.none(), st.integers(1, 3_000).map(lambda rate: float(rate * ACTIVATION_BYTES)))
    nodes = []
    for i, name in enumerate(names):
        gpu = 0 if servable and i == 0 else draw(st.integers(0, len(gpus) - 1))
        kv_tokens = tuple(1000 - 10 * k for k in range(len(gpus[gpu])))
        nodes.append(NodeProfile(name, f"gpu{gpu}", regions[name], gpus[gpu], kv_tokens, draw(nics)))
    table = draw(link_tables(names, regions))
    if servable and table.default is None:
        table = LinkTable(regions, draw(links), table.by_region, table.by_node)
    partial = draw(st.booleans()) if partial is None else partial
    return Problem(num_layers, tuple(nodes), table, TOKEN_BYTES, ACTIVATION_BYTES, partial)


@st.composite
def placements(draw: st.DrawFn, problem: Problem) -> Placement:
    """Any ranges that fit, on most of the nodes."""
    placement = {}
    for node in problem.nodes:
        if node.max_layers and draw(st.integers(0, 5)):
            length = draw(st.integers(1, node.max_layers))
            start = draw(st.integers(0, problem.num_layers - length))
            placement[node.name] = LayerRange(start, start + length)
    return placement


@st.composite  # type: ignore[arg-type]  # its types know no keywords of any name
def placed_problems(draw: st.DrawFn, **limits: Any) -> tuple[Problem, Placement]:
    """A problem and a placement for it, which may carry nothing."""
    problem = draw(problems(**limits))
    return problem, draw(placements(problem))


def job_for(problem: Problem, solver: str, **options: object) -> Job:
    """A job that stands in for the one a random problem would come from."""
    return Job.model_validate(
        {
            "model": {"source": "random:llama-2-70b"},
            "nodes": {node.name: {"gpu": "L4", "region": node.region} for node in problem.nodes},
            "solver": {"name": solver, **options},
        }
    )


@st.composite
def geometries(draw: st.DrawFn) -> ModelGeometry:
    """Small models, with and without tied embeddings."""
    heads, head_dim = draw(st.integers(1, 4)), draw(st.sampled_from((2, 4)))
    return ModelGeometry(
        "llama",
        num_layers=draw(st.integers(1, 12)),
        hidden_size=heads * head_dim,
        intermediate_size=draw(st.integers(1, 64)),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        vocab_size=draw(st.integers(1, 256)),
        context_length=64,
        tie_embeddings=draw(st.booleans()),
    )


@st.composite
def placements_of(draw: st.DrawFn, num_layers: int) -> Placement:
    """Any ranges of a model on one to five nodes."""
    names = draw(st.lists(st.sampled_from("abcde"), min_size=1, unique=True))
    starts = [draw(st.integers(0, num_layers - 1)) for _ in names]
    return {
        name: LayerRange(start, draw(st.integers(start + 1, num_layers)))
        for name, start in zip(names, starts, strict=True)
    }


@st.composite  # type: ignore[arg-type]  # its types know no keywords of any name
def limited_problems(draw: st.DrawFn, **sizes: Any) -> Problem:
    """A problem with some limits, which may be too tight."""
    problem = draw(problems(**sizes))
    names = st.sampled_from([node.name for node in problem.nodes])
    excluded = draw(st.frozensets(names, max_size=1))
    nodes = tuple(
        replace(node, tokens_per_s=(), kv_tokens=()) if node.name in excluded else node for node in problem.nodes
    )
    fixed = {}
    for node in nodes:
        if node.max_layers and not draw(st.integers(0, 5)):
            length = draw(st.integers(1, node.max_layers))
            start = draw(st.integers(0, problem.num_layers - length))
            fixed[node.name] = LayerRange(start, start + length)
    limits = PlacementLimits(
        max_hops=draw(st.one_of(st.none(), st.integers(1, 4))),
        min_requests=draw(st.sampled_from((0, 0, 3, 5, 7))),
        request_tokens=300.0,
        required=draw(st.frozensets(names, max_size=1)) - excluded,
        excluded=excluded,
        fixed=fixed,
    )
    return replace(problem, nodes=nodes, limits=limits)
