"""State machines as tables: which event is legal in which state, and what follows.

Owns the lookup, the error of an illegal event and the drawing. Doesn't know what any state or event means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from helix_df.errors import ProtocolError

State = TypeVar("State", bound=str)
Event = TypeVar("Event", bound=str)


class IllegalEvent(ProtocolError):
    """An event that a machine has no transition for. Nothing has changed.

    ``role`` is whose machine, ``subject`` which one of them.
    """

    def __init__(self, role: str, subject: str, state: str, event: str, legal: str = "") -> None:
        super().__init__(
            f"illegal event: {role} {subject} is {state}", where=role, found=event, expected=legal or "nothing"
        )
        self.role, self.subject, self.state, self.event = role, subject, state, event


@dataclass(frozen=True, slots=True)
class TransitionTable(Generic[State, Event]):
    """The machine of one role: ``rows`` say for each state what each legal event makes of it.

    What comes late, such as a message that was under way when its request ended, is legal and in the table, too. What
    is not in the table is illegal.
    """

    role: str
    start: State
    rows: Mapping[State, Mapping[Event, State]]

    def after(self, state: State, event: Event, subject: str) -> State:
        """The state that follows.

        Raises:
            IllegalEvent: when there is none.
        """
        row = self.rows[state]
        if event not in row:
            raise IllegalEvent(self.role, subject, state, event, " or ".join(row))
        return row[event]

    def mermaid(self) -> str:
        """The machine as a Mermaid state diagram, one arrow for all events between the same two states."""
        return "\n".join(["stateDiagram-v2", f"    [*] --> {self.start}", *self._arrows()])

    def _arrows(self) -> Iterator[str]:
        for state, row in self.rows.items():
            for target in dict.fromkeys(row.values()):
                events = ", ".join(event for event, to in row.items() if to == target)
                yield f"    {state} --> {target}: {events}"


@dataclass(slots=True)
class IllegalEvents:
    """Counts illegal events by role, state and event."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def note(self, error: IllegalEvent) -> IllegalEventSeen:
        """Count one; the action tells how many there have been of its kind."""
        kind = (error.role, error.state, error.event)
        self.counts[kind] += 1
        return IllegalEventSeen(error, self.counts[kind])

    @property
    def total(self) -> int:
        """How many there have been."""
        return self.counts.total()


@dataclass(frozen=True, slots=True)
class IllegalEventSeen:
    """An action of either machine: say in the log that an event was illegal, ``times`` of its kind by now."""

    error: IllegalEvent
    times: int

    @property
    def is_news(self) -> bool:
        """Whether it is worth a line: the 1st, 2nd, 4th, 8th … of its kind, so that no peer can fill the log."""
        return self.times & (self.times - 1) == 0
