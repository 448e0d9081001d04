"""``flow-tokens``: the published simulator's interleaved weighted round-robin, which counts tokens, not requests.

Source: Helix (arXiv 2406.01566), section 5, as its artifact does it. Every hop keeps a load, the tokens sent over it
divided by its flow; a prompt takes the hop that would have the least load after it, and every generated token adds to
the hops of its pipeline. Hops with less than 5 % of what leaves a node are left out, and a node is chosen without
looking further, so that a request may find itself without a way.
"""

from __future__ import annotations

from collections.abc import Callable

from helix_df.graph.flow import hops_of
from helix_df.graph.problem import COORDINATOR
from helix_df.rules.routing import Pipeline
from helix_df.rules.schedulers.api import View

SMALLEST_SHARE = 0.05


class FlowByTokens:
    """Weighted turns by tokens."""

    def __init__(self, view: View) -> None:
        self.view = view
        out: dict[str, dict[str, float]] = {}
        for edge in view.edges:
            if edge.tokens_per_s > 0:
                out.setdefault(edge.tail, {})[edge.head] = edge.tokens_per_s
        self._flow = {
            tail: {head: flow for head, flow in heads.items() if flow >= SMALLEST_SHARE * sum(heads.values())}
            for tail, heads in out.items()
        }
        self._load = {tail: dict.fromkeys(heads, 0.0) for tail, heads in self._flow.items()}
        self._pending: dict[tuple[str, ...], int] = {}
        self._tokens = 1

    def turns(self) -> dict[str, dict[str, float]]:
        """Weights of the next hops from every endpoint; of equals, the first is taken."""
        return self._flow

    def weigh(self, tokens: int) -> None:
        self._tokens = tokens

    def spent(self, pipeline: tuple[str, ...], tokens: int) -> None:
        self._pending[pipeline] = self._pending.get(pipeline, 0) + tokens

    def route(self, eligible: Callable[[str], bool]) -> Pipeline | None:
        self._settle()
        names: list[str] = []
        here = COORDINATOR
        while True:
            flow, load = self._flow.get(here, {}), self._load.get(here, {})
            heads = [head for head in flow if head == COORDINATOR or eligible(head)]
            if not heads:
                return None
            here = min(heads, key=lambda head: load[head] + self._tokens / flow[head])
            if here == COORDINATOR:
                break
            names.append(here)
        self._add(tuple(names), self._tokens)
        return hops_of(names, self.view.placement)

    def _settle(self) -> None:
        for pipeline, tokens in self._pending.items():
            self._add(pipeline, tokens)
        self._pending.clear()

    def _add(self, pipeline: tuple[str, ...], tokens: int) -> None:
        for tail, head in zip((COORDINATOR, *pipeline), (*pipeline, COORDINATOR), strict=True):
            if head in self._load[tail]:
                self._load[tail][head] += tokens / self._flow[tail][head]
