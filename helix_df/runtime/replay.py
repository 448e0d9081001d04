"""A run once more from its log of events: the same machine, the same events, the same actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helix_df.errors import ProtocolError
from helix_df.runtime.coordinator import recorded as coordinator
from helix_df.runtime.coordinator.actions import CoordinatorAction
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.wire.event_log import LoggedEvent, RecordedLog, read_events
from helix_df.runtime.worker import recorded as worker
from helix_df.runtime.worker.state import WorkerAction, WorkerState


@dataclass(frozen=True, slots=True)
class Replay:
    """A machine after all events of a log, and what it did about each; a refused request's event has the refusal."""

    state: CoordinatorState | WorkerState
    steps: tuple[tuple[LoggedEvent, Sequence[CoordinatorAction | WorkerAction] | coordinator.Refusal], ...]


def replay(log: RecordedLog | Path | str) -> Replay:
    """Feed a fresh machine with the events of a log (or of its file).

    The machine checks its sums after each event. Of a worker's hidden states a log holds no numbers, so in its actions
    they are all zeros.

    Raises:
        ProtocolError: when it isn't a log, its beginning was dropped, or its role is unknown.
        AssertionError: when the machine's sums go wrong.
    """
    found = log if isinstance(log, RecordedLog) else read_events(Path(log))
    if not found.is_whole:
        raise ProtocolError(
            "the log's beginning is gone, so it can't be replayed",
            found=f"it begins at event {found.events[0].number}",
            hint="logs are bounded; `helix-df logs --events` shows what is left",
        )
    if found.role == coordinator.ROLE:
        return _coordinator(found)
    if found.role == worker.ROLE:
        return _worker(found)
    raise ProtocolError("a log of an unknown role", found=found.role, expected=f"{coordinator.ROLE} or {worker.ROLE}")


def _coordinator(log: RecordedLog) -> Replay:
    state = coordinator.fresh_state(log)
    steps = []
    for step in coordinator.replay_events(log, state):
        state.validate()
        steps.append(step)
    return Replay(state, tuple(steps))


def _worker(log: RecordedLog) -> Replay:
    state = worker.fresh_state(log)
    steps = []
    for step in worker.replay_events(log, state):
        state.validate()
        steps.append(step)
    return Replay(state, tuple(steps))
