"""When a request may start: how much KV cache it is expected to use, and whether a node has that much.

Source: Helix (arXiv 2406.01566), section 5.2, "KV cache estimation". Plain numbers in and out, all in tokens of KV
cache. Doesn't know nodes, pipelines or queues.
"""

from __future__ import annotations

import math

WAITS, NO_PATH, TOO_LARGE, QUEUE_FULL, STRANDED, KEY_QUEUE_FULL = 0, 1, 2, 3, 4, 5
"""What ``on_arrival`` makes of a request: it joins the queue, is refused and why, or waits for nodes that are away."""


def expected_answer(max_tokens: int, share: float, mean_output: float) -> int:
    """Tokens that a request is expected to generate.

    The share of ``max_tokens`` that requests tend to use, but no more than the workload's mean answer: whoever leaves
    ``max_tokens`` at the rest of the context doesn't mean to fill it.
    """
    return math.ceil(min(share * max_tokens, mean_output))


def expected_kv(tokens: int, prompt: int, answer: int, most: int, cautious: bool) -> int:
    """Tokens of KV cache that a request is expected to come to.

    Args:
        tokens: it has now, its prompt and what it has generated.
        prompt: of these, those it came with.
        answer: it is expected to generate; ``expected_answer``.
        most: it can come to.
        cautious: count all that it can come to, since the expectation has proved too low once.
    """
    if cautious:
        return most
    return min(most, max(tokens, prompt + answer))


def admits(used: float, expected: int, most: int, capacity: float, high_water: float) -> bool:
    """Whether a node takes a request.

    A request enters when the node's expected use, its own included, stays under ``high_water`` times the capacity, or
    when the node is empty and the request fits it whole.
    """
    return most <= capacity and (used == 0 or used + expected <= high_water * capacity)


def on_arrival(serves: bool, fits: bool, fits_whole: bool, waiting: int, max_queue: int, has_share: bool) -> int:
    """Whether a request joins the queue, or waits beside it for nodes that are away; else why it is refused.

    Args:
        serves: whether the job has come up and isn't being stopped.
        fits: whether all that it can come to fits every node of some path that is up.
        fits_whole: whether it fits some path once all nodes are up.
        waiting: requests that wait, for room or for nodes.
        max_queue: most that may wait.
        has_share: whether its API key may have one more wait (``rules.fair_queue``).
    """
    if not serves:
        return NO_PATH
    if not fits and not fits_whole:
        return TOO_LARGE
    if waiting >= max_queue:
        return QUEUE_FULL
    if not has_share:
        return KEY_QUEUE_FULL
    return WAITS if fits else STRANDED
