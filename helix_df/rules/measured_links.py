"""How fast links are, by what crosses them anyway: when bundles left, by their senders' clocks, and arrived. Pure.

A link is a serial resource, as emulated links and the simulator see it: a bundle begins to cross once the one before it
is over, and arrives one latency after its last byte has left. The quickest bundle of a while waited for nobody, so who
arrives later took longer to cross, or waited behind others. How far two clocks are apart cancels out of that, so a rate
needs none; a latency does. Doesn't know plans, sockets or who acts on it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from helix_df.graph.problem import Link

WINDOW_S = 30.0
"""Over which bundles are looked at, by who receives them and by who compares."""

LARGE = 4
"""A bundle says something of a rate if it has so many times the bytes of the quickest one: that may have crossed while
the one before was about to end, which makes the rate less by a third at most."""

LEAST_BYTES = 1024
"""And so many more than that."""

LEAST_BUNDLES = 5
"""So many of them, for a rate to be known."""

NOISE_S = 0.002
"""By which receivers notice bundles late, now and then. A link isn't called slow for less a bundle."""

LATENCY_NOISE_S = 0.005
"""The same of a latency, which has the error of two clocks in it."""

MOST_BUSY = 0.5
"""Of the time. On a busier link even the quickest bundle may have waited for others, so its latency isn't known."""

CLOCK_JUMP_S = 60.0
"""By which a sender's clock is another one: it was started again on another host."""

TOLERANCE = 1.5
"""By which factor a link may be worse than planned, or better than it was found to be, before that counts."""

Ends = tuple[str, str]
"""Tail and head of a link."""


@dataclass(frozen=True, slots=True)
class LinkSeen:
    """What the head of a link has seen of it.

    ``lead_s`` is how far its clock was ahead of the tail's when the quickest bundle of the last while arrived, of
    ``lead_bytes``. So far ``bundles`` were large enough to say something of the rate: ``large_bytes`` of them, beyond
    those of the quickest one, took ``crossing_s``.
    """

    tail: str
    lead_s: float
    lead_bytes: int
    bundles: int = 0
    large_bytes: int = 0
    crossing_s: float = 0.0


_NONE = (math.inf, 0)
"""Lead and bytes of no bundle."""


@dataclass(slots=True)
class LinkMeter:
    """The bundles of one sender, as one receiver sees them; times are seconds of either's clock."""

    _since_s: float = -math.inf
    _least: tuple[float, int] = _NONE
    _former: tuple[float, int] = _NONE
    _last_lead_s: float = 0.0
    _last_s: float = -math.inf
    _saw_last: bool = True
    _bundles: int = 0
    _bytes: int = 0
    _crossing_s: float = 0.0

    def note(self, size: int, sent_s: float, noticed_s: float, *, at_once: bool) -> None:
        """A bundle of ``size`` bytes was noticed: ``at_once``, or when its receiver had done something else."""
        if abs(noticed_s - sent_s - self._last_lead_s) > CLOCK_JUMP_S:
            self._begin_anew()
        self._last_lead_s = noticed_s - sent_s
        if noticed_s - self._since_s >= WINDOW_S:
            self._former = self._least if noticed_s - self._since_s < 2 * WINDOW_S else _NONE
            self._since_s, self._least = noticed_s, _NONE
        if at_once:
            self._least = min(self._least, (noticed_s - sent_s, size))
            self._cross(size, sent_s, noticed_s)
        self._last_s, self._saw_last = noticed_s, at_once

    def seen(self, tail: str) -> LinkSeen | None:
        """All of it; ``None`` before the first bundle that was noticed at once."""
        lead_s, size = min(self._least, self._former)
        if math.isinf(lead_s):
            return None
        return LinkSeen(tail, lead_s, size, self._bundles, self._bytes, self._crossing_s)

    def _begin_anew(self) -> None:
        self._since_s, self._least, self._former = -math.inf, _NONE, _NONE
        self._last_s, self._saw_last = -math.inf, True
        self._bundles, self._bytes, self._crossing_s = 0, 0, 0.0

    def _cross(self, size: int, sent_s: float, arrived_s: float) -> None:
        lead_s, least = min(self._least, self._former)
        could_begin_s = sent_s + lead_s
        waited = self._last_s > could_begin_s
        if size < max(LARGE * least, least + LEAST_BYTES) or (waited and not self._saw_last):
            return
        self._bundles += 1
        # Behind another it crosses whole; else the quickest has shown how long the first of its bytes take.
        self._bytes += size if waited else size - least
        self._crossing_s += arrived_s - max(could_begin_s, self._last_s)


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """What a link does. Its rate, and the ``bundle_bytes`` of large ones on average, are known if there were enough of
    them; its latency if clocks are, and it wasn't too busy."""

    bytes_per_s: float | None = None
    bundle_bytes: float = 0.0
    latency_s: float | None = None


@dataclass(slots=True)
class MeasuredLinks:
    """What was seen of links; times are seconds of one clock."""

    _seen: dict[Ends, deque[tuple[float, LinkSeen]]] = field(default_factory=dict)

    def look(self, links: Mapping[Ends, LinkSeen], apart_s: Mapping[Ends, float], now: float) -> dict[Ends, LinkSpeed]:
        """What each link did over the last ``WINDOW_S``, as far as that can be told.

        Args:
            links: what their heads have seen so far.
            apart_s: how far the head's clock is ahead of the tail's, where that is known.
            now: the time.
        """
        for hop in self._seen.keys() - links.keys():
            del self._seen[hop]
        found = {}
        for hop, link in links.items():
            seen = self._seen.setdefault(hop, deque())
            if seen and link.bundles < seen[-1][1].bundles:
                seen.clear()  # another worker
            seen.append((now, link))
            while len(seen) > 1 and now - seen[1][0] >= WINDOW_S:
                seen.popleft()
            if now - seen[0][0] >= WINDOW_S:
                found[hop] = _measured(seen[0][1], link, apart_s.get(hop), now - seen[0][0])
        return found


def _measured(before: LinkSeen, now: LinkSeen, apart_s: float | None, while_s: float) -> LinkSpeed:
    bundles, crossing_s = now.bundles - before.bundles, now.crossing_s - before.crossing_s
    rate, mean = None, 0.0
    if bundles >= LEAST_BUNDLES and crossing_s > 0:
        large = now.large_bytes - before.large_bytes
        rate, mean = large / crossing_s, large / bundles
    is_free = crossing_s < MOST_BUSY * while_s if rate is not None else bundles == 0
    if apart_s is None or not is_free:
        return LinkSpeed(rate, mean)
    crossing_s = 0.0 if rate is None else now.lead_bytes / rate
    return LinkSpeed(rate, mean, max(0.0, now.lead_s - apart_s - crossing_s))


def differing(
    links: Mapping[Ends, LinkSpeed], planned: Mapping[Ends, Link], declared: Mapping[Ends, Link]
) -> dict[Ends, Link]:
    """The links that are more than ``TOLERANCE`` times worse than what was planned with, or than that better, and what
    they are by now: at best as they were declared.

    What is measured of a rate is never more than the link can do: a bundle that was noticed late counts as slower. So a
    link is slow only if its bundles took longer than planned by more than ``NOISE_S`` each.
    """
    found = {}
    for hop, link in links.items():
        plan, best = planned[hop], declared[hop]
        rate, latency_s = _rate(link, plan, best), _latency(link, plan, best)
        if rate is not None or latency_s is not None:
            found[hop] = replace(
                plan,
                bytes_per_s=plan.bytes_per_s if rate is None else rate,
                latency_s=plan.latency_s if latency_s is None else latency_s,
            )
    return found


def _rate(link: LinkSpeed, plan: Link, best: Link) -> float | None:
    """What the link's rate is by now, if that differs."""
    if link.bytes_per_s is None:
        return None
    rate = min(link.bytes_per_s, best.bytes_per_s)
    late_s = link.bundle_bytes / rate - link.bundle_bytes / plan.bytes_per_s
    slower = rate * TOLERANCE < plan.bytes_per_s and late_s > NOISE_S
    return rate if slower or rate > TOLERANCE * plan.bytes_per_s else None


def _latency(link: LinkSpeed, plan: Link, best: Link) -> float | None:
    """What the link's latency is by now, if that differs."""
    if link.latency_s is None:
        return None
    latency_s = max(link.latency_s, best.latency_s)
    longer = latency_s > TOLERANCE * plan.latency_s + LATENCY_NOISE_S
    shorter = TOLERANCE * latency_s + LATENCY_NOISE_S < plan.latency_s
    return latency_s if longer or shorter else None


def is_news(found: Mapping[Ends, Link], tried: Mapping[Ends, Link]) -> bool:
    """Whether some link is another than when a plan was looked for last."""
    return any(hop not in tried or not _alike(quality, tried[hop]) for hop, quality in found.items())


def _alike(one: Link, other: Link) -> bool:
    rates = one.bytes_per_s / other.bytes_per_s
    near = abs(one.latency_s - other.latency_s) <= LATENCY_NOISE_S
    latencies = near or 1 / TOLERANCE <= one.latency_s / max(other.latency_s, 1e-9) <= TOLERANCE
    return 1 / TOLERANCE <= rates <= TOLERANCE and latencies
