"""Links that differ by direction: a job's flow is that of the graph with these arcs, and both ways are two ways."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.bounds import best_bound, linked_covering_bound
from helix_df.graph.compile import compile_problem
from helix_df.graph.judge import Judge
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, Placement
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.spec.job import Job

HOMES = {"a": "home", "b": "home", "c": "cloud", "d": "cloud", COORDINATOR: "home"}
LAYERS = 4
ACTIVATION_BYTES, TOKEN_BYTES = 64 * 4, 2

Entry = dict[str, Any]


def entries(names: list[str], within: bool) -> st.SearchStrategy[list[Entry]]:
    """Entries for pairs of these names, each direction named once as one-way and each pair once as both."""
    pairs = [(a, b) for a in names for b in names if a != b]
    same = [(a, a) for a in names] if within else []
    one_way = st.lists(st.tuples(st.sampled_from(pairs), rates), max_size=4, unique_by=lambda entry: entry[0])
    both = st.lists(
        st.tuples(st.sampled_from([*pairs, *same]), rates), max_size=3, unique_by=lambda entry: frozenset(entry[0])
    )
    return st.tuples(both, one_way).map(
        lambda found: [
            *({"between": list(ends), "bandwidth": f"{rate}B/s"} for ends, rate in found[0]),
            *({"between": list(ends), "bandwidth": f"{rate}B/s", "one_way": True} for ends, rate in found[1]),
        ]
    )


rates = st.integers(1, 200_000)
"""Bytes/s: hundreds of hidden states, or many token ids."""


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    nodes = {name: {"gpu": "G", "region": region} for name, region in HOMES.items() if name != COORDINATOR}
    links: dict[str, Any] = {
        "regions": draw(entries(["home", "cloud"], within=True)),
        "nodes": draw(entries([*nodes, COORDINATOR], within=False)),
    }
    if draw(st.booleans()) or not any(links.values()):
        links["default"] = {"bandwidth": f"{draw(rates)}B/s"}
    profile = {"tokens_per_s": [900, 500, 300, 200], "kv_tokens": [4000, 3000, 2000, 1000]}
    return {
        "model": {"source": "random:tiny"},
        "gpus": {"G": {"memory": "1GiB", "profile": profile}},
        "nodes": nodes,
        "coordinator": {"region": "home"},
        "links": links,
        "limits": {},
    }


def placed() -> st.SearchStrategy[Placement]:
    ranges = st.tuples(st.integers(0, LAYERS - 1), st.integers(1, LAYERS)).map(
        lambda ends: LayerRange(ends[0], min(ends[0] + ends[1], LAYERS))
    )
    return st.dictionaries(st.sampled_from("abcd"), ranges, min_size=1)


def declared_rate(links: dict[str, Any], tail: str, head: str) -> float | None:
    """What the declared rule says, looked up entry by entry."""
    for section, ends in (("nodes", (tail, head)), ("regions", (HOMES[tail], HOMES[head]))):
        for is_one_way in (True, False):
            for entry in links[section]:
                ways = [tuple(entry["between"])] + ([] if is_one_way else [tuple(entry["between"][::-1])])
                if entry.get("one_way", False) == is_one_way and ends in ways:
                    return float(entry["bandwidth"].removesuffix("B/s"))
    return float(links["default"]["bandwidth"].removesuffix("B/s")) if "default" in links else None


def flow_by_networkx(data: dict[str, Any], placement: Placement) -> float:
    speeds = data["gpus"]["G"]["profile"]["tokens_per_s"]
    graph = nx.DiGraph()
    graph.add_nodes_from(["source", "sink"])

    def add(tail: str, head: str, token_bytes: int) -> None:
        rate = declared_rate(data["links"], tail, head)
        if rate is not None:
            ends = "source" if tail == COORDINATOR else f"{tail}.out", "sink" if head == COORDINATOR else f"{head}.in"
            graph.add_edge(*ends, capacity=rate / token_bytes)

    for name, layers in placement.items():
        graph.add_edge(f"{name}.in", f"{name}.out", capacity=speeds[len(layers) - 1])
        if layers.start == 0:
            add(COORDINATOR, name, TOKEN_BYTES)
        if layers.stop == LAYERS:
            add(name, COORDINATOR, TOKEN_BYTES)
        for other, theirs in placement.items():
            if other != name and theirs.start <= layers.stop < theirs.stop:
                add(name, other, ACTIVATION_BYTES)
    return float(nx.maximum_flow_value(graph, "source", "sink"))


def load(data: dict[str, Any]) -> Job:
    return parse_job(yaml.safe_dump(data))


@given(jobs(), placed())
def test_the_flow_is_that_of_the_graph_with_these_arcs(data: dict[str, Any], placement: Placement) -> None:
    problem = compile_problem(load(data))
    assert (problem.num_layers, problem.activation_bytes) == (LAYERS, ACTIVATION_BYTES)
    flow = placement_flow(problem, placement).value
    assert flow == pytest.approx(flow_by_networkx(data, placement), abs=1e-3)
    judge = Judge(problem)
    assert judge.flow(*judge.arrays(placement)) == pytest.approx(flow, abs=1e-9)
    for bound in (best_bound(problem).bound, linked_covering_bound(problem)):
        assert flow <= bound * (1 + 1e-9) + 1e-3


@given(jobs())
def test_both_ways_are_two_ways_of_one_direction(data: dict[str, Any]) -> None:
    whole = compile_problem(load(data))
    for section in ("nodes", "regions"):
        apart = []
        named = [entry["between"] for entry in data["links"][section] if entry.get("one_way")]
        for entry in data["links"][section]:
            ends = entry["between"]
            if entry.get("one_way") or ends[0] == ends[1]:
                apart.append(entry)
            else:
                apart += [entry | {"between": way, "one_way": True} for way in (ends, ends[::-1]) if way not in named]
        data["links"][section] = apart
    assert compile_problem(load(data)) == whole
