"""A job on one screen says as much in all as its status does, in a bounded number of rows, the ill ones first."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.problem import COORDINATOR
from helix_df.runtime.overview import (
    MOST_HOP_GROUPS,
    MOST_ILL,
    MOST_ROWS,
    hop_rows,
    is_ill,
    node_rows,
    overview,
    pattern_of,
)
from helix_df.runtime.requests import HopStatus, JobStatus, NodeStatus

STATES = ("waiting", "joined", "loading", "compiling", "ready", "lost", "failed")
NAMES = st.builds(
    lambda group, number: f"{group}-{number}", st.sampled_from(("l4-tokyo", "t4", "a")), st.integers(1, 400)
) | st.text("abcdefgh", min_size=3, max_size=6)


@st.composite
def node_lists(draw: st.DrawFn) -> tuple[NodeStatus, ...]:
    names = draw(st.lists(NAMES, max_size=150, unique=True))
    states = st.sampled_from(("ready",) * 12 + STATES)
    made = []
    for name in names:
        start = draw(st.integers(0, 9))
        layers = (start, draw(st.integers(start + 1, 12)))
        running, used = draw(st.integers(0, 3)), draw(st.integers(0, 50))
        made.append(NodeStatus(name, draw(states), layers, None, 1.0, "", used, 100, running))
    return tuple(made)


@given(node_lists())
def test_rows_of_nodes_are_all_nodes(nodes):
    rows = node_rows(nodes)
    assert sum(row.count for row in rows) == len(nodes)
    for name in ("running", "kv_used_tokens", "kv_capacity_tokens", "kv_kept_tokens", "restarts"):
        assert sum(getattr(row, name) for row in rows) == sum(getattr(node, name) for node in nodes)
    assert Counter({row.state: 0 for row in rows}).keys() == {node.state for node in nodes}
    for state in STATES:
        assert sum(row.count for row in rows if row.state == state) == sum(node.state == state for node in nodes)
    # Rows of what is ill, and of what isn't, are bounded each; states and roles are few.
    assert len(rows) <= 2 * MOST_ROWS
    if len(nodes) <= MOST_ROWS:
        assert [row.name for row in rows] == [node.name for node in nodes]


@given(node_lists())
def test_the_ill_come_first_and_by_name(nodes):
    rows = node_rows(nodes)
    if len(nodes) <= MOST_ROWS:
        return
    ill = [node.name for node in nodes if is_ill(node)]
    assert [row.name for row in rows[: min(len(ill), MOST_ILL)]] == ill[:MOST_ILL]
    flags = [row.ill for row in rows]
    assert flags == sorted(flags, reverse=True)


@given(node_lists())
def test_rows_hold_the_layers_of_their_nodes(nodes):
    for row in node_rows(nodes):
        assert all(start < stop for start, stop in row.layers)
        assert all(one[1] < other[0] for one, other in zip(row.layers, row.layers[1:], strict=False))
    held = {layer for row in node_rows(nodes) for start, stop in row.layers for layer in range(start, stop)}
    assert held == {layer for node in nodes for layer in range(*node.layers)}


@st.composite
def hop_lists(draw: st.DrawFn) -> tuple[tuple[HopStatus, ...], frozenset[tuple[str, str]]]:
    ends = st.just(COORDINATOR) | NAMES
    pairs = draw(st.lists(st.tuples(ends, ends), max_size=120, unique=True))
    hops = tuple(
        HopStatus(*pair, draw(st.integers(0, 9)) / 2, draw(st.integers(0, 99)), draw(st.integers(0, 2)))
        for pair in pairs
    )
    return hops, frozenset(draw(st.lists(st.sampled_from(pairs), max_size=20))) if pairs else frozenset()


@given(hop_lists())
def test_rows_of_hops_are_all_hops(found):
    hops, cut = found
    rows = hop_rows(hops, cut)
    assert sum(row.count for row in rows) == len(hops)
    for name in ("planned_tokens_per_s", "tokens", "running"):
        assert sum(getattr(row, name) for row in rows) == sum(getattr(hop, name) for hop in hops)
    assert any(row.cut for row in rows) == any((hop.tail, hop.head) in cut for hop in hops)
    if len(hops) <= MOST_ROWS:
        assert [(row.tail, row.head) for row in rows] == [(hop.tail, hop.head) for hop in hops]
    else:
        assert len(rows) <= MOST_ILL + MOST_HOP_GROUPS
    assert len({(row.tail, row.head) for row in rows}) == len(rows), "the page finds the row before by its ends"


@given(node_lists())
def test_an_overview_says_what_the_status_does(nodes):
    status = JobStatus("job", "tiny", "ready", True, "", nodes, 1, 2, 3, 4, 5, 6)
    seen = overview(status, 0.5, None)
    same = {field.name for field in fields(status)} & {field.name for field in fields(seen)} - {"nodes"}
    assert all(getattr(seen, name) == getattr(status, name) for name in same)
    assert seen.nodes == sum(seen.by_state.values()) == len(nodes)


def test_patterns_star_the_last_number():
    assert [pattern_of(name) for name in ("l4-tokyo-17", "rack007", "gpu2.site3.example", "alone")] == [
        "l4-tokyo-*",
        "rack*",
        "gpu2.site*.example",
        "alone",
    ]
