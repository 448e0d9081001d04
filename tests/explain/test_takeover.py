"""What a plan that takes over has workers load."""

from __future__ import annotations

from helix_df.layers import LayerRange
from helix_df.plan.moves import load_bytes
from helix_df.plan.takeover import takeover_of_plans
from tests.runtime.tiny import tiny_plan

HALVES = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}


def test_workers_that_are_started_beside_others_load_all_that_they_hold():
    longer = {"a": LayerRange(0, 3), "b": LayerRange(2, 4)}
    running, new = tiny_plan(HALVES), tiny_plan(longer)
    change = takeover_of_plans(running, new)
    assert change.coming == ("a.2",)
    whole = load_bytes(None, longer["a"], new.geometry, 4)
    assert change.load_bytes == whole > load_bytes(HALVES["a"], longer["a"], new.geometry, 4)


def test_who_serves_on_as_it_is_loads_nothing():
    assert takeover_of_plans(tiny_plan(HALVES), tiny_plan(HALVES)).load_bytes == 0
    more = {**HALVES, "c": LayerRange(2, 4)}
    change = takeover_of_plans(tiny_plan(HALVES), tiny_plan(more))
    assert change.coming == ("c",)
    assert change.load_bytes == load_bytes(None, more["c"], tiny_plan(more).geometry, 4)
