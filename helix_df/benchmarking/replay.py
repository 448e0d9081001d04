"""A trace replayed against a running job: when each request was sent, and when each of its tokens arrived.

Owns the order and the times of requests. Doesn't know HTTP, plans or what is made of the times.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np

from helix_df.errors import DeploymentError, RequestError, SimulationError
from helix_df.runtime.api.client import RunningJob
from helix_df.simulator.trace import Trace, TraceRequest

SMALLEST_VOCABULARY = 256
"""Token ids that every model has."""

IN_FLIGHT = 32
"""Requests that a saturating trace keeps in flight by default."""

PAUSE_S = 0.2
"""After a refusal, before the next request of a saturating trace takes its place."""


@dataclass(frozen=True, slots=True)
class Load:
    """How a trace is replayed. Times are in seconds.

    Attributes:
        seconds: the window that is reported, after ``warmup_s``.
        in_flight: of a saturating trace: requests in flight at all times.
        vocabulary: prompts are drawn from token ids below this.
        seed: of the prompts.
        fresh: prompts differ from run to run, so that no worker still has one in its cache.
        repeat: prompts repeat a stretch of so many tokens, as texts do in which drafts are found; ``None``: they don't.
    """

    seconds: float = 60.0
    warmup_s: float = 10.0
    in_flight: int = IN_FLIGHT
    vocabulary: int = SMALLEST_VOCABULARY
    seed: int = 0
    fresh: bool = True
    repeat: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise SimulationError("the measured time must be above zero", where="seconds", found=self.seconds)
        if not 0 <= self.warmup_s < float("inf"):
            raise SimulationError("the warm-up can't be negative", where="warmup", found=self.warmup_s)
        if self.in_flight < 1:
            raise SimulationError("at least one request must be in flight", where="in-flight", found=self.in_flight)
        if self.repeat is not None and self.repeat < 1:
            raise SimulationError("a stretch has at least one token", where="repeat", found=self.repeat)


@dataclass(slots=True)
class ReplayedRequest:
    """A request and what became of it; times in seconds from the start of the replay.

    ``due_s`` is when it arrived, and latencies count from there. ``token_s`` has an entry a token. Without ``ended_s``
    and ``failure`` it was still in flight at the end.
    """

    wanted: TraceRequest
    due_s: float
    token_s: list[float] = field(default_factory=list)
    ended_s: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What happened in ``[0, end_s)``; ``start_s`` is where the warm-up ends.

    It ended before its time where the trace had ``run_out`` and all was answered, somebody ``stopped`` it, or the job
    was ``gone``.
    """

    requests: tuple[ReplayedRequest, ...]
    start_s: float
    end_s: float
    run_out: bool = False
    stopped: bool = False
    gone: DeploymentError | None = None


OnToken = Callable[[float, int], None]
"""Called with seconds since the start and tokens so far."""


async def replay(
    job: RunningJob,
    trace: Trace,
    load: Load,
    *,
    stop: asyncio.Event | None = None,
    on_token: OnToken = lambda now_s, tokens: None,
) -> Replayed:
    """Send the requests of a trace, and record when their tokens arrive.

    A saturating trace holds ``load.in_flight`` requests in flight and starts over at its end; any other one is sent at
    its own times. Every request generates exactly its ``output_tokens``; prompts are random tokens.

    Args:
        job: where to.
        trace: what to send.
        load: how.
        stop: ends it early once it is set.
        on_token: called with every piece of an answer.
    """
    return await _TraceReplay(job, trace, load, stop or asyncio.Event(), on_token).run()


class _TraceReplay:
    def __init__(self, job: RunningJob, trace: Trace, load: Load, stop: asyncio.Event, on_token: OnToken) -> None:
        self._job, self._trace, self._load, self._stop, self._on_token = job, trace, load, stop, on_token
        self._loop = asyncio.get_running_loop()
        self._begin = self._loop.time()
        self._salt = secrets.randbits(64) if load.fresh else 0
        self._sent: list[ReplayedRequest] = []
        self._tokens = 0
        self._gone: DeploymentError | None = None

    async def run(self) -> Replayed:
        end_s = self._load.warmup_s + self._load.seconds
        sending = asyncio.create_task(self._saturate() if self._trace.saturating else self._arrive(end_s))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((sending, stopping), timeout=end_s, return_when=asyncio.FIRST_COMPLETED)
            now_s = min(self._now(), end_s)
            run_out = sending.done() and now_s < end_s
        finally:
            sending.cancel()
            stopping.cancel()
            outcome, _ = await asyncio.gather(sending, stopping, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome
        start_s, stopped = min(self._load.warmup_s, now_s), self._stop.is_set()
        return Replayed(tuple(self._sent), start_s, now_s, run_out, stopped, self._gone)

    def _now(self) -> float:
        return self._loop.time() - self._begin

    async def _saturate(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._load.in_flight):
                group.create_task(self._keep_sending())

    async def _keep_sending(self) -> None:
        requests = self._trace.requests
        while True:
            request = await self._send(requests[len(self._sent) % len(requests)], self._now())
            if request.failure is not None:
                await asyncio.sleep(PAUSE_S)

    async def _arrive(self, end_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            for request in self._trace.requests:
                if request.arrival_s > end_s:
                    return
                await asyncio.sleep(request.arrival_s - self._now())
                group.create_task(self._send(request, request.arrival_s))

    async def _send(self, wanted: TraceRequest, due_s: float) -> ReplayedRequest:
        request = ReplayedRequest(wanted, due_s)
        prompt = self._prompt(len(self._sent), wanted.input_tokens)
        self._sent.append(request)
        answer = self._job.stream(prompt, max_tokens=wanted.output_tokens, temperature=0.0, ignore_eos=True)
        try:
            async with aclosing(answer) as pieces:
                async for piece in pieces:
                    now_s = self._now()
                    request.token_s += [now_s] * len(piece.token_ids)
                    self._tokens += len(piece.token_ids)
                    self._on_token(now_s, self._tokens)
            request.ended_s = self._now()
            if len(request.token_s) != wanted.output_tokens:
                request.failure = f"an answer of {len(request.token_s)} tokens instead of {wanted.output_tokens}"
        except RequestError as error:
            request.failure = error.problem
        except DeploymentError as error:
            request.failure, self._gone = error.problem, error
            self._stop.set()
        return request

    def _prompt(self, index: int, tokens: int) -> list[int]:
        random, stretch = np.random.default_rng((self._load.seed, self._salt, index)), self._load.repeat or tokens
        drawn = random.integers(0, self._load.vocabulary, min(stretch, tokens))
        prompt: list[int] = np.resize(drawn, tokens).tolist()
        return prompt
