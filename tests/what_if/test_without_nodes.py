"""Plans of a job that has lost nodes: near the one that runs, bounded in what they load, and only if worth it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helix_df.errors import Infeasible
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, read_plan, write_plan
from helix_df.plan.violations import violations
from helix_df.what_if.without_nodes import main, plan_without
from tests.runtime.tiny import tiny_plan

SPLIT = {"a": LayerRange(0, 2), "b": LayerRange(2, 4), "c": LayerRange(2, 4)}


def job_plan(placement: dict[str, LayerRange], by_hand: tuple[str, ...] = (), **changes: Any) -> Plan:
    nodes = {name: {"gpu": "toy", "launcher": "external"} if name in by_hand else {"gpu": "toy"} for name in placement}
    return tiny_plan(placement, nodes=nodes, solver={"name": "auto", "time_limit": "2s"}, **changes)


def test_what_is_left_takes_the_layers_of_the_lost_node():
    plan = job_plan({"a": LayerRange(0, 2), "b": LayerRange(2, 4)})
    found = plan_without(plan, plan, ["b"])
    assert found.plan.placement == {"a": LayerRange(0, 4)}
    assert violations(found.plan) == []
    assert (found.left, found.plan.flow) == (0.0, 100.0)
    assert found.plan.served.runtime.max_batch == plan.served.runtime.max_batch
    assert str(found).startswith("a [0, 2) → [0, 4), b [2, 4) → nothing; 0.756 MB to load")


def test_a_plan_that_serves_no_more_than_what_is_left_is_not_worth_it():
    plan = job_plan({"a": LayerRange(0, 4), "b": LayerRange(0, 4)})
    with pytest.raises(Infeasible, match="serves more than what is left"):
        plan_without(plan, plan, ["b"])


def test_a_plan_that_loads_too_much_is_none():
    plan = job_plan({"a": LayerRange(0, 2), "b": LayerRange(2, 4)})
    with pytest.raises(Infeasible, match="load too much"):
        plan_without(plan, plan, ["b"], most_bytes=1000)


def test_workers_that_people_start_keep_their_layers():
    plan = job_plan(SPLIT, by_hand=("c",))
    found = plan_without(plan, plan, ["a"])
    assert found.plan.placement["c"] == LayerRange(2, 4)
    assert found.plan.placement["b"] in (LayerRange(0, 2), LayerRange(0, 4))
    by_hand = job_plan({"a": LayerRange(0, 2), "b": LayerRange(2, 4)}, by_hand=("a", "b"))
    with pytest.raises(Infeasible):
        plan_without(by_hand, by_hand, ["b"])


def test_a_second_loss_is_planned_from_what_runs_by_then():
    plan = job_plan(SPLIT)
    first = plan_without(plan, plan, ["a"]).plan
    second = plan_without(plan, first, ["a", "b"])
    assert second.plan.placement == {"c": LayerRange(0, 4)}


def test_the_process_writes_a_plan_or_says_why_there_is_none(tmp_path, capsys):
    plan, out = job_plan({"a": LayerRange(0, 2), "b": LayerRange(2, 4)}), tmp_path / "out.json"
    write_plan(plan, tmp_path / "plan.json")
    files = [str(tmp_path / "plan.json")] * 2
    assert main([*files, str(out), "--without", "b"]) == 0
    assert "a [0, 2) → [0, 4)" in json.loads(capsys.readouterr().out)["found"]
    assert read_plan(out).placement == {"a": LayerRange(0, 4)}
    assert main([*files, str(out), "--without", "a", "--without", "b"]) == 0
    assert json.loads(capsys.readouterr().out)["why"]
