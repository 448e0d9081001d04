"""A simulation that goes on when told to: compiled or not, it finds what ``simulate`` finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helix_df.simulator import Options, simulate
from helix_df.simulator.compiled.plant import can_compile
from helix_df.simulator.compiled.quick import Overflow, QuickRun
from helix_df.simulator.options import HoldInFlight, NodeEvent
from helix_df.simulator.stepwise import Course, Stepwise
from helix_df.simulator.synthetic import constant, poisson
from helix_df.simulator.world import World
from tests.simulator.small import chain, stage

SETUP = chain(stage("a", 0, 2), stage("b", 2, 4))
TRACE = poisson(0.5, 60.0, constant(40), constant(20))
OPTIONS = Options(seconds=60.0, warmup_s=0.0)


def finish(run: Stepwise) -> Stepwise:
    until_s = 7.0
    while run.advance(until_s):
        until_s += 7.0
    return run


@pytest.mark.parametrize("changes", [{}, {"scheduler": "random"}, {"events": (NodeEvent(50.0, "a", False),)}])
def test_it_finds_what_simulate_finds(changes):
    options = replace(OPTIONS, **changes)
    run, outcome = finish(Stepwise(SETUP, Course(TRACE, options))), simulate(SETUP, TRACE, options)
    assert run.decode_tokens == outcome.decode_tokens > 0
    for figure in ("ttft", "itl"):
        assert run.percentile(figure, 95) == pytest.approx(outcome.percentile(figure, 95), rel=1e-6)


def test_what_outgrows_the_arrays_is_run_by_the_other_loop(monkeypatch):
    def full(self: QuickRun, until_s: float) -> bool:
        raise Overflow

    expected = finish(Stepwise(SETUP, Course(TRACE, OPTIONS))).decode_tokens
    monkeypatch.setattr(QuickRun, "advance", full)
    run = finish(Stepwise(SETUP, Course(TRACE, OPTIONS)))
    assert isinstance(run._run, World)
    assert run.decode_tokens == expected


def test_rules_that_are_not_compiled():
    assert can_compile(OPTIONS)
    assert can_compile(replace(OPTIONS, scheduler="flow-tokens"))
    for changes in (
        {"scheduler": "swarm"},
        {"admission": "open"},
        {"feed": HoldInFlight(3)},
        {"drain": True},
        {"events": (NodeEvent(1.0, "a", False),)},
    ):
        assert not can_compile(replace(OPTIONS, **changes)), changes
