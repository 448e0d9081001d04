"""What a simulation measured as charts: latencies as cumulative shares, the cluster over time, nodes over time.

Owns which figures are drawn and over which range. Doesn't know SVG or pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from helix_df.pictures.charts import Axis, Curve, Strip, chart, share_map
from helix_df.pictures.svg import COLOURS, Drawing
from helix_df.simulator.outcome import Outcome
from helix_df.what_if import Simulated

MAX_STRIPS = 60
QUANTILES = np.concatenate([np.linspace(0.0, 0.98, 99), np.linspace(0.982, 1.0, 10)])
TAIL = 99.5
"""Percentile at which a latency's axis ends."""
LOG_FROM = 30.0
"""Ratio of largest to smallest latency from which the axis is logarithmic."""

Samples = npt.NDArray[np.floating]


def colour_of(place: int) -> str:
    """The colour of a variant by its place."""
    return COLOURS[place % len(COLOURS)]


def latency_charts(results: Sequence[Simulated]) -> list[Drawing]:
    """Time to first token, between tokens and end to end: the share of requests or tokens within a time."""
    figures: tuple[tuple[str, Callable[[Outcome], Samples]], ...] = (
        ("Time to first token", lambda outcome: outcome.ttft_s),
        ("Inter-token latency", lambda outcome: outcome.gaps_s),
        ("End-to-end latency", lambda outcome: outcome.end_to_end_s),
    )
    return [_cumulative(title, results, [take(one.outcome) for one in results]) for title, take in figures]


def _cumulative(title: str, results: Sequence[Simulated], samples: Sequence[Samples]) -> Drawing:
    axis = _seconds([values for values in samples if len(values)])
    curves = [
        Curve(one.name, colour_of(place), _quantiles(values))
        for place, (one, values) in enumerate(zip(results, samples, strict=True))
    ]
    return chart(title, axis, Axis("share within", 0.0, 1.0, percent=True), curves)


def _quantiles(values: Samples) -> tuple[tuple[float, float], ...]:
    if not len(values):
        return ()
    times = np.quantile(values, QUANTILES)
    return tuple((float(time), float(share)) for time, share in zip(times, QUANTILES, strict=True))


def _seconds(samples: Sequence[Samples]) -> Axis:
    if not samples:
        return Axis("seconds", 0.0, 1.0)
    high = max(float(np.percentile(values, TAIL)) for values in samples)
    low = min(float(np.percentile(values, 1)) for values in samples)
    if 0 < low < high / LOG_FROM:
        return Axis("seconds, log scale", low, high, log=True)
    return Axis("seconds", 0.0, high or 1.0)


def time_charts(results: Sequence[Simulated]) -> list[Drawing]:
    """Tokens/s, requests, work and KV cache over simulated time; warm-up is shaded."""
    return [
        _over_time("Decode throughput", "tokens/s", results, lambda outcome: outcome.series.decode_tokens_per_s),
        _over_time("Requests in flight", "requests", results, lambda outcome: outcome.series.in_flight),
        _over_time("Requests waiting to be admitted", "requests", results, lambda outcome: outcome.series.waiting),
        _over_time(
            "Nodes at work",
            "share of time: mean, and dashed the busiest",
            results,
            lambda outcome: _mean(outcome.series.utilisation),
            lambda outcome: _most(outcome.series.utilisation),
            percent=True,
        ),
        _over_time(
            "KV cache in use",
            "share: mean of nodes, and dashed the fullest",
            results,
            lambda outcome: _mean(outcome.series.kv),
            lambda outcome: _most(outcome.series.kv),
            percent=True,
        ),
        _over_time("Decode batch", "requests, mean of nodes", results, lambda outcome: _mean(outcome.series.batch)),
    ]


def _mean(rows: Samples) -> Samples:
    return rows.mean(axis=0) if rows.size else np.zeros(0)


def _most(rows: Samples) -> Samples:
    return rows.max(axis=0) if rows.size else np.zeros(0)


def _over_time(
    title: str,
    label: str,
    results: Sequence[Simulated],
    main: Callable[[Outcome], Samples],
    beside: Callable[[Outcome], Samples] | None = None,
    *,
    percent: bool = False,
) -> Drawing:
    curves = []
    for place, one in enumerate(results):
        times = one.outcome.series.time_s
        for take, faint in ((main, False), (beside, True)):
            if take is not None:
                points = tuple(zip(times.tolist(), take(one.outcome).tolist(), strict=True))
                curves.append(Curve(one.name, colour_of(place), points, faint))
    most = max((value for curve in curves for _, value in curve.points), default=0.0)
    y = Axis(label, 0.0, 1.0, percent=True) if percent else Axis(label, 0.0, 1.08 * most or 1.0)
    return chart(title, time_axis([one.outcome for one in results]), y, curves, min(_starts(results), default=None))


def _starts(results: Sequence[Simulated]) -> list[float]:
    return [one.outcome.start_s for one in results]


def time_axis(outcomes: Sequence[Outcome]) -> Axis:
    """All of the simulated time, in seconds."""
    return Axis("simulated seconds", 0.0, max((outcome.end_s for outcome in outcomes), default=0.0) or 1.0)


def node_map(one: Simulated, place: int) -> Drawing:
    """Each node's share of time at work, over time; in the order of their layers."""
    outcome = one.outcome
    order = sorted(range(len(outcome.nodes)), key=lambda i: (outcome.nodes[i].layers, outcome.nodes[i].name))
    rows = outcome.series.utilisation
    strips = [Strip(outcome.nodes[i].name, tuple(rows[i].tolist())) for i in order[:MAX_STRIPS]]
    left_out = len(order) - len(strips)
    title = "Nodes at work over time, in the order of their layers" + (
        f"; {left_out} more are left out" * (left_out > 0)
    )
    times = outcome.series.time_s
    end_s = float(times[-1]) if len(times) else 1.0
    return share_map(title, strips, Axis("simulated seconds", 0.0, end_s), colour_of(place))
