"""What manifests say to run, runs."""

from __future__ import annotations

import json

import pytest

from tests.chaos import hosts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(hosts.why_not() is not None, reason=f"no hosts can be made here: {hosts.why_not()}"),
]


def test_the_commands_of_exported_pods_serve_as_they_stand_and_a_pod_that_ends_joins_again() -> None:
    with hosts.enter("tests.chaos.pods", []) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    done = json.loads(printed.strip().splitlines()[-1])
    assert (done["tokens"], done["same"]) == (12, True)
    assert [len(places) for places in done["listening"].values()] == [1, 1], "on the port of its service alone"
    assert not done["ready"], "nobody is ready once all have ended"
