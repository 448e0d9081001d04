"""What a worker's next batch takes: decode steps first, since somebody reads along, then prompts under a token budget.

Plain numbers in and out. Doesn't know requests, queues or seconds.
"""

from __future__ import annotations


def longest_piece(budget: int) -> int:
    """Tokens of a prompt's longest piece, where batches hold ``budget`` prompt tokens."""
    return budget


def piece_tokens(left: int, longest: int) -> int:
    """Tokens of a prompt's next piece, when ``left`` are left and pieces have at most ``longest`` (at least 3).

    No piece but a whole prompt has one token alone: it would look like a decode step to a worker.
    """
    if left <= longest:
        return left
    return longest - 1 if left == longest + 1 else longest


def takes_decodes(waiting: int, room: int, share: int, enters: bool) -> int:
    """Of ``waiting`` decode steps those that a batch takes.

    Args:
        waiting: steps that come next.
        room: steps that the batch can still take.
        share: of these, how many may be of requests that enter their pipeline here (``micro_batches``).
        enters: whether the waiting ones do.
    """
    return min(waiting, room, share) if enters else min(waiting, room)


def takes_piece(
    tokens: int,
    again: bool,
    room: int,
    decodes: int,  # noqa: ARG001  # callers say what the batch holds, so that this rule can change here alone
    taken: int,
    budget: int,
) -> bool:
    """Whether a batch takes a piece of a prompt.

    Args:
        tokens: of the piece.
        again: whether the batch has a piece of that prompt, whose cache this one needs.
        room: steps that the batch can still take.
        decodes: decode steps that the batch holds; they leave prompts all of the budget.
        taken: prompt tokens that the batch holds.
        budget: prompt tokens of a batch; a single longer piece still runs, but no other beside it.
    """
    return room > 0 and not again and (taken + tokens <= budget or taken == 0)
