"""A job whose workers SSH starts on hosts that are apart."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.chaos import hosts
from tests.chaos.ssh_hosts import SSHD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(hosts.why_not() is not None, reason=f"no hosts can be made here: {hosts.why_not()}"),
    pytest.mark.skipif(os.geteuid() != 0 or not Path(SSHD).exists(), reason="needs root and an sshd"),
]


def test_a_cut_and_a_slow_link_change_no_answer_and_nothing_listens_where_it_should_not() -> None:
    with hosts.enter("tests.chaos.ssh_hosts", [], as_root=True) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    done = json.loads(printed.strip().splitlines()[-1])
    assert done["nodes"] == ["a", "b", "c"]
    for host, places in done["listen"].items():
        (place,) = places
        assert place.startswith(done["addresses"][host] + ":")
    assert (done["same_after_cut"], done["same_workers"]) == (True, True), "a worker outlives its session"
    assert done["same_when_slow"]
    assert done["carried_s"] > 0.5
    assert done["slow_s"] > 0.7 * done["carried_s"], "as long as the link takes for what was sent"
    assert done["left"] == []
