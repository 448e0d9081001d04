"""A bound on generated tokens/s that no placement, no routing and no serving rules exceed, for prices that prove it.

Owns the argument and its evaluation: plain arithmetic in one pass over the passes of ``batch_costs``, no search. Prices
are found elsewhere (``goodput_prices``), and any prices give a true bound.

What it holds for: a cluster that serves requests whose means are a ``ServingLoad``, over a time at whose beginning it
is empty and at whose end the requests that count have ended; so also in the long run. Every node computes one batch at
a time, in passes as ``batch_costs`` takes them, and keeps the KV cache of all requests that it serves for all layers it
holds. A request visits a node once for each token and runs there a range of the layers that the node holds. Requests
that start over compute their tokens anew, which counts as work for nothing; prefixes are not shared.

Proof. Let ``X`` be the requests/s that are served, ``in`` and ``steps`` their mean prompt tokens and decode steps, and
let node ``i`` hold ``k`` layers (if any). Take prices: ``α(c)`` of a decode step with ``c`` tokens of context through a
layer, linear in ``c``; ``β`` of a prompt token through a layer; ``φ`` of a token of context in flight for a second;
``μ`` of a token of KV cache of a layer for a second.

1. *Worth.* Each token runs all ``L`` layers, so a second's passes are worth ``X·L·(steps·α(c̄) + in·β)`` in all.
2. *In flight.* Let ``C`` be the tokens of context of all requests in their decode steps, on average over time. While a
   step with context ``c`` is in a pass or on its way to the next, its request counts with ``c``, and these times don't
   overlap. Let ``h`` be the least seconds for each layer that a step spends on links into nodes like ``i`` (below), and
   ``h₀`` those of the way home. A pass with ``b`` steps that takes ``T`` seconds a layer thus has ``b·c·(T + h)``
   token-seconds for each layer, and each step ``c̄·h₀`` on top; together at most ``C`` a second.
3. *KV cache.* A node keeps the context of its requests for each of its layers: at most ``kv_i(k)`` tokens, and at most
   all that are in flight. Every layer is kept for all in flight. So ``Σ k·min(kv_i(k), C) ≥ L·C``: at every moment, and
   on average since the left side is concave in ``C``.
4. *Time.* Let ``λ_i`` be the most that a second of passes on node ``i`` is worth, less what is in flight: ``λ_i = max
   over passes (α(c)·b + β·n) / T − φ·c·b·(1 + h/T)``, or 0. It is linear in ``c``, so contexts between least and most
   need no look, and a pass of different contexts is worth what one of their mean is. A node has one second a second:
   with ``φ`` times step 2 and ``μ`` times step 3,
   ``X·(L·steps·α(c̄) + L·in·β + steps·φ·c̄·h₀) ≤ Σ_i [λ_i + μ·k·min(kv_i(k), C)] + (φ − μ·L)·C``.
5. *Nobody passes more than all.* A node with ``k`` layers runs at most ``k·X·steps`` decode steps through a layer a
   second, and ``k·X·in`` prompt tokens. So for any ``ρ, σ ≥ 0`` the node's passes may count with ``α − ρ`` and
   ``β − σ``, if ``k·X·(ρ·steps + σ·in)`` is added. Let them depend on ``i`` and ``k``.
6. *Any placement.* Replace each node's bracket by the best over ``k``, with 0 for a node that holds nothing, and ``C``
   by the end of a range that makes most of its term (in ``min`` by the upper one). Where this is broken, no cluster
   serves ``X`` with a ``C`` of that range. Ranges that hold all that fits the caches, each with prices of its own, rule
   out ``X``. Both sides are convex in ``X``: what breaks it at two rates breaks it between them. For ``φ ≥ μ·L`` the
   right side over ``X`` never grows, so that one rate stands for all above.

Drafted tokens. A decode step may bring up to ``m − 1`` tokens behind its own, of which those stay that would have been
drawn. Each counts as a decode step of the passes above, whether it stays or not; so what is served is no more than
what is computed. But a step of ``m`` tokens holds the context of one request, the tokens under way included: what
``b`` tokens hold for a pass, on links and on the way home (2) is at least an ``m``-th of ``b`` contexts, and cache for
``b / m`` contexts is enough. No share of right drafts is assumed: the bound holds for any.

Links (``h``). Entering node ``i`` takes at least the latency and one token's time ``m_i`` of its best link, and a visit
runs at most ``k`` layers: ``m_i / k``. Whoever runs layers in a region comes into it from outside once at least, over
its best such link, and runs at most as many layers there as its nodes can hold: what that takes more than ``m_i``, over
so many layers, comes on top.

A batch of ``b`` steps needs cache for ``b`` contexts on the node, so passes with more are left out; so are those beyond
the device's own limit. Waiting counts as nothing, and that is what the bound leaves: see ``docs/goodput.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from helix_df.graph.batch_costs import PassTable, pass_table
from helix_df.graph.capacities import Floats
from helix_df.graph.problem import COORDINATOR, Link, NodeProfile, Problem
from helix_df.graph.serving_load import ServingLoad
from helix_df.layers import LayerRange
from helix_df.profiles.timing import LayerTiming

TimingOf = Callable[[NodeProfile, int], LayerTiming]
"""Seconds a layer takes on a node that holds so many layers."""

MOST_STEPS = 1 << 20
"""Decode steps of a pass that nobody exceeds."""

ROUNDING = 1e-9
"""Share by which the two sides must differ at least, on the side of a higher bound."""

LOWERED, SAME = 20, 1e-5
"""Times that a rate is lowered for the same prices at most, and by which share at least."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldLayers:
    """A node that holds ``layers`` layers: its passes, its cache (tokens times layers), and ``h`` of the proof."""

    layers: int
    passes: PassTable
    cache: float
    link_s: float


@dataclass(frozen=True, slots=True, eq=False)
class NodeGroup:
    """Nodes that are alike: the first one's name, how many, and what they are with 1, 2, 3, … layers."""

    name: str
    count: int
    holding: tuple[HeldLayers, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ServingCluster:
    """All that the argument knows of a job: layers, groups of nodes, seconds of the way home, and the requests.

    ``step_tokens``: tokens that a decode step of a request brings at most, drafted ones among them.
    """

    num_layers: int
    groups: tuple[NodeGroup, ...]
    home_s: float
    load: ServingLoad
    step_tokens: int = 1


@dataclass(frozen=True, slots=True)
class LayerSurcharge:
    """``ρ`` and ``σ`` of step 5: what is taken off the worth of a decode step and of a prompt token."""

    step: float = 0.0
    prompt: float = 0.0


@dataclass(frozen=True, slots=True)
class PassPrices:
    """A rate that prices rule out while the context in flight is between two numbers; the proof is the module's.

    Attributes:
        requests_per_s: the rate.
        least_in_flight, most_in_flight: tokens of context in flight, on average.
        least_step, most_step: ``α`` of a decode step with the least and the most context, through a layer.
        prompt: ``β`` of a prompt token through a layer.
        flight: ``φ`` of a token of context in flight for a second.
        cache: ``μ`` of a token of KV cache of a layer for a second.
        surcharges: by the first node of each group, for 1, 2, 3, … layers.
    """

    requests_per_s: float
    least_in_flight: float
    most_in_flight: float
    least_step: float
    most_step: float
    prompt: float
    flight: float
    cache: float
    surcharges: dict[str, tuple[LayerSurcharge, ...]]

    @property
    def are_sound(self) -> bool:
        """Whether all are numbers from 0 on."""
        prices = self.least_step, self.most_step, self.prompt, self.flight, self.cache
        numbers = (self.requests_per_s, self.least_in_flight, self.most_in_flight, *prices)
        surcharges = (number for row in self.surcharges.values() for one in row for number in (one.step, one.prompt))
        return all(0 <= number < math.inf for number in (*numbers, *surcharges))

    def rule_out(self, cluster: ServingCluster, rate: float) -> bool:
        """Whether the inequality of step 6 is broken at this rate, while the context in flight is as they say."""
        at_rate = replace(self, requests_per_s=rate)
        return offer(at_rate, cluster) < rate * worth(at_rate, cluster) * (1 - ROUNDING)


@dataclass(frozen=True, slots=True)
class FlightPrices:
    """Prices that rule out a rate and all above whatever the context in flight is (``whole``), and prices by ranges of
    it (``ranges``, in order) that rule out what is between that rate and a lower one."""

    kind: ClassVar[str] = "prices by context in flight"
    whole: PassPrices
    ranges: tuple[PassPrices, ...] = ()

    def evaluate(self, cluster: ServingCluster) -> float:
        """The generated tokens/s that are ruled out; infinity where the prices rule out nothing."""
        whole, ranges = self.whole, self.ranges
        if not all(prices.are_sound for prices in (whole, *ranges)):
            return math.inf
        # Otherwise what is offered, less what is in flight, may grow faster than the rate.
        grows_slower = whole.flight >= whole.cache * cluster.num_layers
        if not (grows_slower and _cover((whole,), cluster) and whole.rule_out(cluster, whole.requests_per_s)):
            return math.inf
        most = whole.requests_per_s
        if ranges and _cover(ranges, cluster):
            proven = (_between(prices, most, cluster) for prices in ranges)
            most = min(most, max(proven))
        return most * cluster.load.output_tokens


def _between(prices: PassPrices, highest: float, cluster: ServingCluster) -> float:
    """The rate down from ``highest`` that is ruled out. A sum of maxima of linear terms is convex in the rate, so that
    the inequality is broken between two rates at which it is."""
    rate = prices.requests_per_s
    ruled_out = rate <= highest and all(prices.rule_out(cluster, one) for one in (rate, highest))
    return rate if ruled_out else highest


def _cover(ranges: tuple[PassPrices, ...], cluster: ServingCluster) -> bool:
    """Whether the context in flight, whatever it is, lies in one of the ranges."""
    reached = 0.0
    for prices in ranges:
        if prices.least_in_flight > reached:
            return False
        reached = max(reached, prices.most_in_flight)
    return reached >= most_in_flight(cluster)


def most_in_flight(cluster: ServingCluster) -> float:
    """Tokens of context for which the caches of all nodes have room in every layer, at most."""
    caches = (group.count * max(held.cache for held in group.holding) for group in cluster.groups)
    return float(sum(caches) / cluster.num_layers)


def worth(prices: PassPrices, cluster: ServingCluster) -> float:
    """What a request is worth, with the context that it has in flight on its way home: the left side of step 6 over
    ``X``."""
    load = cluster.load
    step = prices.least_step + (prices.most_step - prices.least_step) * load.mean_share
    in_layers = cluster.num_layers * (load.steps * step + load.prompt_tokens * prices.prompt)
    return in_layers + load.steps * prices.flight * load.mean_context / cluster.step_tokens * cluster.home_s


def offer(prices: PassPrices, cluster: ServingCluster) -> float:
    """What all nodes have to offer a second, and what is in flight: the right side of step 6."""
    per_token = prices.flight - prices.cache * cluster.num_layers
    total = per_token * (prices.most_in_flight if per_token > 0 else prices.least_in_flight)
    for group in cluster.groups:
        surcharges = prices.surcharges.get(group.name, ())
        best = 0.0
        for at, held in enumerate(group.holding):
            surcharge = surcharges[at] if at < len(surcharges) else LayerSurcharge()
            best = max(best, offered_by(prices, surcharge, held, cluster))
        total += group.count * best
    return total


def offered_by(prices: PassPrices, surcharge: LayerSurcharge, held: HeldLayers, cluster: ServingCluster) -> float:
    """What a node with these layers has to offer a second: the bracket of step 6."""
    load = cluster.load
    passed = surcharge.step * load.steps + surcharge.prompt * load.prompt_tokens
    most = max(0.0, (prices.prompt - surcharge.prompt) * held.passes.prompts_alone_per_s)
    for context in (load.least_context, load.most_context):
        values = pass_values(prices, surcharge, held, cluster, context)
        most = max(most, float(values.max(initial=0.0)))
    cache = min(held.cache, held.layers * prices.most_in_flight)
    return most + prices.cache * cache + held.layers * prices.requests_per_s * passed


def pass_values(
    prices: PassPrices, surcharge: LayerSurcharge, held: HeldLayers, cluster: ServingCluster, context: float
) -> Floats:
    """What a second of each pass with decode steps of this context is worth, less what it holds: shape (passes,)."""
    passes = held.passes
    step, prompt, kept = net_prices(prices, surcharge, held, cluster, context)
    rates = passes.steps_per_s if step > 0 else passes.least_steps_per_s
    values: Floats = step * rates + prompt * passes.prompts_per_s - kept * passes.steps
    return values


def net_prices(
    prices: PassPrices, surcharge: LayerSurcharge, held: HeldLayers, cluster: ServingCluster, context: float
) -> tuple[float, float, float]:
    """The worth of a step less surcharge and its context on links; of a prompt token less surcharge; and the price of a
    step's context in a pass for a second. All through a layer."""
    step = prices.most_step if context > cluster.load.least_context else prices.least_step
    kept = prices.flight * context / cluster.step_tokens
    return step - surcharge.step - kept * held.link_s, prices.prompt - surcharge.prompt, kept


def lowest_ruled_out(prices: PassPrices, cluster: ServingCluster, highest: float) -> PassPrices | None:
    """The same prices with the lowest rate from which on they rule out all up to ``highest``; ``None`` without any."""
    value, best, rate = worth(prices, cluster), None, highest
    for _ in range(LOWERED if value > 0 else 0):
        # What is offered at a rate bounds it, and the bound is a rate at which no more is offered.
        rate = max(0.0, offer(replace(prices, requests_per_s=rate), cluster) / value * (1 + 3 * ROUNDING))
        close = best is not None and rate >= best.requests_per_s * (1 - SAME)
        if close or rate > highest or not prices.rule_out(cluster, rate):
            break
        best = replace(prices, requests_per_s=rate)
    return best


# ------------------------------------------------------------------ from a problem to the numbers of the argument


def serving_cluster(problem: Problem, timing_of: TimingOf, load: ServingLoad) -> ServingCluster:
    """A problem, with the seconds that passes take, in the argument's numbers."""
    ways = _Ways.of(problem)
    found: dict[tuple[object, ...], list[NodeProfile]] = {}
    for node in problem.nodes:
        if node.max_layers:
            key = (node.gpu, node.tokens_per_s, node.kv_tokens, ways.into(node), ways.region_s(node))
            found.setdefault(key, []).append(node)
    step_tokens = 1 if problem.origin is None else 1 + problem.origin.requests.drafted.drafts
    groups = tuple(_group(timing_of, load, ways, nodes, step_tokens) for nodes in found.values())
    home = min((ways.into(node, (COORDINATOR,)) for nodes in found.values() for node in nodes), default=0.0)
    return ServingCluster(problem.num_layers, groups, home if math.isfinite(home) else 0.0, load, step_tokens)


def _group(
    timing_of: TimingOf, load: ServingLoad, ways: _Ways, nodes: list[NodeProfile], step_tokens: int
) -> NodeGroup:
    node = nodes[0]
    counts = range(1, node.max_layers + 1)
    timings = [timing_of(node, layers) for layers in counts]
    caches = [
        tokens * _freed(ways.problem, layers, load) for layers, tokens in zip(counts, node.kv_tokens, strict=True)
    ]
    limits = [_most_steps(timing, caches[at], load, step_tokens) for at, timing in enumerate(timings)]
    curves = [LayerTiming(timing.prefill, timing.decode) for timing in timings]
    short = load.shortest_prompt <= 1
    holding = []
    for layers, curve, limit in zip(counts, curves, limits, strict=True):
        # All numbers of layers with the same curves share a table.
        widest = max(other for other, theirs in zip(limits, curves, strict=True) if theirs == curve)
        passes = _at_most(pass_table(curve, widest, short), limit)
        link_s = ways.into(node) / layers + ways.region_s(node)
        cache = float(layers * caches[layers - 1])
        holding.append(HeldLayers(layers, passes, cache, link_s if math.isfinite(link_s) else 0.0))
    return NodeGroup(node.name, len(nodes), tuple(holding))


def _freed(problem: Problem, layers: int, load: ServingLoad) -> float:
    """How many times more context may fit since KV cache is freed behind a window, for any ``layers`` in a row.

    A layer takes at least ``min(c, window - 1)`` tokens of a context of ``c``, and the longest gains most.
    """
    if problem.origin is None or not problem.origin.geometry.attention.windows:
        return 1.0
    starts = range(problem.num_layers - layers + 1)
    found = [problem.windowed(LayerRange(start, start + layers)) for start in starts]
    shares = (
        (layers - windowed + windowed * min(1.0, max(1, window - 1) / load.most_context)) / layers
        for windowed, window in found
        if windowed
    )
    return 1 / min(shares, default=1.0) if load.most_context > 0 else 1.0


def _most_steps(timing: LayerTiming, kv_tokens: float, load: ServingLoad, step_tokens: int) -> int:
    """Tokens of a pass's decode steps at most."""
    fit = kv_tokens / load.least_context if load.least_context > 0 else MOST_STEPS
    return int(min(step_tokens * min(fit, timing.max_batch or MOST_STEPS), MOST_STEPS))


def _at_most(passes: PassTable, limit: int) -> PassTable:
    """The rows of passes with at most so many decode steps."""
    kept = passes.steps <= limit
    if kept.all():
        return passes
    rates = passes.steps_per_s[kept], passes.least_steps_per_s[kept], passes.prompts_per_s[kept]
    return PassTable(passes.steps[kept], *rates, prompts_alone_per_s=passes.prompts_alone_per_s)


@dataclass(frozen=True, slots=True)
class _Ways:
    """The best links into nodes and regions, looked up by regions and named pairs, so that 1,000 nodes take no time."""

    problem: Problem
    named: dict[str, tuple[tuple[str, Link], ...]]
    fits: dict[str, int]

    @classmethod
    def of(cls, problem: Problem) -> _Ways:
        named: dict[str, list[tuple[str, Link]]] = {}
        for (a, b), link in problem.links.by_node.items():
            named.setdefault(b, []).append((a, link))
        fits: dict[str, int] = {}
        for node in problem.nodes:
            fits[node.region] = fits.get(node.region, 0) + node.max_layers
        return cls(problem, {name: tuple(links) for name, links in named.items()}, fits)

    def into(self, node: NodeProfile, tails: tuple[str, ...] | None = None, outside: bool = False) -> float:
        """Least seconds of a token's way to ``node``: from anybody, from ``tails`` or from outside its region.

        The coordinator is outside of every region. Infinity where there is no link.
        """
        links, regions = self.problem.links, self.problem.links.regions
        ways = [self._seconds(COORDINATOR, links.find(COORDINATOR, node.name))]
        if tails is None:
            inner = sorted({other.region for other in self.problem.nodes})
            for region in inner:
                if not (outside and region == node.region):
                    ways.append(self._seconds("", links.between(region, node.region)))
            for other, link in self.named.get(node.name, ()):
                if other != COORDINATOR and not (outside and regions.get(other) == node.region):
                    ways.append(self._seconds(other, link))
        return min(ways)

    def region_s(self, node: NodeProfile) -> float:
        """What entering the node's region takes more than the best links into its nodes, for each layer run there."""
        most = min(self.fits[node.region], self.problem.num_layers)
        mates = [mate for mate in self.problem.nodes if mate.region == node.region and mate.max_layers]
        more = min(self._more_from_outside(mate) for mate in mates)
        return more / most if math.isfinite(more) else 0.0

    def _more_from_outside(self, node: NodeProfile) -> float:
        outside, anywhere = self.into(node, outside=True), self.into(node)
        return outside - anywhere if math.isfinite(outside) else math.inf

    def _seconds(self, tail: str, link: Link | None) -> float:
        if link is None:
            return math.inf
        size = self.problem.token_bytes if tail == COORDINATOR else self.problem.packed_bytes(link.codec)
        return link.latency_s + size / link.bytes_per_s
