"""Replays on a job that takes half a second to the first token and a tenth for each next one. Time is virtual."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sized
from dataclasses import replace
from typing import cast

import pytest

from helix_df.benchmarking.figures import difference, measured_figures
from helix_df.benchmarking.replay import Load, Replayed, replay
from helix_df.benchmarking.run import at_rest, fitted
from helix_df.errors import DeploymentError, RequestError, SimulationError
from helix_df.runtime.api.client import Answer, RunningJob
from helix_df.runtime.api.generation import TextRequest
from helix_df.runtime.api.text_pieces import TextPiece
from helix_df.runtime.requests import JobStatus
from helix_df.simulator.trace import Trace, TraceRequest
from tests.api.fakes import READY, not_ready
from tests.benchmarking.virtual_time import run

FIRST_S, NEXT_S = 0.5, 0.1


class FakeJob(RunningJob):
    def __init__(self, short_by: int = 0) -> None:
        self.asked: list[TextRequest] = []
        self.under_way = self.most = 0
        self.errors: dict[int, Exception] = {}
        self.short_by = short_by

    async def status(self) -> JobStatus:
        raise NotImplementedError

    async def _answer(self, request: TextRequest) -> Answer:
        raise NotImplementedError

    async def _pieces(self, request: TextRequest) -> AsyncGenerator[TextPiece, None]:
        self.asked.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if len(self.asked) in self.errors:
                raise self.errors[len(self.asked)]
            assert request.max_tokens is not None
            for index in range(request.max_tokens - self.short_by):
                await asyncio.sleep(NEXT_S if index else FIRST_S)
                yield TextPiece("", (7,))  # half a character, say
        finally:
            self.under_way -= 1


def trace(*requests: tuple[float, int, int], saturating: bool = False) -> Trace:
    return Trace("own", tuple(TraceRequest(at, tokens, out, out) for at, tokens, out in requests), saturating)


def test_requests_come_at_their_times_and_the_window_ends_with_the_last() -> None:
    job = FakeJob()
    found = run(replay(job, trace((0.0, 3, 1), (0.2, 5, 4), (2.0, 2, 2)), Load(60, 0)))
    assert [asked.due_s for asked in found.requests] == [0.0, 0.2, 2.0]
    assert found.requests[1].token_s == pytest.approx([0.7, 0.8, 0.9, 1.0])
    assert found.end_s == pytest.approx(2.6)
    assert (found.run_out, found.stopped) == (True, False)
    assert [len(cast(Sized, request.prompt)) for request in job.asked] == [3, 5, 2]
    assert all(request.ignore_eos and request.temperature == 0 for request in job.asked)
    figures = measured_figures(found)
    assert (figures.arrived, figures.finished, figures.failed, figures.unfinished) == (3, 3, 0, 0)
    assert figures.decode_tokens_per_s == pytest.approx(7 / 2.6)
    assert figures.prompt_tokens_per_s == pytest.approx(10 / 2.6)
    assert figures.ttft_s == pytest.approx([FIRST_S] * 4)
    assert figures.itl_s == pytest.approx([NEXT_S] * 4)
    assert figures.end_to_end_s[0] == pytest.approx(FIRST_S + NEXT_S)


def test_only_what_falls_into_the_window_counts() -> None:
    # First token at 0.5 s, then one each 0.1 s; the window is [0.55, 0.85].
    found = run(replay(FakeJob(), trace((0.0, 3, 50)), Load(0.3, 0.55)))
    figures = measured_figures(found)
    assert (found.start_s, found.end_s) == pytest.approx((0.55, 0.85))
    assert figures.decode_tokens_per_s == pytest.approx(3 / 0.3)
    assert figures.prompt_tokens_per_s == 0
    assert (figures.finished, figures.unfinished) == (0, 1)
    assert math.isnan(figures.ttft_s[0])
    assert figures.itl_s[0] == pytest.approx(NEXT_S)


def test_a_saturating_trace_holds_its_requests_under_way_and_starts_over() -> None:
    job = FakeJob()
    found = run(replay(job, trace((0, 1, 1), (0, 2, 2), (0, 3, 3), saturating=True), Load(10, 0, in_flight=2)))
    assert (job.most, job.under_way) == (2, 0)
    assert [len(cast(Sized, request.prompt)) for request in job.asked[:7]] == [1, 2, 3, 1, 2, 3, 1]
    # Two lanes, and 1.8 s for every three requests.
    assert len(found.requests) == pytest.approx(2 * 10 / 0.6, abs=2)
    assert not found.run_out
    assert measured_figures(found).unfinished == 2


def test_prompts_follow_from_the_seed() -> None:
    def prompts(seed: int, fresh: bool = False) -> list[object]:
        job = FakeJob()
        run(replay(job, trace((0, 9, 1), (0, 9, 1)), Load(9, 0, seed=seed, fresh=fresh, vocabulary=50)))
        return [request.prompt for request in job.asked]

    assert prompts(1) == prompts(1) != prompts(2)
    assert prompts(1)[0] != prompts(1)[1]
    assert prompts(1, fresh=True) != prompts(1, fresh=True)
    assert all(0 <= token < 50 for prompt in prompts(1) for token in prompt)  # type: ignore[attr-defined]


def test_failures_are_counted_and_their_place_is_taken() -> None:
    job = FakeJob()
    job.errors[2] = RequestError("too many requests wait")
    found = run(replay(job, trace((0, 1, 1), saturating=True), Load(5, 0, in_flight=1)))
    figures = measured_figures(found)
    assert figures.failed == 1
    assert found.requests[1].failure == "too many requests wait"
    assert figures.finished == pytest.approx((5 - 0.2) / 0.5, abs=1)


def test_an_answer_of_another_length_is_a_failure() -> None:
    found = run(replay(FakeJob(short_by=2), trace((0, 1, 5)), Load(5, 0)))
    assert found.requests[0].failure == "an answer of 3 tokens instead of 5"
    assert measured_figures(found).finished == 0


def test_a_job_that_goes_away_ends_the_replay() -> None:
    job = FakeJob()
    job.errors[3] = DeploymentError("the job doesn't answer")
    found = run(replay(job, trace((0, 1, 1), saturating=True), Load(500, 0, in_flight=1)))
    assert found.gone is job.errors[3]
    assert found.end_s == pytest.approx(2 * FIRST_S)
    assert measured_figures(found).finished == 2


def test_whoever_stops_it_gets_what_is_done() -> None:
    async def stopped() -> Replayed:
        stop = asyncio.Event()
        seen: list[tuple[float, int]] = []

        def look(now_s: float, tokens: int) -> None:
            seen.append((now_s, tokens))
            if tokens == 3:
                stop.set()

        found = await replay(FakeJob(), trace((0, 1, 100)), Load(50, 0.1), stop=stop, on_token=look)
        assert [tokens for _, tokens in seen] == [1, 2, 3]
        return found

    found = run(stopped())
    assert (found.stopped, found.run_out) == (True, False)
    assert measured_figures(found).decode_tokens_per_s == pytest.approx(3 / (0.7 - 0.1))


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"seconds": math.inf}, {"warmup_s": -1}, {"in_flight": 0}])
def test_loads_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(SimulationError):
        Load(**wrong)  # type: ignore[arg-type]


def test_lengths_shrink_until_the_longest_request_fits() -> None:
    long = Trace("own", (TraceRequest(0, 100, 20, 1000), TraceRequest(1, 300, 100, 1000)))
    sent, factor = fitted(long, 100)
    assert factor == 0.25
    assert sent.requests == (TraceRequest(0, 25, 5, 5), TraceRequest(1, 75, 25, 25))
    assert fitted(long, 400)[0].requests[1] == TraceRequest(1, 300, 100, 100)
    assert fitted(long, 100, 0.001)[0].requests[0] == TraceRequest(0, 1, 1, 1)
    with pytest.raises(SimulationError, match="doesn't fit"):
        fitted(long, 100, 0.5)
    with pytest.raises(SimulationError, match="scaled"):
        fitted(long, 100, 0.0)


def test_a_difference_needs_an_expectation() -> None:
    assert difference(9, 10) == pytest.approx(-0.1)
    assert math.isnan(difference(9, 0))


class Starting(FakeJob):
    """Compiles for three looks, and is ready or isn't."""

    def __init__(self, found: JobStatus) -> None:
        super().__init__()
        self.found = found
        self.looks = 0

    async def status(self) -> JobStatus:
        self.looks += 1
        cold = (replace(node, cold_shapes=max(0, 3 - self.looks)) for node in self.found.nodes)
        return replace(self.found, nodes=tuple(cold), running=0)


def test_it_begins_when_no_worker_compiles_any_more() -> None:
    job, waits = Starting(READY), list[int]()
    status = run(at_rest(job, "tiny", waits.append))
    assert (status.ready, job.looks, waits) == (True, 3, [4, 2])
    with pytest.raises(DeploymentError, match="job tiny is not ready") as error:
        run(at_rest(Starting(not_ready("node left is loading")), "tiny", waits.append))
    assert error.value.found == "node left is loading"
