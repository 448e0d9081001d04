"""Changes of a job: each does exactly what it says, and mistakes are told once."""

import pytest

from helix_df.errors import SpecError
from helix_df.graph.compile import compile_problem, link_table
from helix_df.graph.problem import COORDINATOR
from helix_df.load import parse_job
from helix_df.spec.job import Job
from helix_df.what_if import AddNodes, RemoveNode, SetLink, SetRate, changed
from helix_df.what_if.read_changes import read_added, read_changes, read_link, read_sweep

TEXT = """
name: tiny
model: {source: "random:llama-30b", dtype: float16}
nodes:
  a-1: {gpu: L4, region: eu, nic: 10Gbps}
  a-2: {gpu: T4, region: eu}
  b: {gpu: L4, region: us}
coordinator: {region: eu}
links:
  regions:
  - {between: [eu, eu], bandwidth: 10Gbps, latency: 1ms}
  - {between: [us, us], bandwidth: 10Gbps, latency: 1ms}
  - {between: [eu, us], bandwidth: 100Mbps, latency: 40ms}
  nodes:
  - {between: [a-1, a-2], bandwidth: 1Gbps, latency: 2ms}
  - {between: [a-1, b], bandwidth: 200Mbps, latency: 30ms}
limits: {use: [b], avoid: [a-2], pin: {b: [0, 4]}}
solver: {name: even}
"""


@pytest.fixture
def job():
    return parse_job(TEXT)


def rest(job, *parts):
    """All of a job but some parts."""
    return {name: value for name, value in job.model_dump().items() if name not in parts}


def test_new_nodes_are_of_the_type_and_in_the_region_and_linked_like_their_neighbours(job):
    grown = changed(job, [AddNodes("L4", 2, "eu")])
    assert rest(grown, "nodes", "links") == rest(job, "nodes", "links")
    added = [name for name in grown.nodes if name not in job.nodes]
    assert len(added) == 2
    assert {name: grown.nodes[name] for name in job.nodes} == dict(job.nodes)
    before, table = link_table(job), link_table(grown)
    for name in added:
        assert (grown.nodes[name].gpu, grown.nodes[name].region) == ("L4", "eu")
        assert grown.nodes[name].nic == job.nodes["a-1"].nic
        for other in ("a-2", "b", COORDINATOR):
            assert table.find(name, other) == before.find("a-1", other)
    assert table.find(*added) is not None
    assert all(table.find(x, y) == before.find(x, y) for x in job.nodes for y in job.nodes if x != y)
    assert Job.model_validate(grown.model_dump(mode="json", exclude_none=True)) == grown
    assert len(compile_problem(grown).nodes) == 5


def test_where_every_link_is_named_a_new_node_has_links_too(job):
    only_named = job.model_copy(update={"links": job.links.model_copy(update={"regions": ()})})
    table = link_table(changed(only_named, [AddNodes("L4", 1, "eu")]))
    assert table.find("L4-new1", "a-1") == table.find("a-1", "a-2")
    assert table.find("L4-new1", "b") == table.find("a-1", "b")


def test_a_removed_node_is_gone_from_everywhere(job):
    less = changed(job, [RemoveNode("b")])
    assert rest(less, "nodes", "links", "limits") == rest(job, "nodes", "links", "limits")
    assert list(less.nodes) == ["a-1", "a-2"]
    assert [entry.between for entry in less.links.nodes] == [("a-1", "a-2")]
    assert [entry.between for entry in less.links.regions] == [("eu", "eu")]
    assert (less.limits.use, less.limits.avoid, less.limits.pin) == ((), ("a-2",), {})
    with pytest.raises(SpecError, match="last node"):
        changed(job, [RemoveNode(name) for name in job.nodes])


def test_a_link_of_regions_changes_all_that_crosses_and_nothing_else(job):
    faster = changed(job, [SetLink(("us", "eu"), 1e9)])
    assert rest(faster, "links") == rest(job, "links")
    before, table = link_table(job), link_table(faster)
    for a in ("a-1", "a-2", COORDINATOR):
        assert (table.find(a, "b").bytes_per_s, table.find(a, "b").latency_s) == (1e9, before.find(a, "b").latency_s)
    assert table.find("a-1", "a-2") == before.find("a-1", "a-2")
    assert table.find("a-1", COORDINATOR) == before.find("a-1", COORDINATOR)
    nearer = link_table(changed(job, [SetLink(("eu", "us"), 1e9, 0.005)]))
    assert {nearer.find(a, "b").latency_s for a in ("a-1", "a-2", COORDINATOR)} == {0.005}


def test_a_link_of_nodes_changes_that_pair_alone(job):
    for pair in (("a-2", "b"), ("b", "a-1"), (COORDINATOR, "b")):
        before, table = link_table(job), link_table(changed(job, [SetLink(pair, 5e6)]))
        ends = [*job.nodes, COORDINATOR]
        for a, b in [(a, b) for a in ends for b in ends if a != b]:
            if {a, b} == set(pair):
                assert (table.find(a, b).bytes_per_s, table.find(a, b).latency_s) == (5e6, before.find(a, b).latency_s)
            else:
                assert table.find(a, b) == before.find(a, b)


def test_a_changed_link_keeps_its_codec():
    packed = parse_job(TEXT.replace("latency: 40ms", "latency: 40ms, codec: int8"))
    table = link_table(changed(packed, [SetLink(("eu", "us"), 1e9)]))
    assert (table.find("a-2", "b").codec, table.find("a-1", "b").codec) == ("int8", "none")
    assert link_table(changed(packed, [SetLink(("a-2", "b"), 1e9)])).find("a-2", "b").codec == "int8"


def test_a_rate_is_the_workloads(job):
    busier = changed(job, [SetRate(3.0)])
    assert busier.workload.rate == 3.0
    assert rest(busier, "workload") == rest(job, "workload")


def test_changes_follow_each_other_and_none_changes_nothing(job):
    assert changed(job, []) == job
    back = changed(job, [AddNodes("T4", 1, "us"), RemoveNode("T4-new1")])
    assert back.nodes == job.nodes
    assert [entry.between for entry in back.links.nodes] == [entry.between for entry in job.links.nodes]


def test_the_notation(job):
    assert read_added("L4") == AddNodes("L4", 1, None)
    assert read_added("2xL4:3@eu") == AddNodes("2xL4", 3, "eu")
    assert read_added("L4@us") == AddNodes("L4", 1, "us")
    assert read_link("eu-us=1Gbps", job) == SetLink(("eu", "us"), 125e6)
    assert read_link("a-1-a-2=1GB/s,3ms", job) == SetLink(("a-1", "a-2"), 1e9, 0.003)
    assert read_link("a-1:b=8bps", job) == SetLink(("a-1", "b"), 1.0)
    assert read_changes(["L4@eu"], ["b"], ["eu-eu=1GB/s"], job) == [
        AddNodes("L4", 1, "eu"),
        RemoveNode("b"),
        SetLink(("eu", "eu"), 1e9),
    ]
    assert [step.setting for step in read_sweep("rate=1, 2", job)] == [("rate", "1"), ("rate", "2")]
    assert [step.change for step in read_sweep("add-node.L4@eu=1,2", job)] == [
        AddNodes("L4", 1, "eu"),
        AddNodes("L4", 2, "eu"),
    ]
    assert [step.change for step in read_sweep("link.eu-us=8bps,16bps", job)] == [
        SetLink(("eu", "us"), 1.0),
        SetLink(("eu", "us"), 2.0),
    ]


@pytest.mark.parametrize("text", ["", ":2", "L4:", "L4:0", "L4:-1", "L4:x", "L4:1.5", "L4@", "L4:²", "L4:9999999"])
def test_nodes_that_cannot_be_read(text):
    with pytest.raises(SpecError, match="--add-node"):
        read_added(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("eu-us", "can't be read"),
        ("=1Gbps", "can't be read"),
        ("eu-us=1Gbps,", "can't be read"),
        ("eu-us=fast", "not a bandwidth"),
        ("eu-us=1", "unit is missing"),
        ("eu-us=1Gbps,5", "unit of"),
        ("eu=1Gbps", "no two regions or nodes"),
        ("a-1-c-2=1Gbps", "no two regions or nodes"),
    ],
)
def test_links_that_cannot_be_read(text, words, job):
    with pytest.raises(SpecError, match=words) as caught:
        read_link(text, job)
    assert caught.value.where == "--link"


def test_a_dash_that_may_part_two_ways_asks_for_a_colon():
    text = TEXT.replace("  b: {gpu: L4, region: us}", "  b: {gpu: L4, region: us}\n  a: {gpu: L4, region: us}")
    text = text.replace("coordinator: {region: eu}", "coordinator: {region: 1-b}")
    job = parse_job(text)
    with pytest.raises(SpecError, match="which dash") as caught:
        read_link("a-1-b=1Gbps", job)
    assert "a-1:b" in caught.value.expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (AddNodes("L5", 1, "eu"), "no GPU called 'L5'; did you mean 'L4'"),
        (AddNodes("L4", 1, "e"), "no region called 'e'; did you mean 'eu'"),
        (AddNodes("L4"), "several regions"),
        (RemoveNode("a-3"), "no node called 'a-3'; did you mean 'a-"),
        (SetLink(("eu", "su"), 1.0), "no region called 'su'; did you mean 'us'"),
        (SetLink(("a-1", "c"), 1.0), "no node called 'c'"),
        (SetLink(("eu", "b"), 1.0), "one end is a region"),
        (SetLink(("b", "b"), 1.0), "no link to itself"),
        (SetRate(0.0), "above zero"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(change, words, job):
    with pytest.raises(SpecError, match=words) as caught:
        changed(job, [change])
    assert caught.value.where.startswith("--")


EU = ("a-1", "a-2", COORDINATOR)


def differing(job):
    """The job with a slower way from eu to us, and from a-1 to b."""
    one_way = (
        "  - {between: [eu, us], bandwidth: 10Mbps, latency: 60ms, codec: int8, one_way: true}\n"
        "  nodes:\n  - {between: [a-1, b], bandwidth: 5Mbps, latency: 50ms, one_way: true}\n"
    )
    return parse_job(TEXT.replace("  nodes:\n  - {between", one_way + "  - {between", 1))


def every_link(job):
    table, ends = link_table(job), [*job.nodes, COORDINATOR]
    return {(a, b): table.find(a, b) for a in ends for b in ends if a != b}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (SetLink(("eu", "us"), 1e9, one_way=True), lambda a, b: a in EU and b == "b"),
        (SetLink(("us", "eu"), 1e9, one_way=True), lambda a, b: a == "b" and b in EU),
        (SetLink(("us", "eu"), 1e9), lambda a, b: (a in EU) != (b in EU)),
        (SetLink(("eu", "us"), 1e9, 0.002), lambda a, b: (a in EU) != (b in EU)),
        (SetLink(("a-1", "b"), 1e9), lambda a, b: {a, b} == {"a-1", "b"}),
        (SetLink(("b", "a-1"), 1e9, one_way=True), lambda a, b: (a, b) == ("b", "a-1")),
        (SetLink(("a-2", "b"), 1e9, one_way=True), lambda a, b: (a, b) == ("a-2", "b")),
        (SetLink((COORDINATOR, "b"), 1e9, 0.003), lambda a, b: {a, b} == {COORDINATOR, "b"}),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_links_that_differ_by_direction_change_in_the_directions_that_are_asked(job, change, same):
    job = differing(job)
    before, after = every_link(job), every_link(changed(job, [change]))
    for ends, link in after.items():
        if same(*ends):
            latency_s = before[ends].latency_s if change.latency_s is None else change.latency_s
            assert (link.bytes_per_s, link.latency_s, link.codec) == (1e9, latency_s, before[ends].codec)
        else:
            assert link == before[ends]


def test_new_nodes_have_the_directions_of_their_neighbours(job):
    job = differing(job)
    before, after = every_link(job), every_link(changed(job, [AddNodes("L4", 1, "eu")]))
    assert after["L4-new1", "b"] == before["a-1", "b"] != after["b", "L4-new1"] == before["b", "a-1"]


def test_a_direction_is_written_as_an_arrow(job):
    assert read_link("a-1->b=8bps,3ms", job) == SetLink(("a-1", "b"), 1.0, 0.003, one_way=True)
    assert str(read_link("eu->us=8Mbps", job)) == "eu->us at 8 Mbit/s"
    with pytest.raises(SpecError, match="no node called 'nobody'"):
        changed(job, [read_link("a-1->nobody=8bps", job)])
    with pytest.raises(SpecError, match="go both ways"):
        changed(job, [read_link("eu->eu=8bps", job)])
