"""What a scheduler is given and what it is: a factory of routers.

A router is what ``rules.routing`` says. It may have more: ``choose`` picks one next hop, for routing hop by hop;
``observe`` hears how long a hop took; ``weigh`` and ``spent`` hear of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from helix_df.graph.flow import EdgeFlow, hops_of
from helix_df.graph.problem import COORDINATOR, Placement
from helix_df.rules.routing import Adjacency, Pipeline, Router


@dataclass(frozen=True, slots=True)
class View:
    """What a scheduler may look at.

    ``adjacency`` are the next hops from every endpoint, each of which leads to the sink. ``waiting`` says how many
    requests wait on a node now, or, to those who can't look into nodes, how many go through it; ``link_free_in_s`` how
    many seconds a link is still busy for, as far as that is known.
    """

    placement: Placement
    adjacency: Adjacency
    edges: tuple[EdgeFlow, ...]
    seed: int
    waiting: Callable[[str], int]
    link_free_in_s: Callable[[str, str], float]


@runtime_checkable
class HopRouter(Protocol):
    """A router that can also choose the next hop alone."""

    def choose(self, tail: str, heads: Sequence[str], tokens: int) -> str:
        """The next hop from ``tail`` of a prompt of so many tokens; ``heads`` are not empty."""
        ...


@runtime_checkable
class HopObserver(Protocol):
    """A router that learns from how long hops take."""

    def observe(self, tail: str, head: str, seconds: float, steps: int) -> None:
        """``steps`` steps took ``seconds`` from being sent by ``tail`` to being through ``head``."""
        ...


@runtime_checkable
class TokenCounter(Protocol):
    """A router that weighs requests by their tokens."""

    def weigh(self, tokens: int) -> None:
        """The request that is routed next has a prompt of ``tokens`` tokens."""
        ...

    def spent(self, pipeline: tuple[str, ...], tokens: int) -> None:
        """Requests on the pipeline of these nodes were given ``tokens`` tokens."""
        ...


class Scheduler(Protocol):
    """A factory of routers."""

    def __call__(self, view: View) -> Router:
        """A fresh router over what ``view`` shows."""
        ...


class HopByHop:
    """A router that builds a pipeline from one choice after the other; ``choose`` is left to subclasses."""

    def __init__(self, view: View) -> None:
        self.view = view

    def choose(self, tail: str, heads: Sequence[str], tokens: int) -> str:
        """The next hop from ``tail``."""
        raise NotImplementedError

    def idle_first(self, tail: str, heads: Sequence[str]) -> list[str]:
        """The heads whose link is idle; if none is, those whose link is idle first."""
        if len(heads) == 1:
            return list(heads)
        wait = {head: self.view.link_free_in_s(tail, head) for head in heads}
        least = min(wait.values())
        return [head for head in heads if wait[head] <= least]

    def route(self, eligible: Callable[[str], bool]) -> Pipeline | None:
        """A pipeline of choices among eligible nodes; where they lead nowhere, the next best from there."""
        names: list[str] = []
        dead: set[str] = set()
        here = COORDINATOR
        while True:
            heads = [
                head
                for head in self.view.adjacency.get(here, ())
                if head == COORDINATOR or (head not in dead and eligible(head))
            ]
            if not heads:
                if not names:
                    return None
                dead.add(names.pop())
                here = names[-1] if names else COORDINATOR
                continue
            here = self.choose(here, heads, 1)
            if here == COORDINATOR:
                return hops_of(names, self.view.placement)
            names.append(here)
