"""Prices for the bound on goodput (``goodput_bound``): a small linear program that grows by the work it forgot.

Owns the search. What it finds proves nothing by itself: the bound is what an evaluation says.

For a fixed rate the conditions of the argument are linear in the prices, and the least that all nodes then offer for
requests that are worth 1 is the lowest bound. A node with so many layers can work in many ways: shares of its time for
some passes, as far as nobody passes more than all. Each is a condition on the four prices, and given prices the best
one is a program of three rows, whose dual prices are the surcharges. So the program of the prices begins with few ways
and takes in what its solution forgets (Dantzig and Wolfe). The next rate is the bound of the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from helix_df.graph.capacities import Floats
from helix_df.graph.goodput_bound import (
    FlightPrices,
    HeldLayers,
    LayerSurcharge,
    PassPrices,
    ServingCluster,
    TimingOf,
    lowest_ruled_out,
    most_in_flight,
    net_prices,
    offered_by,
    pass_values,
    serving_cluster,
)
from helix_df.graph.price_search import maximum_and_duals
from helix_df.graph.problem import Problem
from helix_df.graph.serving_load import ServingLoad

RATES, FEWER = 8, 3
"""Rates for which prices are searched at most, from no context in flight on and for a range of it."""

CLOSE = 5e-4
"""Share by which the next rate must be lower for the search to go on."""

CUTS = 12
"""Times that ways to work are added for one rate at most."""

FORGOTTEN = 1e-5
"""Share of all nodes' offer from which a way to work counts as forgotten."""

FASTEST = 1e12
"""Requests/s that nobody serves, to begin with."""

FLIGHT, CACHE, OFFERS = 3, 4, 5
"""Places among the program's rows: after those of steps with the least and the most context and of prompt tokens, the
context in flight, the cache, and then what a node of each group offers."""

DEARLY = 100.0
"""Reward for caches that hold the least context in flight, in shares of what all nodes offer."""

HALVED, PATIENCE = 12, 2
"""Times that a range of context in flight is halved at most, and in a row without gain."""

NARROW, WIDEST = 1.02, 64.0
"""Ratio of its ends from which a range is narrow enough, and the ratio that a range from 0 on is taken to have."""


@dataclass(frozen=True, slots=True)
class GoodputBound:
    """Generated tokens/s that nothing exceeds, and the prices that prove it."""

    tokens_per_s: float
    witness: FlightPrices


def goodput_bound(problem: Problem, timing_of: TimingOf, load: ServingLoad) -> GoodputBound | None:
    """The lowest bound that the search finds; ``None`` where no prices prove any, as for nodes that hold nothing."""
    cluster = serving_cluster(problem, timing_of, load)
    found = find_flight_prices(cluster)
    return None if found is None else GoodputBound(found.evaluate(cluster), found)


def find_flight_prices(cluster: ServingCluster) -> FlightPrices | None:
    """Prices that rule out the lowest rate that the search finds: the range of context in flight with the highest rate
    is halved, again and again."""
    if not cluster.groups:
        return None
    search, most = PassPriceSearch(cluster), most_in_flight(cluster) * (1 + 1e-9)
    whole = search.lowest(0.0, most, FASTEST)
    if whole is None:
        return None
    ranges, in_vain = [whole], 0
    for _ in range(HALVED):
        widest = max(ranges, key=lambda prices: prices.requests_per_s)
        low, high = widest.least_in_flight, widest.most_in_flight
        if high <= low * NARROW or in_vain > PATIENCE:
            break
        middle = math.sqrt(max(low, high / WIDEST) * high)
        at = ranges.index(widest)
        halves = [replace(widest, most_in_flight=middle), replace(widest, least_in_flight=middle)]
        ranges[at : at + 1] = [search.lower(half) for half in halves]
        highest = max(prices.requests_per_s for prices in ranges)
        in_vain = in_vain + 1 if highest > widest.requests_per_s * (1 - CLOSE) else 0
    return FlightPrices(whole, tuple(ranges))


@dataclass(frozen=True, slots=True)
class WayToWork:
    """A second of a node of a group that holds so many layers: for each layer, steps of the least and the most context,
    prompt tokens, and the context that is in flight meanwhile. ``cache``: of the node, tokens times layers."""

    group: int
    layers: int
    cache: float
    steps: tuple[float, float] = (0.0, 0.0)
    prompts: float = 0.0
    held: float = 0.0

    @property
    def row(self) -> tuple[float, ...]:
        """Layers, steps of the least and the most context, prompt tokens, what is in flight, and cache."""
        return (self.layers, *self.steps, self.prompts, self.held, self.cache)


class PassPriceSearch:
    """The program for one rate after another; ways to work once found are kept."""

    def __init__(self, cluster: ServingCluster) -> None:
        self.cluster = cluster
        self.units = _units(cluster)
        self.ways: list[WayToWork] = []
        self.surcharges = [[LayerSurcharge()] * len(group.holding) for group in cluster.groups]
        for at, group in enumerate(cluster.groups):
            for held in group.holding:
                self._begin_with(at, held)

    def _begin_with(self, group: int, held: HeldLayers) -> None:
        """Idle, prompts alone, passes with the fewest steps and the most steps/s: so no price is without a limit."""
        idle, passes, load = WayToWork(group, held.layers, held.cache), held.passes, self.cluster.load
        self.ways += [idle, replace(idle, prompts=passes.prompts_alone_per_s)]
        for at in {0, int(passes.steps_per_s.argmax())} if len(passes.steps) else ():
            steps = float(passes.steps_per_s[at])
            for longest, context in enumerate(_contexts(load)):
                kept = context / self.cluster.step_tokens * (float(passes.steps[at]) + held.link_s * steps)
                both = (0.0, steps) if longest else (steps, 0.0)
                self.ways.append(replace(idle, steps=both, held=kept))

    def lowest(self, low: float, high: float, rate: float) -> PassPrices | None:
        """Prices that rule out the lowest rate up to the given one for a range of context in flight."""
        best: PassPrices | None = None
        highest = rate
        for _ in range(RATES if low <= 0.0 else FEWER):
            found = self._prices(rate, low, high)
            if low <= 0.0:
                found = replace(found, flight=max(found.flight, found.cache * self.cluster.num_layers))
            lower = lowest_ruled_out(found, self.cluster, highest)
            if lower is None or (best is not None and lower.requests_per_s >= best.requests_per_s):
                break
            enough = lower.requests_per_s > rate * (1 - CLOSE)
            best, rate = lower, lower.requests_per_s
            if enough or rate <= 0:
                break
        return best

    def lower(self, known: PassPrices) -> PassPrices:
        """Prices that rule out a lower rate than known ones for their range, or those."""
        found = self.lowest(known.least_in_flight, known.most_in_flight, known.requests_per_s)
        return known if found is None else found

    def _prices(self, rate: float, low: float, high: float) -> PassPrices:
        """Good prices for a rate and a range."""
        found = self._solve(rate, low, high)
        for _ in range(CUTS):
            if not self._take_in(found[0], found[1], rate):
                break
            found = self._solve(rate, low, high)
        return self._with_surcharges(found[0])

    def _with_surcharges(self, prices: PassPrices) -> PassPrices:
        names = [group.name for group in self.cluster.groups]
        return replace(prices, surcharges={name: tuple(row) for name, row in zip(names, self.surcharges, strict=True)})

    def _solve(self, rate: float, low: float, high: float) -> tuple[PassPrices, Floats]:
        """The best prices for the ways that are known, and what a node of each group then offers.

        They are the dual prices of the program that serves the most requests in these ways: a row for each price, that
        no more is needed than there is, and one for the nodes of each group. The context in flight is ``low`` and some
        more, up to ``high``; that the caches hold ``low`` is not demanded but rewarded, and dearly.
        """
        cluster, load, units = self.cluster, self.cluster.load, self.units
        needs = [load.steps * (1 - load.mean_share), load.steps * load.mean_share, load.prompt_tokens]
        needed = np.array([*(cluster.num_layers * need for need in needs), 0.0, 0.0])
        needed[FLIGHT] = load.steps * load.mean_context / cluster.step_tokens * cluster.home_s
        needed *= units
        rows = np.zeros((OFFERS + len(cluster.groups) + 2, 3 + len(self.ways)))
        rows[:OFFERS, 0] = needed / needed.max()
        token = units[FLIGHT], cluster.num_layers * units[CACHE]
        rows[FLIGHT, 1], rows[CACHE, 1], rows[-2, 1] = -token[0], token[1], token[1]
        rows[CACHE, 2], rows[-1, 2] = 1.0, 1.0
        rows[:OFFERS, 3:] = -units[:, None] * self._done(rate, high)
        rows[OFFERS + np.array([way.group for way in self.ways]), 3 + np.arange(len(self.ways))] = 1.0
        limits = np.zeros(len(rows))
        limits[FLIGHT] = low * token[0]
        limits[OFFERS:-2] = [group.count for group in cluster.groups]
        limits[-2:] = (high - low) * token[1], low * token[1]
        goal = np.zeros(rows.shape[1])
        goal[0], goal[2] = 1.0, DEARLY
        _, duals = maximum_and_duals(goal, rows, limits)
        least_step, most_step, prompt, flight, cache = (float(price) for price in duals[:OFFERS] * units)
        return PassPrices(rate, low, high, least_step, most_step, prompt, flight, cache, {}), duals[OFFERS:-2]

    def _done(self, rate: float, high: float) -> Floats:
        """What each way does for each of the prices' rows.

        As much less of everything as it takes that no more steps and prompt tokens pass a layer than all, and no more
        cache than for what is in flight.
        """
        layers, least, most, prompts, held, cache = np.array([way.row for way in self.ways]).T
        passing = layers * rate * np.array([[self.cluster.load.steps], [self.cluster.load.prompt_tokens]])
        share = (passing / np.maximum(np.array([least + most, prompts]), 1e-12)).min(axis=0).clip(max=1.0)
        done: Floats = np.array(
            [share * least, share * most, share * prompts, -share * held, np.minimum(cache, layers * high)]
        )
        return done

    def _take_in(self, prices: PassPrices, offers: Floats, rate: float) -> bool:
        """Take in the best way of every group and number of layers that is worth more than offered; whether any was."""
        added = False
        offered = sum(group.count * offer for group, offer in zip(self.cluster.groups, offers, strict=True))
        for at, group in enumerate(self.cluster.groups):
            limit = float(offers[at]) + FORGOTTEN * float(offered)
            for place, held in enumerate(group.holding):
                # Any surcharge gives an upper bound, and those of before are often good enough.
                if offered_by(prices, self.surcharges[at][place], held, self.cluster) <= limit:
                    continue
                way, surcharge = self._best_way(prices, at, held, rate)
                self.surcharges[at][place] = surcharge
                if offered_by(prices, surcharge, held, self.cluster) > limit:
                    self.ways.append(way)
                    added = True
        return added

    def _best_way(
        self, prices: PassPrices, group: int, held: HeldLayers, rate: float
    ) -> tuple[WayToWork, LayerSurcharge]:
        """The best shares of a second for passes, nobody passing more than all, and the surcharges that say so."""
        cluster, load, passes = self.cluster, self.cluster.load, held.passes
        free, count = LayerSurcharge(), len(passes.steps)
        contexts = _contexts(load)
        steps, prompts, kept = [np.zeros(1)], [np.array([passes.prompts_alone_per_s])], [np.zeros(1)]
        values = [np.array([prices.prompt * passes.prompts_alone_per_s])]
        for context in contexts:
            step, _, _ = net_prices(prices, free, held, cluster, context)
            rates = passes.steps_per_s if step > 0 else passes.least_steps_per_s
            steps.append(rates)
            prompts.append(passes.prompts_per_s)
            kept.append(context / cluster.step_tokens * (passes.steps + held.link_s * rates))
            values.append(pass_values(prices, free, held, cluster, context))
        all_steps, all_prompts = np.concatenate(steps), np.concatenate(prompts)
        most = np.maximum(held.layers * rate * np.array([load.steps, load.prompt_tokens]), 1e-9)
        rows = np.array([np.ones(len(all_steps)), all_steps / most[0], all_prompts / most[1]])
        shares, duals = maximum_and_duals(np.concatenate(values), rows, np.ones(3))
        surcharge = LayerSurcharge(float(duals[1] / most[0]), float(duals[2] / most[1]))
        by_context = [
            float(shares[1 + at * count : 1 + (at + 1) * count] @ steps[1 + at]) for at in range(len(contexts))
        ]
        return WayToWork(
            group,
            held.layers,
            held.cache,
            (by_context[0], sum(by_context[1:])),
            float(shares @ all_prompts),
            float(shares @ np.concatenate(kept)),
        ), surcharge


def _contexts(load: ServingLoad) -> tuple[float, ...]:
    """The least and the most context; one where they are the same."""
    return (load.least_context, load.most_context)[: 1 if load.most_context <= load.least_context else 2]


def _units(cluster: ServingCluster) -> Floats:
    """What 1 is of each price: so that what all nodes offer is near 1."""
    cache = steps = prompts = 0.0
    for group in cluster.groups:
        tables = [held.passes for held in group.holding]
        cache += group.count * max(held.cache for held in group.holding)
        steps += group.count * max(float(table.steps_per_s.max(initial=0.0)) for table in tables)
        prompts += group.count * max(table.prompts_alone_per_s for table in tables)
    in_flight = cache / cluster.num_layers
    units: Floats = 1 / np.maximum(np.array([steps, steps, prompts, in_flight, cache]), 1e-9)
    return units
