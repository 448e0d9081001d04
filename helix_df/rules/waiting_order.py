"""Who of those who wait goes first: in order of arrival, or the shortest prompt first with ageing. Pure.

Used by the runtime and the simulator alike. Plain numbers in and out; doesn't know queues, keys or room.

Ageing needs no clock here: all who wait grow older at the same pace, so two of them never change places, and a rank
that is known at arrival says it all. A token of prompt counts as much as ``PROMPT_TOKEN_S`` of having come later.
"""

from __future__ import annotations

PROMPT_TOKEN_S = 0.01
"""Seconds later that a request counts as having come, for each token of its prompt."""

GOES_BEFORE_ALL = float("-inf")
"""The rank of who has been started before, or has waited for nodes: it has had its turn."""


def waiting_rank(arrived_s: float, prompt: int, shortest_first: bool) -> float:
    """When a request counts as having come, in seconds of the clock of ``arrived_s``: the lowest goes first.

    Nobody starves: who comes more than ``passed_for_s`` after a request goes after it, however short. In order
    of arrival ranks are times of arrival, so requests of both orders can wait in one queue.

    Args:
        arrived_s: when it came, in seconds of any monotonic clock.
        prompt: tokens to compute before its first one is generated.
        shortest_first: the shortest prompt first, rather than who came first.
    """
    return arrived_s + PROMPT_TOKEN_S * prompt if shortest_first else arrived_s


def passed_for_s(prompt: int, shortest_first: bool) -> float:
    """Seconds after its arrival in which others may come that go before a request of so many tokens."""
    return PROMPT_TOKEN_S * prompt if shortest_first else 0.0
