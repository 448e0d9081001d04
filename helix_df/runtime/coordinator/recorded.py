"""The coordinator's machines with a log of what they are told, and the same again from such a log.

Each event is taken down before it happens, so that the one after which a process died is in the log. What a prompt's
tokens are is in it, too. Owns what the events of a coordinator's log mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helix_df.errors import ProtocolError, RequestError
from helix_df.plan.plan import from_document, to_document
from helix_df.runtime.coordinator.actions import CoordinatorAction
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.event_log import EventLog, LoggedEvent, RecordedLog
from helix_df.runtime.wire.messages import Message, pack_values, unpack_values

ROLE = "coordinator"


class RecordedCoordinator:
    """The events of a ``CoordinatorState``, each taken down in ``events``.

    Args:
        state: the machines.
        clock: seconds of the clock that events are timed with.
        path: the log's file; kept in memory if None.
        enabled: whether there is a log at all.
    """

    def __init__(
        self, state: CoordinatorState, clock: Callable[[], float], path: Path | None = None, *, enabled: bool = True
    ) -> None:
        self.state = state
        self._clock = clock
        machine = {
            "plan": to_document(state.plan),
            "context": state.context,
            "page_tokens": state.page_tokens,
            "life": state.life,
        }
        self.events = EventLog(ROLE, machine, path, clock_s=clock(), enabled=enabled)

    def submit(self, asked: GenerationRequest) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(self._clock(), "submit", *_request_values(asked))
        return self.state.submit(asked)

    def cancel(self, request: str) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(self._clock(), "cancel", request)
        return self.state.cancel(request)

    def retry(self, now: float) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(now, "retry")
        return self.state.retry(now)

    def on_message(self, message: Message, now: float) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(now, message.TAG, *pack_values(message))
        return self.state.on_message(message, now)

    def on_malformed(self, request: str, now: float) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(now, "malformed", request)
        return self.state.on_malformed(request, now)

    def on_exit(self, name: str, words: str) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(self._clock(), "exit", name, words)
        return self.state.on_exit(name, words)

    def take_over(self, name: str, address: str, life: int) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(self._clock(), "take_over", name, address, life)
        return self.state.take_over(name, address, life)

    def tick(self, now: float) -> list[CoordinatorAction]:
        """See ``CoordinatorState``; one that finds nobody silent changes nothing and isn't taken down."""
        if not self.state.nodes_state.silent(now):
            return []
        self.events.append(now, "tick")
        return self.state.tick(now)

    def stop(self) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(self._clock(), "shutdown")
        return self.state.stop()


def fresh_state(log: RecordedLog) -> CoordinatorState:
    """The machines as they were before the first event of a log.

    Raises:
        PlanError: when the log's plan is none that this release reads.
    """
    machine = log.machine
    plan = from_document(machine["plan"])
    return CoordinatorState(plan, machine["context"], machine["page_tokens"], life=machine.get("life", 1))


def replay_events(
    log: RecordedLog, state: CoordinatorState
) -> Iterator[tuple[LoggedEvent, list[CoordinatorAction] | RequestError]]:
    """Each event with what the machines do about it; a request that is refused comes with its error."""
    for event in log.events:
        try:
            yield event, _happen(state, event)
        except RequestError as refused:
            yield event, refused


def _happen(state: CoordinatorState, event: LoggedEvent) -> list[CoordinatorAction]:
    match event.name, event.values:
        case "submit", values:
            return state.submit(_request(*values))
        case "cancel", (str(request),):
            return state.cancel(request)
        case "retry", ():
            return state.retry(event.at_s)
        case "malformed", (str(request),):
            return state.on_malformed(request, event.at_s)
        case "exit", (str(node), str(words)):
            return state.on_exit(node, words)
        case "take_over", (str(node), str(address), int(life)):
            return state.take_over(node, address, life)
        case "tick", ():
            return state.tick(event.at_s)
        case "shutdown", ():
            return state.stop()
        case tag, values:
            return state.on_message(unpack_values(tag, values), event.at_s)
    raise ProtocolError("an event that isn't one", found=str(event))


def _request_values(asked: GenerationRequest) -> tuple[Any, ...]:
    drawn = asked.sampling
    sampling = [drawn.temperature, drawn.top_p, drawn.top_k, drawn.seed, drawn.logprobs]
    return asked.id, asked.prompt, asked.max_tokens, sampling, sorted(asked.stop_ids)


def _request(
    name: str, prompt: list[int], max_tokens: int, sampling: list[Any], stop_ids: list[int]
) -> GenerationRequest:
    return GenerationRequest(name, tuple(prompt), max_tokens, SamplingParams(*sampling), frozenset(stop_ids))
