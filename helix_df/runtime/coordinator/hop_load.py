"""What went over each hop: the tokens of the attempts that have left it, and of those that run over it now.

Nothing is counted a token: an attempt's share follows from what its request has when somebody asks, and when it leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from helix_df.graph.flow import EdgeFlow
from helix_df.graph.problem import COORDINATOR
from helix_df.rules.routing import Pipeline
from helix_df.runtime.coordinator.request import ServedRequest
from helix_df.runtime.requests import HopStatus

Hop = tuple[str, str]


def hops_of(pipeline: Pipeline) -> Iterable[Hop]:
    """From the coordinator through the pipeline and home."""
    return pairwise((COORDINATOR, *(hop.node for hop in pipeline), COORDINATOR))


@dataclass(slots=True)
class HopLoad:
    """``carried`` are tokens, of prompts and of answers, that attempts which have ended took over each hop."""

    carried: Counter[Hop] = field(default_factory=Counter)

    def leave(self, request: ServedRequest) -> None:
        """A running request gives its pipeline up."""
        for hop in hops_of(request.pipeline or ()):
            self.carried[hop] += _computed(request)

    def status(self, requests: Iterable[ServedRequest], planned: Iterable[EdgeFlow]) -> tuple[HopStatus, ...]:
        """Of every hop that is planned or was used, in the order of their names."""
        tokens, running = self.carried.copy(), Counter[Hop]()
        for request in requests:
            for hop in hops_of(request.pipeline) if request.pipeline is not None else ():
                tokens[hop] += _computed(request)
                running[hop] += 1
        flow = {(edge.tail, edge.head): edge.tokens_per_s for edge in planned}
        return tuple(
            HopStatus(*hop, planned_tokens_per_s=flow.get(hop, 0.0), tokens=tokens[hop], running=running[hop])
            for hop in sorted(flow.keys() | tokens.keys())
        )


def _computed(request: ServedRequest) -> int:
    """Tokens that this attempt has sent through its pipeline: none of those that it found in KV cache."""
    return len(request.tokens) - request.cached
