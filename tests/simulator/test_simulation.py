"""A simulation that goes on when told to; plain or compiled, it finds what ``simulate`` finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helix_df import notices
from helix_df.errors import SimulationError
from helix_df.simulator import Options, simulate
from helix_df.simulator.kernel import jit, loop, memory
from helix_df.simulator.options import HoldInFlight, NodeEvent
from helix_df.simulator.simulation import Course, Simulation
from helix_df.simulator.synthetic import constant, poisson, saturating
from tests.simulator.small import chain, stage, trace

SETUP = chain(stage("a", 0, 2), stage("b", 2, 4))
TRACE = poisson(0.5, 60.0, constant(40), constant(20))
OPTIONS = Options(seconds=60.0, warmup_s=0.0)


def finish(run: Simulation) -> Simulation:
    until_s = 7.0
    while run.advance(until_s):
        until_s += 7.0
    return run


@pytest.mark.parametrize("form", ["plain", "compiled"])
@pytest.mark.parametrize("changes", [{}, {"scheduler": "random"}, {"events": (NodeEvent(50.0, "a", False),)}])
def test_it_finds_what_simulate_finds(changes, form):
    options = replace(OPTIONS, **changes)
    run, outcome = finish(Simulation(SETUP, Course(TRACE, options), form=form)), simulate(SETUP, TRACE, options)
    assert run.decode_tokens == outcome.decode_tokens > 0
    for figure in ("ttft", "itl"):
        assert run.percentile(figure, 95) == pytest.approx(outcome.percentile(figure, 95), rel=1e-6)


def test_tables_grow_while_it_runs(monkeypatch):
    """More requests, steps and events at once than the smallest tables hold; what is noted doesn't fit them either."""
    crowd = saturating(constant(30), constant(20))
    options = replace(OPTIONS, admission="open", feed=HoldInFlight(700, spacing_s=0.0), max_batch=300, bundles=False)
    served = chain(stage("a", 0, 2, 3_000, 10**6), stage("b", 2, 4, 3_000, 10**6))
    outcome = simulate(served, crowd, options)
    tiny = memory.Sizes(8, 64, 2, 2, 2, 8, 2, 32)
    monkeypatch.setattr(memory, "SMALL", tiny)
    monkeypatch.setattr(memory, "LARGE", tiny)
    for form in ("plain", "compiled"):
        again = simulate(served, crowd, options, form=form)
        assert again.requests.generated_tokens.tolist() == outcome.requests.generated_tokens.tolist()
        assert np.array_equal(again.gaps_s, outcome.gaps_s)
        assert again.series.in_flight.max() == 700


def test_it_goes_on_compiled_from_where_it_was(monkeypatch):
    """Whatever has run as plain Python when the loop is compiled."""
    options = replace(OPTIONS, seconds=600.0, drain=True)
    long = poisson(2.0, 600.0, constant(40), constant(20))
    plain = simulate(SETUP, long, options, form="plain")
    monkeypatch.setattr("helix_df.simulator.simulation.LOAD_S", 0.0)
    monkeypatch.setattr("helix_df.simulator.simulation.COMPILE_S", 0.0)
    run = Simulation(SETUP, Course(long, options))
    run.run()
    assert run.is_compiled
    assert np.array_equal(run.gaps_s, plain.gaps_s)
    assert run.decode_tokens == plain.decode_tokens


def test_every_token_is_recorded_when_asked():
    """Ten tokens a second a layer: a prompt of 5 takes 0.5 s and gives a token, each of the 3 others takes 0.1 s."""
    options = Options(seconds=100, warmup_s=0, message_bytes=0)
    run = Simulation(chain(stage("a", 0, 4, tokens_per_s=10)), Course(trace((1.0, 5, 4)), options), record_tokens=True)
    run.run()
    request, index, time_s = run.tokens
    assert request.tolist() == [0, 0, 0, 0]
    assert index.tolist() == [0, 1, 2, 3]
    assert time_s == pytest.approx([1.5, 1.6, 1.7, 1.8], abs=1e-6)


def test_what_never_ends_is_refused():
    with pytest.raises(SimulationError, match="never ends"):
        simulate(SETUP, saturating(constant(1), constant(1)), replace(OPTIONS, admission="open"))


def test_compiled_code_is_found_again_only_by_what_it_was_made_from(monkeypatch):
    """Another constant, in the loop or in a rule that it shares with the runtime, or another body: another name."""
    from helix_df.rules import retries
    from helix_df.simulator.kernel import admission, failures

    before = jit.fingerprint(loop.advance)
    assert jit.fingerprint(loop.advance) == before
    found = {before}
    for module, name, value in ((failures, "MOST_ATTEMPTS", 1), (retries, "MOST_REJECTIONS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            found.add(jit.fingerprint(loop.advance))
    with monkeypatch.context() as patch:
        # A rule as the kernel calls it, with one more token a request.
        patch.setattr(admission, "expected_kv", _one_more)
        found.add(jit.fingerprint(loop.advance))
    assert len(found) == 4
    assert jit.fingerprint(loop.advance) == before


def _one_more(tokens: int, prompt: int, answer: int, most: int, worst_case: bool) -> int:
    return most if worst_case else min(most, max(tokens, prompt + answer) + 1)


_one_more.__module__ = "helix_df.rules.admission"


def test_whoever_waits_for_the_compiler_is_told(monkeypatch, tmp_path):
    heard: list[str] = []
    monkeypatch.setattr(notices, "_listeners", [heard.append])
    monkeypatch.setattr(jit, "is_ready", lambda: False)
    monkeypatch.setattr(jit, "is_kept", lambda: False)
    Simulation(SETUP, Course(TRACE, OPTIONS), form="compiled")
    assert len(heard) == 1
    assert "compiling the simulator" in heard[0]


def test_without_the_compiler_the_loop_is_plain(monkeypatch):
    monkeypatch.setenv("HELIX_DF_JIT", "0")
    run = finish(Simulation(SETUP, Course(TRACE, OPTIONS), form="compiled"))
    assert not run.is_compiled
    monkeypatch.delenv("HELIX_DF_JIT")
    assert run.decode_tokens == finish(Simulation(SETUP, Course(TRACE, OPTIONS), form="compiled")).decode_tokens
