"""What a worker's next batch takes: decode steps first, since somebody reads along, then prompts under a token budget.

Plain numbers in and out. Doesn't know requests, queues or seconds.
"""

from __future__ import annotations


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


def takes_piece(tokens: int, room: int, left: int, budget: int) -> bool:
    """Whether a batch takes a piece of a prompt.

    Args:
        tokens: of the piece.
        room: steps that the batch can still take.
        left: prompt tokens left of the batch's budget.
        budget: prompt tokens of a batch; a single longer piece still runs, but no other beside it.
    """
    return room > 0 and (tokens <= left or left == budget)
