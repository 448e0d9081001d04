"""How requests go through a placement, and the moves that search one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helix_df.graph.flow_graph import build_graph
from helix_df.graph.judge import Judge
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, Problem
from helix_df.solvers.goodput.flow_split import split_flow
from helix_df.solvers.goodput.kv_split import shift_shares
from helix_df.solvers.neighbours import Neighbours
from helix_df.solvers.objective import Objective
from property_tests.strategies import limited_problems, placements, problems

many = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@given(problem=problems(), data=st.data())
@many
def test_a_request_runs_every_layer_once_on_its_way(problem: Problem, data: st.DataObject) -> None:
    placement = data.draw(placements(problem))
    judge = Judge(problem)
    start, count = judge.arrays(placement)
    split = split_flow(judge, start, count)
    flow = placement_flow(problem, placement)
    if split is None:
        assert flow.value <= 1e-4
        return
    assert split.flow == pytest.approx(flow.value, rel=1e-6, abs=1e-4)
    assert (split.share * split.layers_run).sum() == pytest.approx(problem.num_layers, rel=1e-4)
    assert (split.layers_run <= split.layers_held + 1e-6).all()
    links = {(edge.tail, edge.head): edge.capacity for edge in build_graph(problem, placement).edges}
    names = [*(node.name for node in problem.nodes), COORDINATOR]
    balance = dict.fromkeys([COORDINATOR, *placement], 0.0)
    for tail, head, share in zip(split.tail, split.head, split.link_share, strict=True):
        tokens_per_s = share * split.flow
        assert 0 < tokens_per_s <= links[names[tail], names[head]] * (1 + 1e-6) + 1e-4
        balance[names[tail]] -= tokens_per_s
        balance[names[head]] += tokens_per_s
    assert max(map(abs, balance.values())) <= 1e-3 + 1e-6 * split.flow


@given(problem=problems(), data=st.data(), ahead=st.booleans())
@many
def test_shares_that_shift_to_nodes_with_room_still_flow(problem: Problem, data: st.DataObject, ahead: bool) -> None:
    judge = Judge(problem)
    split = split_flow(judge, *judge.arrays(data.draw(placements(problem))))
    if split is None:
        return
    room = np.array([data.draw(st.floats(0.05, 2.0)) for _ in split.nodes])
    shifted = shift_shares(split, room, ahead)
    end = len(problem.nodes)
    for node, share in zip(shifted.nodes, shifted.share, strict=True):
        assert shifted.link_share[shifted.head == node].sum() == pytest.approx(share, abs=1e-6)
        assert shifted.link_share[shifted.tail == node].sum() == pytest.approx(share, abs=1e-6)
    assert shifted.link_share[shifted.tail == end].sum() == pytest.approx(1.0)
    assert shifted.link_share[shifted.head == end].sum() == pytest.approx(1.0)
    assert ((shifted.link_share > 0) <= (split.link_share > 0)).all()


@given(problem=limited_problems(), data=st.data(), seed=st.integers(0, 1000))
@many
def test_moves_keep_what_is_fixed_and_what_fits(problem: Problem, data: st.DataObject, seed: int) -> None:
    limits = problem.limits
    if any(node.max_layers == 0 for node in problem.nodes if node.name in limits.required):
        return
    judge = Judge(problem)
    objective = Objective(judge)
    near = Neighbours(objective, *judge.arrays(data.draw(placements(problem))), random.Random(seed))
    for step in range(12 if near.usable else 0):
        before = np.sort(near.count)
        if step % 3 == 0:
            near.move()
        else:
            (near.reorder if step % 3 == 1 else near.permute)()
            assert (np.sort(near.count) == before).all()
        held = near.count > 0
        assert (near.start[held] >= 0).all()
        assert (near.start + near.count <= problem.num_layers).all()
        assert (near.count <= judge.most).all()
        placed = judge.placement(near.start, near.count)
        assert limits.required <= placed.keys()
        assert all(placed[name] == layers for name, layers in limits.fixed.items())
