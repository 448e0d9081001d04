"""A worker's machine with a log of what it is told, and the same again from such a log.

Tokens are in the log as they are. Of hidden states it holds the shape alone: no decision looks at their numbers, and
they would be a thousand times as much. Owns what the events of a worker's log mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helix_df.errors import ProtocolError
from helix_df.runtime.requests import DrawnToken, ScoredToken, TopLogprobs
from helix_df.runtime.wire.event_log import EventLog, LoggedEvent, RecordedLog
from helix_df.runtime.wire.framing import pack_values, unpack_values
from helix_df.runtime.wire.messages import Forward, Release
from helix_df.runtime.wire.packing import dtype_of, name_of
from helix_df.runtime.worker.state import WorkerAction, WorkerState
from helix_df.runtime.worker.steps import Step, StepResult

ROLE = "worker"


class RecordedWorker:
    """The events of a ``WorkerState``, each taken down in ``events``; arguments as for ``RecordedCoordinator``."""

    def __init__(
        self, state: WorkerState, clock: Callable[[], float], path: Path | None = None, *, enabled: bool = True
    ) -> None:
        self.state = state
        self._clock = clock
        machine = {
            "node": state.node,
            "coordinator": state.coordinator,
            "num_layers": state.num_layers,
            "max_batch": state.max_batch,
            "max_prefill_tokens": state.max_prefill_tokens,
            "codecs": dict(state.codecs),
            "apart": sorted(state.apart),
            "kv_window": state.kv_window,
            "page_tokens": state.page_tokens,
        }
        self.events = EventLog(ROLE, machine, path, clock_s=clock(), enabled=enabled)

    def on_forward(self, message: Forward) -> list[WorkerAction]:
        """See ``WorkerState``."""
        self.events.append(self._clock(), message.TAG, *_forward_values(message))
        return self.state.on_forward(message)

    def on_release(self, message: Release) -> list[WorkerAction]:
        """See ``WorkerState``."""
        self.events.append(self._clock(), message.TAG, *pack_values(message))
        return self.state.on_release(message)

    def on_malformed(self, request: str) -> list[WorkerAction]:
        """See ``WorkerState``."""
        self.events.append(self._clock(), "malformed", request)
        return self.state.on_malformed(request)

    def forget_all(self) -> list[WorkerAction]:
        """See ``WorkerState``."""
        self.events.append(self._clock(), "forget_all")
        return self.state.forget_all()

    def next_batch(self) -> tuple[Step, ...]:
        """See ``WorkerState``; taken down when there is a batch, since else nothing changes."""
        steps = self.state.next_batch()
        if steps:
            self.events.append(self._clock(), "batch", *[step.request for step in steps])
        return steps

    def on_results(self, steps: Sequence[Step], results: Sequence[StepResult]) -> list[WorkerAction]:
        """See ``WorkerState``."""
        self.events.append(self._clock(), "results", *map(_result_values, results))
        return self.state.on_results(steps, results)


def fresh_state(log: RecordedLog) -> WorkerState:
    """The machine as it was before the first event of a log."""
    return WorkerState(**log.machine)


def replay_events(log: RecordedLog, state: WorkerState) -> Iterator[tuple[LoggedEvent, list[WorkerAction]]]:
    """Each event with what the machine does about it; hidden states are all zeros.

    Raises:
        ProtocolError: when the machine takes another batch than it did.
    """
    steps: tuple[Step, ...] = ()
    for event in log.events:
        match event.name, event.values:
            case "forward", values:
                yield event, state.on_forward(_forward(values))
            case "release", values:
                release = unpack_values("release", values)
                assert isinstance(release, Release), "a release was read as something else"
                yield event, state.on_release(release)
            case "malformed", (str(request),):
                yield event, state.on_malformed(request)
            case "forget_all", ():
                yield event, state.forget_all()
            case "batch", requests:
                steps = state.next_batch()
                if tuple(step.request for step in steps) != requests:
                    raise ProtocolError("a replay took another batch", where=f"event {event.number}", found=str(steps))
                yield event, []
            case "results", values:
                yield event, state.on_results(steps, [_result(*one) for one in values])
            case _:
                raise ProtocolError("an event that isn't a worker's", found=event.name)


def _forward_values(message: Forward) -> tuple[Any, ...]:
    request, position, wants_token, route, shape, *rest = pack_values(message)
    tensor = message.tensor
    return request, position, wants_token, route, [shape[0], tensor.tolist()] if tensor.ndim == 1 else shape, *rest


def _forward(values: Sequence[Any]) -> Forward:
    request, position, wants_token, route, tensor, *rest = values
    empty = unpack_values("forward", (request, position, wants_token, route, None, *rest))
    assert isinstance(empty, Forward), "a forward was read as something else"
    return replace(empty, tensor=_tensor(tensor))


def _tensor(value: Sequence[Any]) -> np.ndarray:
    dtype, tokens, *shape = value
    if tokens is not None:
        return np.array(tokens, dtype=dtype_of(dtype))
    return np.broadcast_to(np.zeros((), dtype_of(dtype)), tuple(shape))


def _result_values(result: StepResult) -> tuple[Any, ...]:
    hidden = None if result.hidden is None else [name_of(result.hidden.dtype), None, *result.hidden.shape]
    logprobs = _packed(result.logprobs)
    scores = [[one.logprob, one.rank, one.top] for one in result.scores]
    known = result.request, result.kv_full, result.token, hidden, logprobs, result.finite, result.stuck, scores
    pooled = None if result.pooled is None else [name_of(result.pooled.dtype), None, *result.pooled.shape]
    return *known, pooled, [[one.token, _packed(one.logprobs)] for one in result.more], result.computed


def _packed(logprobs: TopLogprobs | None) -> list[Any] | None:
    return None if logprobs is None else [logprobs.chosen, logprobs.top]


def _read(logprobs: Sequence[Any] | None) -> TopLogprobs | None:
    return None if logprobs is None else TopLogprobs(logprobs[0], tuple((token, value) for token, value in logprobs[1]))


def _result(
    request: str,
    kv_full: bool,
    token: int | None,
    hidden: list[Any] | None,
    logprobs: list[Any] | None,
    finite: bool = True,  # older logs don't say
    stuck: bool = False,
    scores: Sequence[Any] = (),
    pooled: list[Any] | None = None,
    more: Sequence[Any] = (),
    computed: int | None = None,
) -> StepResult:
    drawn = tuple(DrawnToken(token, _read(top)) for token, top in more)
    read = tuple(ScoredToken(logprob, rank, tuple(map(tuple, best))) for logprob, rank, best in scores)
    states, sums = (None if packed is None else _tensor(packed) for packed in (hidden, pooled))
    return StepResult(request, states, token, _read(logprobs), kv_full, finite, stuck, read, sums, drawn, computed)
