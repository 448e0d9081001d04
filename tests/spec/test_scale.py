"""Nodes that come and go, as a job declares them, and what can't be meant."""

from __future__ import annotations

import pytest

from helix_df.errors import SpecError
from helix_df.load import parse_job

JOB = """\
model: {source: random:tiny}
nodes:
  base: {gpu: L4}
  spot: {gpu: L4, count: 3%s}
links: {default: {bandwidth: 1Gbps}}
scale: {nodes: [%s]%s}
%s
"""


def job(nodes: str = "spot-*", scale: str = "", more: str = "", node: str = "") -> str:
    return JOB % (node, nodes, scale, more)


def test_patterns_name_nodes_in_the_order_in_which_they_are_taken() -> None:
    found = parse_job(job("spot-2, 'spot-*'"))
    assert found.scale.named(found.nodes) == ("spot-2", "spot-1", "spot-3")
    assert (found.scale.min, found.scale.max, found.scale.queue_time) == (0, None, 1.0)


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        (job("spot-*, spt-1"), "scale.nodes[1]", "there is no node of this name; did you mean 'spot-1'?"),
        (job("'*'"), "scale.min", "without any node nothing is served"),
        (job(scale=", max: 4"), "scale.max", "the nodes named are fewer"),
        (job(scale=", min: 3, max: 2"), "scale.min", "the fewest are more than the most"),
        (job(scale=", headroom: 1.5"), "scale.headroom", "the number is out of range"),
        (job(more="limits: {use: [spot-2]}"), "scale.nodes", "limits.use wants this node to have layers at all times"),
        (job(node=", address: 'h{n}'"), "nodes.spot.launcher", "scale starts this node when it is needed"),
    ],
)
def test_what_can_not_be_meant_is_refused_where_it_stands(text: str, where: str, problem: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_job(text)
    first = getattr(error.value, "errors", [error.value])[0]
    assert where in first.where
    assert problem in first.problem
    assert first.expected or first.hint or first.found
