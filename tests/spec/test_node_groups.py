"""Nodes that are declared together are the same as nodes that are written down one by one."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helix_df.check import check_job
from helix_df.errors import SpecError, SpecErrors
from helix_df.load import parse_job
from helix_df.spec.job import Job

REST: dict[str, Any] = {"model": {"source": "random:llama-30b"}, "links": {"default": {"bandwidth": "10Gbps"}}}


def job(nodes: dict[str, Any]) -> Job:
    return parse_job(yaml.safe_dump(REST | {"nodes": nodes}, sort_keys=False))


groups = st.fixed_dictionaries(
    {"gpu": st.sampled_from(["A100-40GB", "L4", "2xT4"]), "region": st.sampled_from(["here", "there"])},
    optional={"nic": st.just("10GB/s"), "speed": st.sampled_from([0.5, 1.0]), "launcher": st.just("external")},
)
keys = st.lists(st.sampled_from(["a100", "l4", "rack-2", "t4.eu"]), min_size=1, max_size=3, unique=True)


@given(st.data(), keys)
def test_a_group_is_its_nodes_one_by_one(data: st.DataObject, names: list[str]) -> None:
    together: dict[str, Any] = {}
    alone: dict[str, Any] = {}
    for key in names:
        node, count = data.draw(groups), data.draw(st.none() | st.integers(1, 12))
        has_names, address = data.draw(st.booleans()), data.draw(st.sampled_from([None, "host", "{n}.fleet:70{n:02}"]))
        if count is None:
            together[key] = alone[key] = node
            continue
        declared = node | {"count": count}
        if has_names:
            declared["names"] = f"{key}-n{{n:03}}"
        if address is not None:
            declared["address"] = key + address
        together[key] = declared
        for number in range(1, count + 1):
            said = (
                None if address is None else key + address.replace("{n}", f"{number}").replace("{n:02}", f"{number:02}")
            )
            own = node | ({} if said is None else {"address": said})
            alone[f"{key}-n{number:03}" if has_names else f"{key}-{number}"] = own
    assert job(together) == job(alone)
    assert list(job(together).nodes) == list(alone)


@pytest.mark.parametrize(
    ("nodes", "where", "problem"),
    [
        ("a: {gpu: L4, count: 0}", ":1: nodes.a.count", "at least 1"),
        ("a: {gpu: L4, count: 1000000}", ":1: nodes.a.count", "at most"),
        ("a: {gpu: L4, count: two}", ":1: nodes.a.count", "a whole number"),
        ("a: {gpu: L4, names: 'x{n}'}", ":1: nodes.a", "a count beside them"),
        ("a: {gpu: L4, address: 'x{n}'}", ":1: nodes.a", "a count beside it"),
        ("a: {gpu: L4, count: 2, names: x}", ":1: nodes.a", "one name"),
        ("a: {gpu: L4, count: 2, address: 'x:7000'}", ":1: nodes.a", "one address"),
        ("a: {gpu: L4, count: 2, names: 'x y{n}'}", "nodes", "'x y1' can't be a node's name (a)"),
        ("a: {gpu: L4, count: 9, address: 'x:6553{n}'}", "nodes", "out of range"),
        ("a: {gpu: L4, count: 2, address: 'x{m}'}", ":1: nodes.a.address", "this is not an address"),
        ("a-1: {gpu: L4}, a: {gpu: L4, count: 2}", "nodes", "there are two nodes a-1, one of them of a"),
        ("a: {gpu: L4O, count: 300}", ":1: nodes.a.gpu", "L4O"),
    ],
)
def test_what_is_wrong_is_told_once_where_it_is_written(nodes: str, where: str, problem: str) -> None:
    text = f"nodes: {{{nodes}}}\nmodel: {{source: 'random:llama-30b'}}\nlinks: {{default: {{bandwidth: 10Gbps}}}}\n"
    with pytest.raises(SpecError) as caught:
        parse_job(text)
    assert not isinstance(caught.value, SpecErrors)
    assert where in str(caught.value)
    assert problem in str(caught.value)


def test_nodes_of_a_group_are_called_by_their_own_names() -> None:
    nodes = "nodes: {a: {gpu: A100-40GB, count: 5}, b: {gpu: L4}}\n"
    rest = "model: {source: 'random:llama-30b'}\nlinks: {default: {bandwidth: 10Gbps}}\nlimits: {avoid: [a-2]}\n"
    problem = check_job(parse_job(nodes + rest))
    assert [node.name for node in problem.nodes] == ["a-1", "a-2", "a-3", "a-4", "a-5", "b"]
    with pytest.raises(SpecError, match="a-6"):
        parse_job(nodes + rest.replace("a-2", "a-6"))
