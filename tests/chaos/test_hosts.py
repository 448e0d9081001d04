"""Jobs on several hosts, which are network namespaces: links and hosts that go, spies and strangers on the network."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.chaos import hosts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(hosts.why_not() is not None, reason=f"no hosts can be made here: {hosts.why_not()}"),
]

RESUMED_S = 5.0


def ran(module: str, *arguments: str) -> dict[str, Any]:
    """The last line that a module prints in a sandbox."""
    with hosts.enter(module, arguments) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    document: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    return document


def undisturbed(row: str) -> dict[str, Any]:
    done = ran("tests.chaos", row, "--streams", "8")
    assert done["answers"] >= 8
    assert (done["lost"], done["changed"], done["why"]) == (0, 0, "")
    return done


@pytest.mark.parametrize("row", ["kill-prefill", "kill-coordinator", "cut-10", "host-gone", "cut-between"])
def test_where_the_layers_survive_no_answer_is_lost_or_changed(row: str) -> None:
    """And it goes on in time: while no other test runs (``ALONE`` in conftest)."""
    assert undisturbed(row)["most_s"] < RESUMED_S


def test_where_messages_are_lost_no_answer_is() -> None:
    """How soon isn't promised: a message may be lost again while a request starts over."""
    undisturbed("dropped")


def test_a_spy_finds_all_of_a_job_that_is_not_encrypted_and_nothing_of_one_that_is() -> None:
    clear, encrypted = ran("tests.chaos.outsiders", "spy", "never"), ran("tests.chaos.outsiders", "spy", "auto")
    words = ("prompt", "name", "kinds", "hidden", "secret")
    assert {word: clear[word] for word in words} == dict.fromkeys(words, True)
    assert {word: encrypted[word] for word in words} == dict.fromkeys(words, False)
    assert clear["tokens"] == encrypted["tokens"] == 20
    assert encrypted["bytes"] > 10_000


def test_a_stranger_on_the_network_reaches_nobody_and_the_job_serves_on() -> None:
    done = ran("tests.chaos.outsiders", "stranger", "auto")
    assert (done["state"], done["same"], done["exits"]) == ("ready", True, [])
    assert set(done["refused"]) == {"connection"}
    assert all(done["logs"].values())
