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
layer, linear in ``c``; ``β`` of a prompt token through a layer; ``μ`` of a token of KV cache of a layer for a second.

1. *Worth.* Each token runs all ``L`` layers, so a second's passes are worth ``X·L·(steps·α(c̄) + in·β)`` in all.
2. *KV cache.* While a decode step with context ``c`` is in a pass or on its way to the next, its request holds at
   least ``c·L`` tokens of cache of a layer; these times don't overlap. Let ``h`` be the least seconds for each layer
   that a step spends on links into nodes like ``i`` (below), and ``h₀`` those of the way home. A pass with ``b`` steps
   that takes ``T`` seconds a layer thus holds ``b·c·L·(T + h)`` for each layer, and ``c̄·L·h₀`` comes on top for each
   step. All nodes have ``Σ k·kv_i(k)``, so, priced, ``Σ μ·k·kv_i(k)`` is at least what is held.
3. *Time.* Let ``λ_i`` be the most that a second of passes on node ``i`` is worth, less what it holds: ``λ_i = max over
   passes (α(c)·b + β·n) / T − μ·L·c·b·(1 + h/T)``, or 0. It is linear in ``c``, so contexts between least and most need
   no look, and a pass of different contexts is worth what one of their mean is. A node has one second a second:
   ``X·L·(steps·α(c̄) + in·β + steps·μ·c̄·h₀) ≤ Σ_i λ_i + μ·k·kv_i(k)``.
4. *Nobody passes more than all.* A node with ``k`` layers runs at most ``k·X·steps`` decode steps through a layer a
   second, and ``k·X·in`` prompt tokens. So for any ``ρ, σ ≥ 0`` the node's passes may count with ``α − ρ`` and
   ``β − σ``, if ``k·X·(ρ·steps + σ·in)`` is added. Let them depend on ``i`` and ``k``.
5. *Any placement.* Replace each node's term by the best over ``k``, with 0 for a node that holds nothing:
   ``X·L·(…) ≤ Σ_i max_k [λ_i(k) + μ·k·kv_i(k) + k·X·(ρ·steps + σ·in)]``. Divided by ``X`` the right side never grows
   with ``X``, so where one ``X`` breaks this, every larger one does.

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
from helix_df.profiles.timing import LayerTiming

TimingOf = Callable[[NodeProfile, int], LayerTiming]
"""Seconds a layer takes on a node that holds so many layers."""

MOST_STEPS = 1 << 20
"""Decode steps of a pass that nobody exceeds."""

ROUNDING = 1e-9
"""Share by which the two sides must differ at least, on the side of a higher bound."""

LOWERED, SAME = 40, 1e-7
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
    """All that the argument knows of a job: layers, groups of nodes, seconds of the way home, and the requests."""

    num_layers: int
    groups: tuple[NodeGroup, ...]
    home_s: float
    load: ServingLoad


@dataclass(frozen=True, slots=True)
class LayerSurcharge:
    """``ρ`` and ``σ`` of step 4: what is taken off the worth of a decode step and of a prompt token."""

    step: float = 0.0
    prompt: float = 0.0


@dataclass(frozen=True, slots=True)
class PassPrices:
    """A rate that prices rule out; the proof is the module's.

    Attributes:
        requests_per_s: the rate.
        least_step, most_step: ``α`` of a decode step with the least and the most context, through a layer.
        prompt: ``β`` of a prompt token through a layer.
        cache: ``μ`` of a token of KV cache of a layer for a second.
        surcharges: by the first node of each group, for 1, 2, 3, … layers.
    """

    kind: ClassVar[str] = "pass prices"
    requests_per_s: float
    least_step: float
    most_step: float
    prompt: float
    cache: float
    surcharges: dict[str, tuple[LayerSurcharge, ...]]

    def evaluate(self, cluster: ServingCluster) -> float:
        """The generated tokens/s that are ruled out; infinity where the prices rule out nothing."""
        numbers = (self.requests_per_s, self.least_step, self.most_step, self.prompt, self.cache)
        if not all(0 <= number < math.inf for number in numbers):
            return math.inf
        needed, offered = self.requests_per_s * worth(self, cluster), offer(self, cluster)
        return self.requests_per_s * cluster.load.output_tokens if offered < needed * (1 - ROUNDING) else math.inf


def worth(prices: PassPrices, cluster: ServingCluster) -> float:
    """What a request is worth, with the cache that it holds on its way home: the left side of step 5 over ``X``."""
    load = cluster.load
    step = prices.least_step + (prices.most_step - prices.least_step) * load.mean_share
    held = prices.cache * load.mean_context * cluster.home_s
    return cluster.num_layers * (load.steps * (step + held) + load.prompt_tokens * prices.prompt)


def offer(prices: PassPrices, cluster: ServingCluster) -> float:
    """What all nodes have to offer a second: the right side of step 5; infinity where a surcharge is no number."""
    total = 0.0
    for group in cluster.groups:
        surcharges = prices.surcharges.get(group.name, ())
        best = 0.0
        for at, held in enumerate(group.holding):
            surcharge = surcharges[at] if at < len(surcharges) else LayerSurcharge()
            if not (0 <= surcharge.step < math.inf and 0 <= surcharge.prompt < math.inf):
                return math.inf
            best = max(best, offered_by(prices, surcharge, held, cluster))
        total += group.count * best
    return total


def offered_by(prices: PassPrices, surcharge: LayerSurcharge, held: HeldLayers, cluster: ServingCluster) -> float:
    """What a node with these layers has to offer a second: the bracket of step 5."""
    load = cluster.load
    passed = surcharge.step * load.steps + surcharge.prompt * load.prompt_tokens
    most = max(0.0, (prices.prompt - surcharge.prompt) * held.passes.prompts_alone_per_s)
    for context in (load.least_context, load.most_context):
        values = pass_values(prices, surcharge, held, cluster, context)
        most = max(most, float(values.max(initial=0.0)))
    return most + prices.cache * held.cache + held.layers * prices.requests_per_s * passed


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
    """The worth of a step less surcharge and the cache it holds on links; of a prompt token less surcharge; and the
    price of a step's cache for a second in a pass. All through a layer."""
    step = prices.most_step if context > cluster.load.least_context else prices.least_step
    kept = prices.cache * cluster.num_layers * context
    return step - surcharge.step - kept * held.link_s, prices.prompt - surcharge.prompt, kept


def lowest_ruled_out(prices: PassPrices, cluster: ServingCluster) -> PassPrices | None:
    """The same prices with the lowest rate that they rule out below theirs; ``None`` if they rule out nothing."""
    value, best = worth(prices, cluster), None
    for _ in range(LOWERED if value > 0 else 0):
        # What is offered at a rate bounds it, and the bound is a rate at which no more is offered.
        rate = offer(prices, cluster) / value * (1 + 3 * ROUNDING)
        lower = replace(prices, requests_per_s=rate)
        close = best is not None and rate > best.requests_per_s * (1 - SAME)
        if close or not math.isfinite(lower.evaluate(cluster)):
            break
        best = prices = lower
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
    groups = tuple(_group(timing_of, load, ways, nodes) for nodes in found.values())
    home = min((ways.into(node, (COORDINATOR,)) for nodes in found.values() for node in nodes), default=0.0)
    return ServingCluster(problem.num_layers, groups, home if math.isfinite(home) else 0.0, load)


def _group(timing_of: TimingOf, load: ServingLoad, ways: _Ways, nodes: list[NodeProfile]) -> NodeGroup:
    node = nodes[0]
    counts = range(1, node.max_layers + 1)
    timings = [timing_of(node, layers) for layers in counts]
    limits = [_most_steps(timing, node.kv_tokens[at], load) for at, timing in enumerate(timings)]
    curves = [LayerTiming(timing.prefill, timing.decode) for timing in timings]
    short = load.shortest_prompt <= 1
    holding = []
    for layers, curve, limit in zip(counts, curves, limits, strict=True):
        # All numbers of layers with the same curves share a table.
        widest = max(other for other, theirs in zip(limits, curves, strict=True) if theirs == curve)
        passes = _at_most(pass_table(curve, widest, short), limit)
        link_s = ways.into(node) / layers + ways.region_s(node)
        cache = float(layers * node.kv_tokens[layers - 1])
        holding.append(HeldLayers(layers, passes, cache, link_s if math.isfinite(link_s) else 0.0))
    return NodeGroup(node.name, len(nodes), tuple(holding))


def _most_steps(timing: LayerTiming, kv_tokens: int, load: ServingLoad) -> int:
    fit = kv_tokens / load.least_context if load.least_context > 0 else MOST_STEPS
    return int(min(fit, timing.max_batch or MOST_STEPS, MOST_STEPS))


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
            named.setdefault(a, []).append((b, link))
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
                    pair = (region, node.region) if region <= node.region else (node.region, region)
                    ways.append(self._seconds("", links.by_region.get(pair, links.default)))
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
