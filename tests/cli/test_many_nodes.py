"""A job of a thousand nodes is shown on one screen."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from helix_df.cli.status import MOST_TOLD, _matching, _some, _told_of_nodes, nodes_table
from helix_df.cli.top import _frame
from helix_df.errors import DeploymentError
from helix_df.graph.problem import COORDINATOR
from helix_df.runtime.requests import HopStatus, JobStatus, NodeStatus, what_is_missing

NODES = tuple(
    NodeStatus(
        f"{gpu}-{site}-{number}", "ready", (number % 4, number % 4 + 1), f"tcp://10.0.0.1:{number}", 1.0, "", 1, 9, 1
    )
    for gpu in ("a100", "l4")
    for site in ("oslo", "lima")
    for number in range(1, 251)
)
HOPS = tuple(HopStatus(COORDINATOR, node.name, 1.5, 10, 1) for node in NODES)


def status(*lost: int) -> JobStatus:
    nodes = tuple(
        replace(node, state="lost", detail="silent for 3 s", join_command=f"join {node.name}") if at in lost else node
        for at, node in enumerate(NODES)
    )
    return JobStatus("job", "tiny", "ready", True, "", nodes, 0, 0, 0, 0, 0, 0, hops=HOPS, num_layers=4)


def shown(what: object, width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(what)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_nodes_that_are_alike_share_a_row_after_those_that_are_ill() -> None:
    lines = shown(nodes_table(status(3, 999)))
    assert len(lines) == 1 + 2 + 4
    assert lines[1].split()[:4] == ["a100-oslo-4", "1", "[0,", "1)"]
    assert lines[1].endswith("silent for 3 s")
    assert "a100-oslo-*" in lines[3]
    assert "249" in lines[3]
    assert "[0, 4) in 4 ranges" in lines[3]
    assert len(shown(nodes_table(status(), None))) == 1 + 1000


def test_few_nodes_have_a_row_and_an_address_each() -> None:
    few = replace(status(), nodes=NODES[:3])
    lines = shown(nodes_table(few))
    assert len(lines) == 4
    assert "tcp://10.0.0.1:2" in lines[2]


def test_some_nodes_alone() -> None:
    found = _matching(status(), ["l4-lima-1?", "a100-oslo-7"])
    assert [node.name for node in found] == ["a100-oslo-7", *(f"l4-lima-1{last}" for last in range(10))]
    with pytest.raises(DeploymentError, match="no such node"):
        _matching(status(), ["zebra"])


def test_what_is_said_of_many_is_said_of_a_few() -> None:
    told = [line for lines in _told_of_nodes(status(*range(100))) for line in _some(lines)]
    assert len(told) == MOST_TOLD + 1
    assert told[0] == "a100-oslo-1 waits for this command on its host:\n  join a100-oslo-1"
    assert "92 more" in told[-1]
    words = what_is_missing({node.name: node.state for node in status(*range(100)).nodes}, [(0, 2)])
    assert len(words) < 400
    assert "and 92 more" in words


def test_attention_is_told_where_it_is_not_our_own() -> None:
    plain, *others = NODES[:5]
    nodes = (
        replace(plain, attention="gather"),
        *(replace(node, attention="paged, fused for prompts") for node in others),
    )
    told = [line for lines in _told_of_nodes(replace(status(), nodes=nodes)) for line in lines]
    assert told == [f"attention by paged, fused for prompts on {', '.join(node.name for node in others)}"]


def test_top_sums_links_that_are_alike() -> None:
    lines = shown(_frame(replace(status(), generated_tokens=50), status(), 2.0))
    assert len(lines) < 20
    assert "25.0 tokens/s generated" in lines[0]
    link = next(line for line in lines if "l4-lima-*" in line and "coordinator" in line)
    assert link.split() == ["coordinator", "l4-lima-*", "0.0", "375.0", "250"]
