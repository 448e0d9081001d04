"""Seconds of one stage's batch, layer by layer, from whatever is known about a device.

Owns the curves behind a throughput: seconds a layer takes for a prefill of so many tokens, and for a decode step of so
many requests. Doesn't know nodes, queues or traces.

Three sources, as for throughput (``throughput``), and in each the same closed form holds for a stage of ``k`` layers
that serves mean requests: ``tokens/s = (in + out) / (k · (P(in) + out · D(b) / b))``.

* Measured curves are taken as they are. A decode step of one request takes as long as one of two, where the
  measurements begin.
* A roofline gives ``P(n) = max(2·params·n / F, layer_bytes / W)`` and
  ``D(b) = max(2·params·b / F, (layer_bytes + b·(in + out/2)·kv_bytes) / W)``, with what is seen of the context where a
  layer has a window (``Requests.seen_tokens``).
* A declared table says only how many tokens/s ``k`` layers serve under one load. The shape comes from measured curves
  or a roofline of the same device, stretched until the closed form gives the table's entry under that load; without
  either, every token costs the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from helix_df.profiles.catalogue import Curve, Measured
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_windows import ALIKE, KvShape
from helix_df.profiles.throughput import Requests, Roofline, from_curves, interpolate
from helix_df.profiles.weight_bytes import WeightBytes, computed_bytes

LARGEST_BATCH = 4096
"""Where a roofline's decode curve ends; beyond, it goes on in proportion."""


def riding_s(steps_s: float, together_s: float) -> float:
    """Seconds that a piece of a prompt adds to a layer's decode steps when both run in one pass over its weights.

    The products with weights see prompt tokens and decode steps alike, and read the weights once for both: they take
    as long as those of a prompt with all these tokens, less what they would take for the decode steps alone. Attention
    grows faster than in proportion to a prompt, so that the difference counts rather more of it than the piece takes.
    Splitting prompts so that pieces ride with decode steps: Sarathi (arXiv 2308.16369).

    Args:
        steps_s: of a prefill with as many tokens as there are decode steps.
        together_s: of a prefill with those and the piece's.
    """
    return max(0.0, together_s - steps_s)


@dataclass(frozen=True, slots=True)
class LayerTiming:
    """Seconds that one layer takes.

    ``prefill`` is by prompt tokens, ``decode`` by requests in the batch, both from 0 on; linear between points and in
    proportion to the last point after it. ``max_prompts`` and ``max_batch`` are the device's own limits.
    """

    prefill: Curve
    decode: Curve
    max_prompts: int | None = None
    max_batch: int | None = None

    def prefill_s(self, tokens: float) -> float:
        """Seconds a layer takes for a prefill of ``tokens`` prompt tokens."""
        return interpolate(self.prefill, tokens) if tokens > 0 else 0.0

    def decode_s(self, batch: float) -> float:
        """Seconds a layer takes for a decode step of ``batch`` requests."""
        return interpolate(self.decode, batch) if batch > 0 else 0.0

    def batch_s(self, decodes: Mapping[int, int], prompts: Iterable[tuple[int, int]]) -> float:
        """Seconds of a batch on one node.

        Args:
            decodes: requests with a decode step, by the layers that they run: those of the same layers run together.
            prompts: (layers, prompt tokens): the longest rides with the decode steps of the same layers, and every
                other runs on its own.
        """
        pieces: dict[int, list[int]] = {}
        for layers, tokens in prompts:
            pieces.setdefault(layers, []).append(tokens)
        widths = sorted({*decodes, *pieces})
        return sum(layers * self._pass_s(decodes.get(layers, 0), pieces.get(layers, [])) for layers in widths)

    def _pass_s(self, requests: int, pieces: Sequence[int]) -> float:
        """Seconds of a layer for decode steps of so many requests and pieces of prompts."""
        if not requests or not pieces:
            return self.decode_s(requests) + sum(map(self.prefill_s, pieces))
        longest = max(pieces)
        rides_s = riding_s(self.prefill_s(requests), self.prefill_s(requests + longest))
        return self.decode_s(requests) + rides_s + sum(map(self.prefill_s, pieces)) - self.prefill_s(longest)

    def stretched(self, factor: float) -> LayerTiming:
        """The same shape, every time multiplied by ``factor``."""
        return LayerTiming(
            tuple((x, y * factor) for x, y in self.prefill),
            tuple((x, y * factor) for x, y in self.decode),
            self.max_prompts,
            self.max_batch,
        )


def measured_timing(measured: Measured, layers: int) -> LayerTiming:
    """Timing of a device that holds ``layers`` layers, as measured; past the largest measured count its limit stays."""
    limit = measured.max_batch[min(layers, len(measured.max_batch)) - 1]
    points = tuple(point for point in measured.decode if point[0] > 0)
    return LayerTiming(measured.prefill, ((0.0, points[0][1]), *points), measured.max_prompts, limit)


def declared_curves(
    prefill_ms: Sequence[tuple[int, float]],
    decode_ms: Sequence[tuple[int, float]],
    kv_tokens: Sequence[int],
    max_batch: int,
) -> Measured:
    """The curves of a job as planning takes them, in seconds a layer.

    What is smaller than the first point takes as long as it: batches are padded up to a smallest one.
    """
    return Measured(
        prefill=_from_zero(prefill_ms),
        decode=_from_zero(decode_ms),
        kv_tokens=tuple(kv_tokens),
        max_batch=(max_batch,) * len(kv_tokens),
    )


def _from_zero(curve_ms: Sequence[tuple[int, float]]) -> tuple[tuple[float, float], ...]:
    points = tuple((float(size), ms / 1e3) for size, ms in curve_ms)
    return ((0.0, points[0][1]), *points)


def roofline_timing(
    geometry: ModelGeometry,
    element_bytes: int,
    roofline: Roofline,
    requests: Requests,
    weights: WeightBytes | None = None,
    kv_bytes: int | None = None,
    shape: KvShape = ALIKE,
) -> LayerTiming:
    """Timing from compute and memory bandwidth, with the mean context of the workload.

    ``weights`` and ``kv_bytes`` as for ``kv_tokens_by_layers``. ``shape``: how many of the layers have a window; a
    layer takes the mean of their times.
    """
    held = weights or computed_bytes(geometry, element_bytes)
    compute_s = 2 * geometry.active_parameters / roofline.flop_per_s
    token_s = (kv_bytes or geometry.kv_bytes_per_token_layer(element_bytes)) / roofline.bytes_per_s
    cache_s = {window: requests.seen_tokens(window) * token_s for window in (0, shape.window)}

    def reading_s(tokens: float) -> float:
        return held.read(geometry, tokens) / roofline.bytes_per_s

    def decode_s(batch: float) -> float:
        read_s = reading_s(batch)
        return shape.mean(lambda window: max(batch * compute_s, read_s + batch * cache_s[window]))

    if geometry.experts.count:  # more tokens read more of them: no corner in closed form
        sizes = [0.0, *(float(2**power) for power in range(LARGEST_BATCH.bit_length()))]
        prefill = tuple((size, max(size * compute_s, reading_s(size))) for size in sizes)
        return LayerTiming(prefill, tuple((size, decode_s(size)) for size in sizes))
    floor_s = reading_s(1)
    corner = floor_s / compute_s
    crossings = [floor_s / (compute_s - seen_s) for seen_s in cache_s.values() if compute_s > seen_s]
    batches = sorted({0.0, float(LARGEST_BATCH), *(size for size in crossings if 0 < size < LARGEST_BATCH)})
    return LayerTiming(
        ((0.0, floor_s), (corner, floor_s), (2 * corner, 2 * floor_s)),
        tuple((batch, decode_s(batch)) for batch in batches),
    )


def linear_timing(tokens_per_s: float, layers: int) -> LayerTiming:
    """Timing under which every token, prompt or generated, costs ``1 / (layers · tokens_per_s)`` seconds a layer."""
    cost = 1 / (layers * tokens_per_s)
    return LayerTiming(((0.0, 0.0), (1.0, cost)), ((0.0, 0.0), (1.0, cost)))


def declared_timing(
    tokens_per_s: float, kv_tokens: int, layers: int, shape: LayerTiming | None, requests: Requests
) -> LayerTiming:
    """Timing whose closed form is the declared ``tokens_per_s`` with ``layers`` layers.

    Args:
        tokens_per_s: the table's entry for ``layers`` layers.
        kv_tokens: tokens of KV cache beside these layers, which bound the closed form's batch.
        layers: how many are held.
        shape: curves of the same device from elsewhere, or ``None``.
        requests: the mean request and the batch under which the table was measured.
    """
    if shape is None:
        return linear_timing(tokens_per_s, layers)
    return shape.stretched(closed_form(shape, kv_tokens, layers, requests) / tokens_per_s)


def closed_form(timing: LayerTiming, kv_tokens: int, layers: int, requests: Requests) -> float:
    """Tokens/s of a stage of ``layers`` layers with this timing that serves mean requests at its best batch."""
    one = Measured(timing.prefill, timing.decode, (kv_tokens,), (timing.max_batch or requests.max_batch,))
    return from_curves(one, requests, 1).tokens_per_s[0] / layers
