"""How far the coordinator's clock is ahead of a worker's, by the heartbeats that go both ways."""

from __future__ import annotations

from dataclasses import dataclass, field

from helix_df.runtime.tracing.clocks import ClockLead, ahead_s
from helix_df.runtime.wire.messages import Heartbeat


@dataclass(slots=True)
class NodeClock:
    """The clock of the worker whose greeting had the number ``life``: another process may have another one."""

    life: int
    lead: ClockLead = field(default_factory=ClockLead)
    theirs_s: float | None = None

    def note(self, heartbeat: Heartbeat, arrived_s: float) -> None:
        """A heartbeat has arrived, by the coordinator's clock."""
        self.lead.note(heartbeat.clock_s, arrived_s)
        self.theirs_s = heartbeat.lead_s

    @property
    def ahead_s(self) -> float | None:
        """See ``tracing.clocks.ahead_s``."""
        return ahead_s(self.lead.least_s, self.theirs_s)
