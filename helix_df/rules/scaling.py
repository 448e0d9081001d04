"""When a job takes nodes that it had let go, and when it lets some go. Pure.

Used by the runtime and the simulator alike. Sizes are numbers of nodes that come and go, in the order in which they are
taken; what a size serves is an argument. Doesn't know plans, nodes or who acts on it.

Nodes are taken once more is asked for than those that there are serve with some headroom, or once requests wait too
long: as many as what is asked for needs. They are let go once fewer have been enough for long, and nobody has waited
too long meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from helix_df.spec.scale import Scale

LOOK_S = 0.5
"""Seconds between two looks."""


LOWER = 0.9
"""Share of what a size is to serve at most, for it to be enough when nodes are let go: else they would soon be taken
again."""


@dataclass(frozen=True, slots=True)
class Look:
    """A job at a moment.

    ``asked_tokens``: of prompts, and of the answers that requests are expected to get, of all that ever came.
    ``waited_s``: how long the request has waited that waits longest, 0 if none does.
    """

    now: float
    asked_tokens: float
    waited_s: float


@dataclass(frozen=True, slots=True)
class ScaleStep:
    """Another size, and why: what is asked for (tokens/s), what both sizes serve, and how long somebody has waited."""

    before: int
    after: int
    asked: float
    serves_before: float
    serves_after: float
    waited_s: float

    def __str__(self) -> str:
        more = self.after > self.before
        why = f"a request has waited {self.waited_s:.2g} s, and " if more and self.waited_s else ""
        return (
            f"{self.before} → {self.after} nodes that come and go: {why}{self.asked:.4g} tokens/s are asked for; "
            f"{self.after} serve {self.serves_after:.4g}, {self.before} serve {self.serves_before:.4g}"
        )


@dataclass(slots=True)
class Scaling:
    """What was seen of a job. Times are seconds of one clock."""

    scale: Scale
    _seen: deque[Look] = field(default_factory=deque)
    _slow_since: float | None = None
    _calm_since: float | None = None

    def look(self, look: Look, size: int, serves: Mapping[int, float]) -> ScaleStep | None:
        """The step to take now, if any.

        Args:
            look: the job now.
            size: nodes that come and go which have layers.
            serves: tokens/s by size, of those that can be had; ``size`` is one of them.
        """
        self._note(look)
        scale = self.scale
        asked = self._asked(look, scale.average_over)
        slow_s = 0.0 if self._slow_since is None else look.now - self._slow_since
        if asked > scale.headroom * serves[size] or (slow_s > 0 and slow_s >= scale.up_after):
            larger = [one for one in sorted(serves) if one > size and serves[one] > serves[size]]
            enough = [one for one in larger if scale.headroom * serves[one] >= asked]
            return self._step(look, size, (enough or larger[-1:])[:1], asked, serves)
        if self._calm_since is not None and look.now - self._calm_since >= scale.down_after:
            asked = max(asked, self._asked(look, scale.down_after))
            enough = [one for one in sorted(serves) if one < size and LOWER * scale.headroom * serves[one] >= asked]
            return self._step(look, size, enough[:1], asked, serves)
        return None

    def begin_anew(self) -> None:
        """Another size serves from now on: what was seen says nothing of it."""
        self._seen.clear()
        self._slow_since = self._calm_since = None

    def _note(self, look: Look) -> None:
        longest_s = max(self.scale.average_over, self.scale.down_after)
        self._seen.append(look)
        while len(self._seen) > 1 and look.now - self._seen[1].now >= longest_s:
            self._seen.popleft()
        if look.waited_s > self.scale.queue_time:
            self._slow_since = look.now if self._slow_since is None else self._slow_since
            self._calm_since = None
        else:
            self._slow_since = None
            self._calm_since = look.now if self._calm_since is None else self._calm_since

    def _asked(self, look: Look, over_s: float) -> float:
        """Tokens/s that were asked for over the last seconds; fewer count as if nothing had been asked before."""
        first = next(one for one in self._seen if look.now - one.now <= over_s)
        return (look.asked_tokens - first.asked_tokens) / over_s

    @staticmethod
    def _step(look: Look, size: int, to: list[int], asked: float, serves: Mapping[int, float]) -> ScaleStep | None:
        return ScaleStep(size, to[0], asked, serves[size], serves[to[0]], look.waited_s) if to else None
