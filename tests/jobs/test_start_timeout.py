"""How long a job may take to start."""

from __future__ import annotations

import pytest

from helix_df.layers import LayerRange
from helix_df.runtime.jobs.daemon import start_timeout
from tests.runtime.tiny import tiny_plan


@pytest.mark.parametrize(("launcher", "seconds"), [("local", 120.0), ("external", None)])
def test_people_may_take_their_time(launcher: str, seconds: float | None) -> None:
    nodes = {"here": {"gpu": "toy"}, "there": {"gpu": "toy", "launcher": launcher}}
    placement = {"here": LayerRange(0, 2), "there": LayerRange(2, 4)}
    plan = tiny_plan(placement, nodes=nodes, runtime={"start_timeout": "2min"})
    assert start_timeout(plan) == seconds
