"""How many batches of one pipeline should be on their way at once, so that every stage works. Pure.

Used by the runtime and the simulator alike. Knows nothing of requests, sockets or clocks.

Requests that decode together stay together: they leave a stage in one message and come home in one. Were they one
batch, all stages but one would wait at any time; were they many small ones, each stage would run more batches than it
has to, and a batch of few takes hardly less than one of many.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field

NO_LIMIT = 10**9
"""More than any batch holds."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """How the first stage of a pipeline divides the requests that decode there.

    Attributes:
        shares: a batch takes one of so many equal shares of them.
        most: so many batches may be under way; another waits until one is back, and grows meanwhile.
    """

    shares: int = 1
    most: int = 1


UNDIVIDED = MicroBatches(1, NO_LIMIT)
"""Of a job without micro-batches: whoever is there decodes, whatever is under way."""


def micro_batches(step_s: Sequence[float], network_s: float) -> MicroBatches:
    """For a pipeline whose stages take ``step_s`` for a decode step, with ``network_s`` between them all.

    Full is a pipeline with as many batches under way as the time around it is longer than its slowest stage (Little's
    law at that stage). Computing alone decides the shares: as many as stages where all take alike, one where a single
    stage takes nearly all the time. A batch that crosses a network keeps no stage busy, so more may be under way.
    """
    total_s, slowest_s = sum(step_s), max(step_s)
    shares = equal_shares(total_s, slowest_s)
    return MicroBatches(shares, most_under_way(shares, total_s + network_s, slowest_s))


def equal_shares(total_s: float, slowest_s: float) -> int:
    """Shares for a pipeline whose stages take ``total_s`` for a decode step, the slowest of them ``slowest_s``."""
    return max(1, round(total_s / slowest_s)) if slowest_s > 0 else 1


def most_under_way(shares: int, around_s: float, slowest_s: float) -> int:
    """Batches of ``shares`` that may be under way on a pipeline once around which takes ``around_s``, networks too."""
    return max(shares, round(around_s / slowest_s)) if slowest_s > 0 else shares


def batch_share(requests: float) -> int:
    """Requests that a batch takes, when all pipelines' requests over their shares add up to ``requests``."""
    return math.ceil(requests - _ROUNDING)


def batch_room(share: int, under_way: int, most: int, max_batch: int) -> int:
    """Requests that the next batch may take: a share, or none while as many as may be are under way.

    Where ``max_batch`` makes batches smaller than their share, as many more may be under way: a full batch gains
    nothing by waiting.
    """
    if share > max_batch:
        most = math.ceil(most * share / max_batch)
    return share if under_way < most else 0


@dataclass(slots=True)
class Entrance:
    """The first stage of pipelines: who decodes there, and which of its batches are under way.

    A batch is back when the first of its requests is, or has ended: the others come with it.
    """

    max_batch: int = NO_LIMIT
    _pipelines: dict[Hashable, MicroBatches] = field(default_factory=dict)
    _kinds: Counter[MicroBatches] = field(default_factory=Counter)
    _batch_of: dict[Hashable, int] = field(default_factory=dict)
    _under_way: set[int] = field(default_factory=set)
    _batches: int = 0

    def enter(self, request: Hashable, pipeline: MicroBatches) -> None:
        """``request`` begins on a pipeline."""
        self._pipelines[request] = pipeline
        self._kinds[pipeline] += 1

    def leave(self, request: Hashable) -> None:
        """``request`` has ended; unknown ones are fine."""
        self.back(request)
        pipeline = self._pipelines.pop(request, None)
        if pipeline is not None:
            self._kinds[pipeline] -= 1
            if not self._kinds[pipeline]:
                del self._kinds[pipeline]

    def back(self, request: Hashable) -> None:
        """The last step of ``request`` has been around."""
        self._under_way.discard(self._batch_of.pop(request, 0))

    def room(self) -> int:
        """Requests that the next batch may take."""
        if not self._kinds:
            return 0
        share = batch_share(sum(requests / pipeline.shares for pipeline, requests in self._kinds.items()))
        most = max(pipeline.most for pipeline in self._kinds)
        return batch_room(share, len(self._under_way), most, self.max_batch)

    def validate(self, requests: Collection[Hashable]) -> None:
        """Check that exactly ``requests`` decode here, and that batches under way are somebody's.

        Raises:
            AssertionError: when that is wrong.
        """
        assert set(self._pipelines) == set(requests), "who enters here"
        assert self._kinds == Counter(self._pipelines.values()), "requests by pipeline"
        assert self._batch_of.keys() <= self._pipelines.keys(), "who is on the way"
        assert self._under_way <= set(self._batch_of.values()), "a batch of nobody is under way"

    def launch(self, requests: Collection[Hashable]) -> None:
        """A batch with these requests is on its way."""
        if requests:
            self._batches += 1
            self._under_way.add(self._batches)
            for request in requests:
                self._batch_of[request] = self._batches
