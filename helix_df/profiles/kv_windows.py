"""How much KV cache a request keeps in layers that see a window of tokens alone, and how many of a node's do.

Pages of such layers are let go as they leave the window: before a step at position ``p`` runs, those that neither it
nor a later one looks at. Somebody else may begin with all whole pages of a request, so what those see stays, too.
Doesn't know who holds which page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    def mean(self, of_window: Callable[[int], float]) -> float:
        """The mean over the layers of what each is by its window, 0 for those without."""
        parts = [(self.whole, 0), (self.windowed, self.window)]
        found = [(count, of_window(window)) for count, window in parts if count]
        if len({value for _, value in found}) == 1:
            return found[0][1]
        return sum(count * value for count, value in found) / self.layers


ALIKE = KvShape()
"""Layers that keep all."""


def kv_shape(layers: int, windowed: int, window: int) -> KvShape:
    """The shape of so many layers, of which some have a window."""
    if windowed in (0, layers):
        return KvShape(0, 1, window) if windowed else ALIKE
    return KvShape(layers - windowed, windowed, window)


def shape_in_a_row(windows: tuple[int, ...], layers: int, *, fewest: bool = False) -> KvShape:
    """Of so many layers in a row those that see most, or the ``fewest`` tokens: any others see no more, or no fewer.

    Args:
        windows: of the model's layers, 0 for none; empty where no layer has one.
        layers: how many.
        fewest: whether those are asked for that see least.
    """
    if not any(windows):
        return ALIKE
    sums = (0, *accumulate(int(window == 0) for window in windows))
    runs = [stop - start for start, stop in zip(sums, sums[layers:], strict=False)]
    found = [window for window in windows if window]
    whole, window = (min(runs), min(found)) if fewest else (max(runs), max(found))
    return kv_shape(layers, layers - whole, window)


def shapes_in_a_row(windows: tuple[int, ...], num_layers: int, *, fewest: bool = False) -> Iterator[KvShape]:
    """``shape_in_a_row`` for 1, 2, 3, … up to ``num_layers`` layers."""
    return (shape_in_a_row(windows, layers, fewest=fewest) for layers in range(1, num_layers + 1))


def held_by_layers(
    windows: tuple[int, ...], tokens: float, piece: int, page_tokens: int, *, fewest: bool = False
) -> tuple[float, ...]:
    """Tokens of cache that a request of ``tokens`` takes at most in each of 1, 2, 3, … layers in a row, on average.

    Of so many layers these are the ones that keep most, so what any others keep is no more; or the ``fewest``, so that
    it is no less.

    Args:
        windows: of the model's layers; 0 for none.
        tokens: a request comes to.
        piece: tokens of the longest piece of a prompt.
        page_tokens: tokens a page.
        fewest: whether the layers that keep least are asked for.
    """

    def held(window: int) -> float:
        return min(tokens, held_tokens(10**9, window, piece, page_tokens)) if window else tokens

    return tuple(shape.mean(held) for shape in shapes_in_a_row(windows, len(windows), fewest=fewest))
