"""What became of traced requests, as spans: waiting, attempts, and in these the hops and links of prefill and decode.

Pure: times are arguments, in seconds of one monotonic clock. What workers tell comes once an attempt is over; a request
is told as soon as all have, or after ``PATIENCE_S``. Decode is one span for each hop and link, as long as all of its
steps there together, whose place in time says nothing: a span a token would be a thousand for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from helix_df.graph.problem import COORDINATOR
from helix_df.rules.routing import Pipeline
from helix_df.runtime.requests import GenerationRequest, TokenEvent
from helix_df.runtime.tracing.spans import Attribute, HopSum, TimedSpan, in_a_row, shares
from helix_df.runtime.wire.messages import Forward, HopTimes

PATIENCE_S = 2.0
"""For what workers have to tell of a request that is over."""

MOST_TRACED = 4096
"""Requests at a time; those beyond are served untraced."""

DONE = "last_token"
"""By which an attempt ends that has answered its request."""

CANCELLED = "cancel"
"""By which one ends that nobody wants any more."""

ClockAhead = Callable[[str], float | None]
"""How far the coordinator's clock is ahead of a node's (s), if that is known."""


@dataclass(slots=True)
class _Rounds:
    """Steps that were sent and came home: how many, and both times summed up, counted from the attempt's start."""

    steps: int = 0
    sent_s: float = 0.0
    came_s: float = 0.0

    def add(self, sent_s: float, came_s: float) -> None:
        self.steps += 1
        self.sent_s += sent_s
        self.came_s += max(sent_s, came_s)

    @property
    def taken_s(self) -> float:
        return self.came_s - self.sent_s


@dataclass(slots=True)
class _TracedAttempt:
    """One attempt, from its first step on: the step that is under way left at ``sent_s``."""

    key: str
    hops: Pipeline
    started_s: float
    sent_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    over_s: float | None = None
    why: str = ""
    prefill: _Rounds = field(default_factory=_Rounds)
    decode: _Rounds = field(default_factory=_Rounds)
    told: dict[str, HopTimes] = field(default_factory=dict)

    def came(self, at_s: float) -> None:
        if self.sent_s is None:
            return
        rounds = self.prefill if self.first_s is None else self.decode
        rounds.add(self.sent_s - self.started_s, at_s - self.started_s)
        self.last_s, self.sent_s = max(at_s, self.sent_s), None
        if self.first_s is None:
            self.first_s = self.last_s

    @property
    def is_complete(self) -> bool:
        return self.over_s is not None and all(hop.node in self.told for hop in self.hops)


@dataclass(slots=True)
class _TracedRequest:
    """A request, and what was delivered of it."""

    asked: GenerationRequest
    asked_s: float
    attempts: list[_TracedAttempt] = field(default_factory=list)
    tokens: int = 0
    cached: int = 0
    first_s: float | None = None
    over_s: float | None = None
    finish: str = ""
    error: str | None = None

    @property
    def stop_s(self) -> float:
        """When nothing of it runs any more: a step may still come home once nobody wants its token."""
        ends = (one.over_s for one in self.attempts)
        return max(self.asked_s, self.over_s or 0.0, *(end for end in ends if end is not None))


@dataclass(slots=True)
class RequestTraces:
    """The traced requests of a coordinator that serves ``model``.

    ``tell`` is handed the span of each in the end, and the ``traceparent`` of the one that it is a part of.
    """

    model: str
    tell: Callable[[str, TimedSpan], None]
    clock_ahead: ClockAhead
    _open: dict[str, _TracedRequest] = field(default_factory=dict)

    # ------------------------------------------------------------------ what happens

    def asked(self, request: GenerationRequest, at_s: float) -> None:
        """A request has come, perhaps one to trace."""
        if request.traceparent is not None and len(self._open) < MOST_TRACED:
            self._open[request.id] = _TracedRequest(request, at_s)

    def sent(self, step: Forward, at_s: float) -> None:
        """A step leaves, perhaps the first of an attempt."""
        traced = self._open.get(step.request.rpartition("/")[0])
        if traced is None:
            return
        if step.route is not None:
            traced.attempts.append(_TracedAttempt(step.request, step.route.hops, at_s))
        attempt = _of(traced, step.request)
        if attempt is not None and step.wants_token:
            attempt.sent_s = at_s

    def came(self, key: str, at_s: float) -> None:
        """A token of an attempt has come home."""
        traced = self._open.get(key.rpartition("/")[0])
        attempt = None if traced is None else _of(traced, key)
        if attempt is not None:
            attempt.came(at_s)

    def attempt_over(self, key: str, why: str, at_s: float) -> None:
        """An attempt is over."""
        traced = self._open.get(key.rpartition("/")[0])
        attempt = None if traced is None else _of(traced, key)
        if attempt is not None:
            attempt.over_s, attempt.why = at_s, why

    def delivered(self, request: str, event: TokenEvent, at_s: float) -> None:
        """Whoever asked gets a token, or the end."""
        traced = self._open.get(request)
        if traced is None:
            return
        if traced.first_s is None:
            traced.first_s = at_s
        traced.cached += event.cached_tokens
        traced.tokens += event.token is not None
        if event.finish is not None:
            self.over(request, at_s, finish=event.finish)

    def over(self, request: str, at_s: float, *, finish: str = "", error: str | None = None) -> None:
        """A request is over, with a reason to finish or an error; with neither, nobody wants it any more."""
        traced = self._open.get(request)
        if traced is not None and traced.over_s is None:
            traced.over_s, traced.finish, traced.error = at_s, finish, error

    def reported(self, times: HopTimes) -> None:
        """A worker tells of an attempt; it is believed once, and only of one through it."""
        request = times.attempt.rpartition("/")[0]
        traced = self._open.get(request)
        attempt = None if traced is None else _of(traced, times.attempt)
        if traced is None or attempt is None or all(hop.node != times.node for hop in attempt.hops):
            return
        attempt.told.setdefault(times.node, times)
        if traced.over_s is not None and all(one.is_complete for one in traced.attempts):
            self._finish(request)

    def flush(self, now: float, patience_s: float = PATIENCE_S) -> None:
        """Tell of those that are over and wait for nothing any more."""
        for request, traced in list(self._open.items()):
            if traced.over_s is None:
                continue
            waits = not all(one.is_complete for one in traced.attempts)
            if not waits or now - traced.over_s >= patience_s:
                self._finish(request)

    def close(self, now: float) -> None:
        """Tell of all that there are."""
        for request in self._open:
            self.over(request, now, error="abort")
        self.flush(now, patience_s=0.0)

    # ------------------------------------------------------------------ in the end

    def _finish(self, request: str) -> None:
        traced = self._open.pop(request)
        assert traced.asked.traceparent is not None, f"{request} isn't traced"
        self.tell(traced.asked.traceparent, self._span(traced))

    def _span(self, traced: _TracedRequest) -> TimedSpan:
        stop_s = traced.stop_s
        parts = tuple(self._parts(traced, stop_s))
        return TimedSpan(
            f"{_operation(traced.asked)} {self.model}",
            traced.asked_s,
            stop_s,
            self._attributes(traced, parts),
            parts,
            traced.error,
        )

    def _parts(self, traced: _TracedRequest, stop_s: float) -> Iterator[TimedSpan]:
        """Waiting and attempts in turn, without a gap up to the last attempt's end."""
        at_s, why = traced.asked_s, ""
        for number, attempt in enumerate(traced.attempts, start=1):
            after: dict[str, Attribute] = {"helix_df.after": why} if why else {}
            yield TimedSpan("queue", at_s, max(at_s, attempt.started_s), after)
            at_s = stop_s if attempt.over_s is None else max(attempt.started_s, attempt.over_s)
            why = attempt.why
            yield self._attempt(attempt, number, at_s)
        if not traced.attempts or traced.attempts[-1].why not in (DONE, CANCELLED):
            yield TimedSpan("queue", at_s, stop_s, {"helix_df.after": why} if why else {})

    def _attempt(self, attempt: _TracedAttempt, number: int, stop_s: float) -> TimedSpan:
        attributes: dict[str, Attribute] = {
            "helix_df.attempt": number,
            "helix_df.attempt.id": attempt.key,
            "helix_df.attempt.end": attempt.why,
            "helix_df.route": [f"{hop.node} {hop.layers}" for hop in attempt.hops],
        }
        error = None if attempt.why in (DONE, CANCELLED) else attempt.why or "abort"
        phases = tuple(self._phases(attempt))
        return TimedSpan(f"attempt {number}", attempt.started_s, stop_s, attributes, phases, error)

    def _phases(self, attempt: _TracedAttempt) -> Iterator[TimedSpan]:
        if attempt.first_s is None or attempt.last_s is None:
            return
        comparable = self._knows_clocks(attempt)
        hops = self._hop_sums(attempt, lambda told: told.prefill)
        parts = in_a_row(list(_shared(attempt, attempt.prefill, hops, comparable)), attempt.started_s)
        yield TimedSpan("prefill", attempt.started_s, attempt.first_s, _steps(attempt.prefill), parts)
        if not attempt.decode.steps:
            return
        own_s = max(0.0, attempt.last_s - attempt.first_s - attempt.decode.taken_s)
        hops = self._hop_sums(attempt, lambda told: told.decode)
        shared = _shared(attempt, attempt.decode, hops, comparable)
        decode = in_a_row([(COORDINATOR, own_s, _of_node(COORDINATOR)), *shared], attempt.first_s)
        yield TimedSpan("decode", attempt.first_s, attempt.last_s, _steps(attempt.decode), decode)

    def _hop_sums(self, attempt: _TracedAttempt, phase: Callable[[HopTimes], HopSum]) -> dict[str, HopSum]:
        """What nodes tell of a phase, on the coordinator's clock, counted from the attempt's start."""
        return {
            node: phase(told).since(told.origin_s + (self.clock_ahead(node) or 0.0) - attempt.started_s)
            for node, told in attempt.told.items()
        }

    def _knows_clocks(self, attempt: _TracedAttempt) -> bool:
        return all(self.clock_ahead(node) is not None for node in attempt.told)

    def _attributes(self, traced: _TracedRequest, parts: tuple[TimedSpan, ...]) -> Mapping[str, Attribute]:
        asked, sampling = traced.asked, traced.asked.sampling
        phases = [phase for part in parts for phase in part.children]
        found: dict[str, Attribute] = {
            "gen_ai.operation.name": _operation(asked),
            "gen_ai.provider.name": "helix_df",
            "gen_ai.request.model": self.model,
            "gen_ai.response.model": self.model,
            "gen_ai.response.id": asked.id,
            "gen_ai.request.max_tokens": asked.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.usage.input_tokens": len(asked.prompt),
            "gen_ai.usage.output_tokens": traced.tokens,
            "gen_ai.usage.cache_read.input_tokens": traced.cached,
            "gen_ai.latency.e2e": traced.stop_s - traced.asked_s,
            "gen_ai.latency.time_in_queue": sum(part.duration_s for part in parts if part.name == "queue"),
            "gen_ai.latency.time_in_model_prefill": sum(one.duration_s for one in phases if one.name == "prefill"),
            "gen_ai.latency.time_in_model_decode": sum(one.duration_s for one in phases if one.name == "decode"),
            "helix_df.attempts": len(traced.attempts),
        }
        if traced.finish:
            found["gen_ai.response.finish_reasons"] = [traced.finish]
        elif traced.error is None:
            found["helix_df.cancelled"] = True
        if traced.first_s is not None:
            found["gen_ai.latency.time_to_first_token"] = traced.first_s - traced.asked_s
        return found


def _of(traced: _TracedRequest, key: str) -> _TracedAttempt | None:
    return next((one for one in reversed(traced.attempts) if one.key == key), None)


def _operation(asked: GenerationRequest) -> str:
    return "text_completion" if asked.sampling.pooling is None else "embeddings"


def _steps(rounds: _Rounds) -> dict[str, Attribute]:
    return {"helix_df.steps": rounds.steps}


def _of_node(node: str) -> dict[str, Attribute]:
    return {"helix_df.node": node}


def _shared(
    attempt: _TracedAttempt, rounds: _Rounds, told: Mapping[str, HopSum], comparable: bool
) -> Iterator[tuple[str, float, Mapping[str, Attribute]]]:
    """Links and hops in the order of the route, each with what it took of the rounds. Where a hop has told nothing, or
    of other steps, it isn't known what links took."""
    known = [hop for hop in attempt.hops if hop.node in told]
    spent = shares(rounds.sent_s, rounds.came_s, [told[hop.node] for hop in known], comparable=comparable)
    is_whole = len(known) == len(attempt.hops) and all(told[hop.node].steps == rounds.steps for hop in known)
    ends = [COORDINATOR, *(hop.node for hop in known), COORDINATOR]
    for index, link_s in enumerate(spent.links):
        tail, head = ends[index], ends[index + 1]
        if is_whole:
            yield f"link {tail} → {head}", link_s, {"helix_df.link.tail": tail, "helix_df.link.head": head}
        if index < len(known):
            waited_s, computed_s = spent.hops[index]
            yield (
                f"hop {head}",
                waited_s + computed_s,
                {
                    **_of_node(head),
                    "helix_df.layers": str(known[index].layers),
                    "helix_df.steps": told[head].steps,
                    "helix_df.hop.queue_s": waited_s,
                    "helix_df.hop.compute_s": computed_s,
                },
            )
