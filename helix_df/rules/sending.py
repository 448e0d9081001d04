"""What goes into one message to the next hop, and which message a link carries next. Pure.

Called by the workers, by emulated links and by the simulator alike. Knows nothing of sockets or clocks.

What one batch sends to one address leaves as one message, so that a batch stays a batch: a receiver that starts on
whatever has come would else run the first request of it alone. But hidden states of prompts are large. Where somebody
who reads along would have to wait for them, decode steps go first, every piece of a prompt is a message of its own, and
decode steps pass the pieces that still wait for the link.

Nothing of one request is reordered by that: its pieces keep their order, and its first decode step is sent when the
last of them has been through all layers.
"""

from __future__ import annotations

HOLD_UP_S = 0.001
"""Decode steps wait no longer than this for a link that carries the prompts of the same batch."""


def goes_apart(prefill_tokens: float, token_bytes: float, bytes_per_s: float) -> bool:
    """Whether pieces of prompts go over a link apart from decode steps, and behind them.

    Args:
        prefill_tokens: most prompt tokens of a batch.
        token_bytes: of a token's hidden state, as it is packed on the link.
        bytes_per_s: of the link.
    """
    return prefill_tokens * token_bytes > HOLD_UP_S * bytes_per_s


def passes(passed_bytes: float, waiting_bytes: float) -> bool:
    """Whether what is sent now passes the first piece of a prompt that waits for the link.

    A piece lets pass as much as it takes itself, with the message that makes it so much; then it is its turn. So a
    piece that is first is sent at the latest when it and the largest other message could have crossed.

    Args:
        passed_bytes: of the messages that have passed the piece since it is first.
        waiting_bytes: its own.
    """
    return passed_bytes < waiting_bytes
