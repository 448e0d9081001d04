"""Entries of links: both ways or one, which goes first, and what is refused."""

from __future__ import annotations

import pytest

from helix_df.check import check_job
from helix_df.errors import HelixError, SpecErrors
from helix_df.graph.compile import compile_problem
from helix_df.load import parse_job
from helix_df.planning import make_plan
from helix_df.simulator import setup_of

JOB = """\
model: {source: "random:llama-30b", dtype: float16}
nodes: {a: {gpu: L40S, region: home}, b: {gpu: L40S, region: lab}}
coordinator: {region: home}
links:
  default: {bandwidth: 10Gbps}
"""


@pytest.mark.parametrize(
    ("links", "way", "back"),
    [
        ("regions: [{between: [home, lab], bandwidth: 8Mbps, one_way: true}]", 1e6, 1.25e9),
        ("regions: [{between: [lab, home], bandwidth: 8Mbps, one_way: true}]", 1.25e9, 1e6),
        (
            "regions: [{between: [home, lab], bandwidth: 8Mbps, one_way: true}, "
            "{between: [lab, home], bandwidth: 80Mbps}]",
            1e6,
            1e7,
        ),
        (
            "regions: [{between: [home, lab], bandwidth: 8Mbps, one_way: true}]\n"
            "  nodes: [{between: [a, b], bandwidth: 16Mbps}]",
            2e6,
            2e6,
        ),
        (
            "nodes: [{between: [a, b], bandwidth: 16Mbps, one_way: true}, "
            "{between: [b, a], bandwidth: 24Mbps, one_way: true}]",
            2e6,
            3e6,
        ),
    ],
)
def test_the_most_specific_entry_of_a_direction_wins(links: str, way: float, back: float) -> None:
    table = compile_problem(parse_job(f"{JOB}  {links}\n")).links
    rates = [link.bytes_per_s for ends in (("a", "b"), ("b", "a")) if (link := table.find(*ends)) is not None]
    assert rates == pytest.approx([way, back])


@pytest.mark.parametrize(
    ("entries", "where", "problem"),
    [
        ("[home, lab], true; [home, lab], true", "links.regions[1].between", "named twice, first at links.regions[0]"),
        (
            "[home, lab], false; [lab, home], false",
            "links.regions[1].between",
            "named twice, first at links.regions[0]",
        ),
        ("[lab, lab], true", "links.regions[0].between", "links inside a region go both ways"),
        ("[home, lab], 1", "links.regions[0].one_way", "of the wrong kind"),
        ("[home, lab], true; [lab, home], true; [home, lab], false", None, ""),
    ],
)
def test_each_direction_is_named_once(entries: str, where: str | None, problem: str) -> None:
    said = ""
    for entry in entries.split(";"):
        ends, one_way = entry.strip().rsplit(", ", 1)
        said += f"    - {{between: {ends}, bandwidth: 1Gbps, one_way: {one_way}}}\n"
    if where is None:
        parse_job(f"{JOB}  regions:\n{said}")
        return
    with pytest.raises(HelixError) as caught:
        parse_job(f"{JOB}  regions:\n{said}")
    assert not isinstance(caught.value, SpecErrors)
    assert str(caught.value.where).endswith(f": {where}")
    assert problem in caught.value.problem


def test_a_plan_goes_the_way_that_there_is_and_its_simulation_too() -> None:
    text = JOB.replace(
        "  default: {bandwidth: 10Gbps}\n", "  regions:\n    - {between: [home, home], bandwidth: 1Gbps}\n"
    )
    text += "    - {between: [home, lab], bandwidth: 1Gbps, one_way: true}\n"
    with pytest.raises(HelixError) as caught:
        check_job(parse_job(text))
    assert str(caught.value.where).endswith("links")
    there_and_back = text + "    - {between: [lab, home], bandwidth: 8Mbps, one_way: true}\n"
    plan = make_plan(parse_job(there_and_back))
    assert ("a", "b") in {(edge.tail, edge.head) for edge in plan.edges}
    rates = {(link.tail, link.head): link.bytes_per_s for link in setup_of(plan).links}
    assert rates["a", "b"] == pytest.approx(1.25e8)
    assert rates["b", "coordinator"] == pytest.approx(1e6)
