"""How much KV cache a request keeps in layers that see a window of tokens alone.

Pages of such layers are let go as they leave the window: before a step at position ``p`` runs, those that neither it
nor a later one looks at. Somebody else may begin with all whole pages of a request, so what those see stays, too.
Doesn't know who holds which page.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

PAGE_TOKENS = 16
"""Tokens of a page in the runtime's KV cache."""


def first_page(tokens: int, window: int, page_tokens: int) -> int:
    """The first page that a request of ``tokens`` tokens still holds.

    All whole pages of these tokens count as known: who begins with them sees as far back.

    Args:
        tokens: of which keys and values are known.
        window: tokens that a query sees, itself included; 0 for all.
        page_tokens: tokens a page.
    """
    if window == 0:
        return 0
    return max(0, tokens // page_tokens * page_tokens - window + 1) // page_tokens


def held_tokens(tokens: int, window: int, piece: int, page_tokens: int) -> int:
    """Tokens of cache that a request takes at most until it has ``tokens`` tokens: whole pages where it may free some.

    Args:
        tokens: it comes to.
        window: as for ``first_page``.
        piece: tokens of the longest piece of a prompt.
        page_tokens: tokens a page.
    """
    if window == 0:
        return tokens
    seen = -(-(window - 1) // page_tokens) - (-(piece + page_tokens - 1) // page_tokens)
    return min(tokens, seen * page_tokens)


@dataclass(frozen=True, slots=True)
class KvShape:
    """What the layers of a node keep: ``whole`` of them every token, ``windowed`` what ``window`` tokens see.

    Layers that are alike count as one, so that what they keep is counted in tokens; else in tokens times layers.
    """

    whole: int = 1
    windowed: int = 0
    window: int = 0

    @property
    def layers(self) -> int:
        """What a token of every layer counts."""
        return self.whole + self.windowed

    def held(self, tokens: int, piece: int, page_tokens: int) -> int:
        """What a request takes at most until it has ``tokens`` tokens; arguments as for ``held_tokens``."""
        return self.whole * tokens + self.windowed * held_tokens(tokens, self.window, piece, page_tokens)


ALIKE = KvShape()
"""Layers that keep all."""


def kv_shape(layers: int, windowed: int, window: int) -> KvShape:
    """The shape of so many layers, of which some have a window."""
    if windowed in (0, layers):
        return KvShape(0, 1, window) if windowed else ALIKE
    return KvShape(layers - windowed, windowed, window)


def held_by_layers(windows: tuple[int, ...], tokens: float, piece: int, page_tokens: int) -> tuple[float, ...]:
    """Tokens of cache that a request of ``tokens`` takes at most in each of 1, 2, 3, … layers in a row, on average.

    Of so many layers these are the ones that keep most, so what any others keep is no more.

    Args:
        windows: of the model's layers; 0 for none.
        tokens: a request comes to.
        piece: tokens of the longest piece of a prompt.
        page_tokens: tokens a page.
    """
    few = min(tokens, held_tokens(10**9, max(windows), piece, page_tokens))
    sums = (0, *accumulate(int(window == 0) for window in windows))
    found = []
    for count in range(1, len(windows) + 1):
        whole = max(stop - start for start, stop in zip(sums, sums[count:], strict=False))
        found.append((whole * tokens + (count - whole) * few) / count)
    return tuple(found)
