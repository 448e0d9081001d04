"""A fleet on one machine: it registers, serves, loses a part of itself at once, heals, and ends when it is told to."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from helix_df.runtime.requests import NodeStatus
from tests.chaos.counting_engine import next_token
from tests.chaos.fleet import divided, job_text, measure

pytestmark = pytest.mark.slow
RESUMED_S = 20.0


async def test_a_fleet_loses_a_tenth_and_no_answer(tmp_path: Path) -> None:
    found = await measure(60, 8, 6, tmp_path, f"fleet{uuid.uuid4().hex[:8]}", steady_s=1.0, tokens=40)
    assert (found.workers, found.lose) == (60, 6)
    assert found.answers >= 8
    assert (found.lost, found.changed, found.why) == (0, 0, "")
    assert found.to_resume_most_s < RESUMED_S
    assert found.left_s < RESUMED_S, "workers that were told to stop have ended by themselves"
    assert found.status["/helix/overview"].size < 20_000


def test_who_is_lost_has_a_twin_that_stays() -> None:
    nodes = [
        NodeStatus(f"n-{at}", "ready", (at % 4, at % 4 + 1), None, 1.0, "", 0, 1, 0) for at in range(9)
    ]  # three of the first layer, two of each other
    parts, lost = divided(nodes, 4)
    victims = {name for part in parts[:lost] for name in part}
    assert len(victims) == 4
    assert sorted(name for part in parts for name in part) == sorted(node.name for node in nodes)
    assert {node.layers for node in nodes if node.name not in victims} == {node.layers for node in nodes}


def test_a_fleet_of_a_thousand_is_a_job_of_few_lines() -> None:
    assert len(job_text(1000).splitlines()) <= 60


def test_what_follows_depends_on_every_token() -> None:
    tokens = [5, 7, 11, 13]
    others = [[*tokens[:at], token, *tokens[at + 1 :]] for at in range(4) for token in range(90, 120)]
    assert {next_token(other, 16) for other in others} > {next_token(tokens, 16)}
