"""Which nodes a job should do without: those lost for long, until they are back for good. Pure.

Owns the patience and its hysteresis. Doesn't know plans, workers or who acts on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from helix_df.runtime.requests import NodeState

LONGEST_STAY_S = 3600.0
"""Most seconds that a node must have served again to be relied on, unless ``replan_after`` is longer."""

_AWAY: frozenset[NodeState] = frozenset({"waiting", "lost", "failed"})


@dataclass(slots=True)
class Losses:
    """What was seen of nodes; times are in seconds of one monotonic clock.

    A node that comes back must serve for as long as it had to be lost, and twice as long each time that it was lost
    again: so a node that comes and goes changes the plan ever more rarely, in the end twice in ``LONGEST_STAY_S``.
    """

    _served_s: dict[str, float] = field(default_factory=dict)
    _back_s: dict[str, float] = field(default_factory=dict)
    _times: Counter[str] = field(default_factory=Counter)
    _futile: set[frozenset[str]] = field(default_factory=set)

    def look(
        self, states: Mapping[str, NodeState], without: Collection[str], replan_after_s: float, now: float
    ) -> frozenset[str] | None:
        """The nodes that a plan should do without from now on; ``None`` if that is as it should be, or can't be.

        Args:
            states: of the nodes that have layers in the plan that runs, and of those that it does without.
            without: those.
            replan_after_s: how long a node may be lost.
            now: the time.
        """
        for node, state in states.items():
            if state == "ready":
                self._served_s[node] = now
                self._back_s.setdefault(node, now)
            else:
                self._served_s.setdefault(node, now)
                self._back_s.pop(node, None)
        present = frozenset(without)
        lost = {
            node
            for node, state in states.items()
            if node not in present and state in _AWAY and now - self._served_s[node] >= replan_after_s
        }
        back = {
            node
            for node in present
            if node in self._back_s and now - self._back_s[node] >= self.stay_s(node, replan_after_s)
        }
        wanted = (present - back) | lost
        if wanted == present:
            self._futile.clear()
            return None
        return None if wanted in self._futile else wanted

    def stay_s(self, node: str, replan_after_s: float) -> float:
        """Seconds that a node which is back must serve before it is relied on."""
        longest_s = max(LONGEST_STAY_S, replan_after_s)
        doubled = min(max(0, self._times[node] - 1), 32)
        return float(min(longest_s, replan_after_s * 2.0**doubled))

    def done(self, wanted: Collection[str], before: Collection[str]) -> None:
        """A plan without ``wanted`` has taken over from one without ``before``."""
        self._times.update(set(wanted) - set(before))

    def give_up(self, wanted: frozenset[str]) -> None:
        """No plan without these is any better; not to be asked again while it is so."""
        self._futile.add(wanted)
