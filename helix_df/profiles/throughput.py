"""Tokens/s and KV cache of a device by the number of layers it holds, as pure functions.

Owns the three ways to know a throughput: a declared table, measured curves, a roofline. Doesn't know the catalogue,
nodes or links.

The model of a request of ``in`` prompt and ``out`` generated tokens on a device with ``k`` layers:

* It needs KV cache for ``in + out`` tokens in each layer, so ``B = kv_tokens(k) / (in + out)`` requests are held at
  once, and no more than the batch limit decode together. Layers with a window need less (``Requests.held``).
* Its prompt costs ``P`` seconds a layer, and each generated token ``D(B) / B`` where ``D(B)`` is a layer's time for a
  decode step of ``B`` requests.
* So ``tokens/s = (in + out) / (k · (P + out · min_{b ≤ B} D(b) / b))``. The minimum is there because nobody has to
  batch more than pays.

Roofline: ``P = max(2·params·in / F, layer_bytes / W)`` and ``D(B) = max(2·params·B / F, (layer_bytes + B·(in + out/2)
·kv_bytes) / W)`` with ``F`` and ``W`` the reached compute and memory bandwidth, ``params`` those of one layer, and
``in + out/2`` the mean context over a request's decode. With experts, ``params`` are those that a token passes, and
``layer_bytes`` those that a pass of so many tokens is expected to read (``geometry.read_parameters``).

Where layers differ, each counts as the slowest: ``params`` and ``layer_bytes`` are the most of any. A layer with a
window reads less: in place of ``in + out/2`` the mean of what its queries see (``Requests.seen_tokens``). Of ``k``
layers those in a row count of which the fewest have a window, and the time is the mean of theirs.

Where decode steps bring drafted tokens, ``D`` is that of all of them, and divided by those that stay: the least over
numbers of drafts (``expected_drafts``).

More layers leave less KV cache, so ``B`` falls with ``k`` and tokens/s never grow with ``k``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from helix_df.profiles.catalogue import Curve, Measured
from helix_df.profiles.expected_drafts import NO_DRAFTS, ExpectedDrafts
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_windows import KvShape, shapes_in_a_row
from helix_df.profiles.weight_bytes import WeightBytes, computed_bytes

USABLE_MEMORY = 0.9
"""Share of a device's memory for weights and KV cache; the rest is for activations, buffers and fragmentation."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Mean prompt and output tokens of a request, and how many a device decodes together at most.

    ``held``: tokens of KV cache that a request takes at most in each of 1, 2, 3, … layers in a row, on average
    (``kv_windows.held_by_layers``). Empty: all of its tokens in each. ``drafted``: what is expected of drafted tokens.
    """

    input_tokens: float
    output_tokens: float
    max_batch: int
    held: tuple[float, ...] = ()
    drafted: ExpectedDrafts = NO_DRAFTS

    @property
    def undrafted(self) -> Requests:
        """The same where nobody drafts."""
        return replace(self, drafted=NO_DRAFTS)

    @property
    def tokens(self) -> float:
        """Tokens of a whole request."""
        return self.input_tokens + self.output_tokens

    def held_tokens(self, layers: int) -> float:
        """Tokens of KV cache that a whole request takes at most in each of so many layers, on average."""
        return self.held[layers - 1] if self.held else self.tokens

    def seen_tokens(self, window: int = 0) -> float:
        """Tokens that a decode step looks at in a layer, on average over a request's decode.

        The context ``c`` grows evenly from the prompt to all tokens, and of it ``min(c, window)`` tokens are seen.

        Args:
            window: tokens that a query sees, itself included; 0 for all.
        """
        grows_by = window - self.input_tokens
        if not window or window >= self.tokens:
            return self.input_tokens + self.output_tokens / 2
        return window - max(0.0, grows_by) ** 2 / (2 * self.output_tokens) if self.output_tokens else float(window)


@dataclass(frozen=True, slots=True)
class Roofline:
    """Reached compute in FLOP/s and reached memory bandwidth in bytes/s."""

    flop_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """``tokens_per_s[k - 1]`` and ``kv_tokens[k - 1]`` for every ``k`` layers that fit."""

    tokens_per_s: tuple[float, ...]
    kv_tokens: tuple[int, ...]


def kv_tokens_by_layers(
    geometry: ModelGeometry,
    element_bytes: int,
    memory_bytes: float,
    requests: Requests,
    weights: WeightBytes | None = None,
    kv_bytes: int | None = None,
    *,
    lightest: bool = False,
) -> tuple[int, ...]:
    """Tokens of KV cache beside 1, 2, 3, … layers, as far as one mean request still fits.

    Where layers differ, so many layers are the heaviest that lie in a row, and whichever a node gets, they fit; or the
    ``lightest``, and nothing that doesn't fit beside those fits anywhere.

    One vocabulary matrix is set aside on every device, since any may turn out first or last; with all layers it is
    both, which takes two unless they are tied. Numbers take ``element_bytes`` unless ``weights`` says more of weights,
    and ``kv_bytes`` what a token keeps in a layer's cache.
    """
    held = weights or computed_bytes(geometry, element_bytes)
    kv_bytes = kv_bytes or geometry.kv_bytes_per_token_layer(element_bytes)
    fits = []
    by_count = held.in_a_row(geometry, min if lightest else max)
    for layers, layer_bytes in enumerate(by_count, start=1):
        matrices = 2 if layers == geometry.num_layers and not geometry.tie_embeddings else 1
        free = USABLE_MEMORY * memory_bytes - matrices * held.vocabulary - layer_bytes
        tokens = int(free // (layers * kv_bytes))
        if tokens < requests.held_tokens(layers):
            break
        fits.append(tokens)
    return tuple(fits)


def from_table(tokens_per_s: tuple[float, ...], kv_tokens: tuple[int, ...], num_layers: int) -> Throughput:
    """A declared table, as far as both columns go and the model has layers."""
    count = min(len(tokens_per_s), len(kv_tokens), num_layers)
    return Throughput(tokens_per_s[:count], kv_tokens[:count])


def from_curves(measured: Measured, requests: Requests, num_layers: int) -> Throughput:
    """Throughput from measured times per layer."""
    prefill_s = interpolate(measured.prefill, requests.input_tokens)
    count = min(len(measured.kv_tokens), num_layers)

    def decode_s(layers: int) -> float:
        limit = min(requests.max_batch, measured.max_batch[layers - 1])
        batch = _concurrent(measured.kv_tokens, layers, requests, limit)
        return min(steps.carried_for_each * token_s(batch * steps.carried) for steps in requests.drafted.choices())

    def token_s(most: float) -> float:
        corners = [corner for corner, _ in measured.decode if 1 <= corner < most]
        # D(b)/b is monotone between two corners of a piecewise linear D, so its minimum is at a corner or at the end.
        return min(interpolate(measured.decode, b) / b for b in [*corners, most])

    rates = tuple(_rate(requests, layers, prefill_s, decode_s(layers)) for layers in range(1, count + 1))
    return Throughput(_falling(rates), measured.kv_tokens[:count])


def reading_weights(measured: Measured) -> Measured:
    """The same curves, except that no pass takes less than reading a layer's weights.

    Measurements begin at hundreds of prompt tokens and at two requests; below, published curves run straight to zero.
    But a pass reads the weights however few tokens it is for, and the smallest measured decode step is that and little
    more. So a shorter prompt, or a piece of one, takes at least as long as that step, and a step of one request as long
    as one of two. From the first measured point on nothing changes; nor do curves that don't begin at zero.
    """
    floor_s = next(seconds for size, seconds in measured.decode if size > 0)
    return replace(
        measured,
        prefill=_at_least(measured.prefill, floor_s),
        decode=_at_least(measured.decode, floor_s),
    )


def _at_least(curve: Curve, floor_s: float) -> Curve:
    """The curve without its way to zero: at least ``floor_s``, but no more than the first measured point."""
    if curve[0] != (0.0, 0.0):
        return curve
    x, y = curve[1]
    if floor_s >= y:
        return ((0.0, y), *curve[1:])
    return ((0.0, floor_s), (x * floor_s / y, floor_s), *curve[1:])


def from_roofline(
    geometry: ModelGeometry,
    element_bytes: int,
    roofline: Roofline,
    kv_tokens: tuple[int, ...],
    requests: Requests,
    weights: WeightBytes | None = None,
    kv_bytes: int | None = None,
    shapes: Sequence[KvShape] | None = None,
) -> Throughput:
    """Throughput from compute and memory bandwidth, for as many layers as ``kv_tokens`` has entries.

    ``weights`` and ``kv_bytes`` as for ``kv_tokens_by_layers``. ``shapes``: of 1, 2, 3, … layers which have a window;
    by default of those in a row that see most.
    """
    held = weights or computed_bytes(geometry, element_bytes)
    kv_bytes = kv_bytes or geometry.kv_bytes_per_token_layer(element_bytes)
    flop = 2 * geometry.active_parameters
    shapes = shapes or tuple(shapes_in_a_row(geometry.attention.windows, len(kv_tokens)))
    prefill_s = max(
        flop * requests.input_tokens / roofline.flop_per_s,
        held.read(geometry, requests.input_tokens) / roofline.bytes_per_s,
    )

    def decode_s(layers: int) -> float:
        batch = _concurrent(kv_tokens, layers, requests, requests.max_batch)
        choices = requests.drafted.choices()
        return min(steps.carried_for_each * token_s(layers, batch * steps.carried) for steps in choices)

    def token_s(layers: int, batch: float) -> float:
        layer_bytes = held.read(geometry, batch)

        def layer_s(window: int) -> float:
            return max(
                flop / roofline.flop_per_s,
                (layer_bytes / batch + requests.seen_tokens(window) * kv_bytes) / roofline.bytes_per_s,
            )

        return shapes[layers - 1].mean(layer_s)

    rates = tuple(_rate(requests, layers, prefill_s, decode_s(layers)) for layers in range(1, len(kv_tokens) + 1))
    return Throughput(rates, kv_tokens)


def best_from_roofline(
    geometry: ModelGeometry,
    element_bytes: int,
    roofline: Roofline,
    kv_tokens: tuple[int, ...],
    requests: Requests,
    weights: WeightBytes | None = None,
    kv_bytes: int | None = None,
) -> Throughput:
    """As ``from_roofline``, of the fastest layers in a row where they differ: as many of each kind as lie there.

    Where some have a window, too, every layer counts as if it had the smallest.
    """
    held = weights or computed_bytes(geometry, element_bytes)
    windows, kinds = geometry.attention.windows, geometry.kinds_alone()
    shapes = tuple(shapes_in_a_row(windows, len(kv_tokens), fewest=True))
    if len(kinds) == 1:
        return from_roofline(geometry, element_bytes, roofline, kv_tokens, requests, held, kv_bytes, shapes)
    if any(windows):
        shapes = (KvShape(0, 1, min(filter(None, windows))),) * len(kv_tokens)

    def rates_of(kind: ModelGeometry) -> tuple[float, ...]:
        of_kind = held.alone(kind.has_experts(0))
        return from_roofline(kind, element_bytes, roofline, kv_tokens, requests, of_kind, kv_bytes, shapes).tokens_per_s

    alone = {kind.has_experts(0): rates_of(kind) for kind in kinds}
    rates = []
    for layers, numbers in enumerate(geometry.dense_in_a_row()[: len(kv_tokens)], start=1):
        dense_s, mixed_s = (1 / (layers * alone[kind][layers - 1]) for kind in (False, True))
        rates.append(max(1 / (dense * dense_s + (layers - dense) * mixed_s) for dense in numbers))
    return Throughput(tuple(rates), kv_tokens)


def _concurrent(kv_tokens: tuple[int, ...], layers: int, requests: Requests, limit: int) -> float:
    """Requests that decode together; at least one, which runs even where it has to wait for cache."""
    return max(1.0, min(kv_tokens[layers - 1] / requests.held_tokens(layers), limit))


def _rate(requests: Requests, layers: int, prefill_s: float, decode_s: float) -> float:
    """Tokens/s when each layer takes ``prefill_s`` for a prompt and ``decode_s`` for a generated token."""
    return requests.tokens / (layers * (prefill_s + requests.output_tokens * decode_s))


def _falling(rates: tuple[float, ...]) -> tuple[float, ...]:
    """Never more than with fewer layers: measured batch limits are rough enough to dent the trend."""
    out: list[float] = []
    for rate in rates:
        out.append(min(rate, out[-1]) if out else rate)
    return tuple(out)


def interpolate(curve: Curve, x: float) -> float:
    """The curve at ``x``; beyond its end it goes on in proportion to the last point."""
    last_x, last_y = curve[-1]
    if x >= last_x:
        return last_y * x / last_x
    right = bisect_right(curve, x, key=lambda point: point[0])
    (x0, y0), (x1, y1) = curve[right - 1], curve[right]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
