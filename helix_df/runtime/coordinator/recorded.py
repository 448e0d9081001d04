"""The coordinator's machines with a log of what they are told, and the same again from such a log.

Each event is taken down before it happens, so that the one after which a process died is in the log. What a prompt's
tokens are is in it, too. Owns what the events of a coordinator's log mean.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from helix_df.errors import DeploymentError, ProtocolError, RequestError
from helix_df.plan.plan import Plan, from_document, to_document
from helix_df.plan.takeover import read_spares, spares_document
from helix_df.runtime.coordinator.actions import CoordinatorAction
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import plain_params, read_params
from helix_df.runtime.wire.event_log import EventLog, LoggedEvent, RecordedLog
from helix_df.runtime.wire.framing import pack_values, unpack_values
from helix_df.runtime.wire.messages import Message

ROLE = "coordinator"

Refusal = RequestError | DeploymentError
"""Of what somebody asked for."""

_REFUSALS = (RequestError, DeploymentError)


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
            "names": dict(state.names),
            "spares": spares_document(state.spares),
        }
        self.events = EventLog(ROLE, machine, path, clock_s=clock(), enabled=enabled)

    def submit(self, asked: GenerationRequest) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        now = self._clock()
        self.events.append(now, "submit", *_request_values(asked))
        return self.state.submit(asked, now)

    def cancel(self, request: str) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(self._clock(), "cancel", request)
        return self.state.cancel(request)

    def on_due(self, now: float) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(now, "due")
        return self.state.on_due(now)

    def on_message(self, message: Message, now: float) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(now, message.TAG, *pack_values(message))
        return self.state.on_message(message, now)

    def on_malformed(self, request: str, now: float) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(now, "malformed", request)
        return self.state.on_malformed(request, now)

    def on_lost_step(self, request: str, now: float) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(now, "lost_step", request)
        return self.state.on_lost_step(request, now)

    def on_exit(self, name: str, words: str) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        now = self._clock()
        self.events.append(now, "exit", name, words)
        return self.state.on_exit(name, words, now)

    def begin_change(self, plan: Plan, without: Collection[str] = ()) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        now = self._clock()
        self.events.append(now, "change", to_document(plan), sorted(without))
        return self.state.begin_change(plan, now, without)

    def give_up_change(self, why: str) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(self._clock(), "give_up_change", why)
        return self.state.give_up_change(why)

    def wind_down(self) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        self.events.append(self._clock(), "wind_down")
        return self.state.wind_down()

    def drain(self, node: str, drained: bool) -> list[CoordinatorAction]:
        """See ``CoordinatorState``."""
        now = self._clock()
        self.events.append(now, "drain", node, drained)
        return self.state.drain(node, drained, now)

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
    life, names, spares = machine.get("life", 1), machine.get("names", {}), read_spares(machine.get("spares", {}))
    return CoordinatorState(plan, machine["context"], machine["page_tokens"], life=life, names=names, spares=spares)


def replay_events(
    log: RecordedLog, state: CoordinatorState
) -> Iterator[tuple[LoggedEvent, list[CoordinatorAction] | Refusal]]:
    """Each event with what the machines do about it; a request or a change that is refused comes with its error."""
    for event in log.events:
        try:
            yield event, _happen(state, event)
        except _REFUSALS as refused:
            yield event, refused


def _happen(state: CoordinatorState, event: LoggedEvent) -> list[CoordinatorAction]:
    match event.name, event.values:
        case "submit", values:
            return state.submit(_request(*values), event.at_s)
        case "cancel", (str(request),):
            return state.cancel(request)
        case "due", ():
            return state.on_due(event.at_s)
        case "malformed", (str(request),):
            return state.on_malformed(request, event.at_s)
        case "lost_step", (str(request),):
            return state.on_lost_step(request, event.at_s)
        case "exit", (str(node), str(words)):
            return state.on_exit(node, words, event.at_s)
        case "take_over", (str(node), str(address), int(life)):
            return state.take_over(node, address, life)
        case "change", (document, list(without)):
            return state.begin_change(from_document(document), event.at_s, without)
        case "give_up_change", (str(why),):
            return state.give_up_change(why)
        case "wind_down", ():
            return state.wind_down()
        case "drain", (str(node), bool(drained)):
            return state.drain(node, drained, event.at_s)
        case "tick", ():
            return state.tick(event.at_s)
        case "shutdown", ():
            return state.stop()
        case tag, values:
            return state.on_message(unpack_values(tag, values), event.at_s)
    raise ProtocolError("an event that isn't one", found=str(event))


def _request_values(asked: GenerationRequest) -> tuple[Any, ...]:
    sampling = plain_params(asked.sampling)
    stop_ids = sorted(asked.stop_ids)
    told = asked.timeout_s, asked.so_far, asked.owner, asked.tells_stop, asked.traceparent
    return asked.id, asked.prompt, asked.max_tokens, sampling, stop_ids, *told


def _request(
    name: str,
    prompt: list[int],
    max_tokens: int,
    sampling: dict[str, Any],
    stop_ids: list[int],
    timeout_s: float | None = None,
    so_far: Sequence[int] = (),
    owner: str | None = None,
    tells_stop: bool = False,
    traceparent: str | None = None,
) -> GenerationRequest:
    params, begun = read_params(sampling), tuple(so_far)
    told = timeout_s, begun, owner, tells_stop, traceparent
    return GenerationRequest(name, tuple(prompt), max_tokens, params, frozenset(stop_ids), *told)
