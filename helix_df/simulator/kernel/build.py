"""From a setup, a trace and options to the tables and numbers that the loop runs on.

Routers see nodes as their place in the setup, so that what a node is called changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from helix_df.errors import SimulationError
from helix_df.graph.flow import EdgeFlow
from helix_df.graph.problem import COORDINATOR
from helix_df.profiles.timing import LayerTiming
from helix_df.rules.admission import expected_answer
from helix_df.rules.mended_flow import mended_flow
from helix_df.rules.routing import Adjacency, leading_to_sink
from helix_df.rules.schedulers.api import HopObserver, HopRouter, TokenCounter
from helix_df.rules.schedulers.registry import follows_flow, mends_flow
from helix_df.rules.sending import goes_apart
from helix_df.rules.speculation import further_token_s
from helix_df.simulator.kernel.drafts import TIMED_TOKENS
from helix_df.simulator.kernel.memory import Array, record_of
from helix_df.simulator.kernel.tables import (
    BY_ASKING,
    BY_KV,
    BY_TOKENS,
    BY_TURNS,
    HOLD,
    NO_LIMIT,
    NOTHING,
    SATURATE,
    Fixed,
    FixedLink,
    FixedRequest,
    FixedStage,
    Rules,
    Table,
)
from helix_df.simulator.options import FeedByKv, HoldInFlight, NodeEvent, Options, Saturate
from helix_df.simulator.setup import LinkSetup, Setup, StageSetup
from helix_df.simulator.trace import Trace

IN_THE_LOOP = {"flow": BY_TURNS, "flow-tokens": BY_TOKENS}
"""Schedulers whose turns the loop takes itself; all others are asked."""

Weights = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class HopNetwork:
    """Who can send to whom, by codes: a stage's place in the setup in five digits.

    ``flows`` are the plan's, and after each event of a node, in order of time, the one that requests go by from then
    on; a single one stays in force. ``links`` are those of the setup that some request may take at some time;
    ``adjacency`` the next hops from every endpoint.
    """

    setup: Setup
    codes: Mapping[str, str]
    flows: tuple[tuple[EdgeFlow, ...], ...]
    adjacency: Adjacency
    links: tuple[LinkSetup, ...]

    @property
    def edges(self) -> tuple[EdgeFlow, ...]:
        """The flow at first."""
        return self.flows[0]

    @property
    def numbers(self) -> dict[tuple[str, str], int]:
        """Places of links by codes of tail and head."""
        return {(self.codes[link.tail], self.codes[link.head]): at for at, link in enumerate(self.links)}

    def stage(self, name: str) -> int:
        """The place of the stage of that name.

        Raises:
            SimulationError: if there is none.
        """
        if name not in self.codes or name == COORDINATOR:
            names = ", ".join(stage.name for stage in self.setup.stages)
            raise SimulationError("there is no such node in the plan", where="events", found=name, expected=names)
        return int(self.codes[name])


def network_of(setup: Setup, options: Options) -> HopNetwork:
    """The hops that requests may take.

    Raises:
        SimulationError: if none leads through all layers.
    """
    codes = {stage.name: f"{index:05d}" for index, stage in enumerate(setup.stages)} | {COORDINATOR: COORDINATOR}
    flows = tuple(
        tuple(EdgeFlow(codes[edge.tail], codes[edge.head], edge.tokens_per_s) for edge in edges)
        for edges in _flows(setup, options)
    )
    flowing = {(edge.tail, edge.head) for edges in flows for edge in edges if edge.tokens_per_s > 0}
    only_flow = options.ways == "flow" or follows_flow(options.scheduler)
    pairs = [(codes[link.tail], codes[link.head]) for link in setup.links]
    adjacency = leading_to_sink([pair for pair in pairs if not only_flow or pair in flowing])
    if not adjacency.get(COORDINATOR):
        raise SimulationError("no pipeline leads through all layers", where=setup.name)
    links = tuple(link for link in setup.links if codes[link.head] in adjacency.get(codes[link.tail], ()))
    return HopNetwork(setup, codes, flows, adjacency, links)


def in_order(events: Sequence[NodeEvent]) -> list[NodeEvent]:
    """Events as they happen."""
    return sorted(events, key=lambda event: event.time_s)


def joins_later(events: Sequence[NodeEvent]) -> frozenset[str]:
    """Nodes that are away until they join for the first time."""
    first = {event.node: event.up for event in reversed(in_order(events))}
    return frozenset(node for node, up in first.items() if up)


def _flows(setup: Setup, options: Options) -> list[tuple[EdgeFlow, ...]]:
    """The flow at first and after each event; the plan's alone where nobody goes by another."""
    if setup.ways is None or not options.events or not mends_flow(options.scheduler):
        return [setup.edges]
    away = set(joins_later(options.events))
    flows = [mended_flow(setup.ways, setup.edges, lambda name: name not in away)]
    for event in in_order(options.events):
        (away.discard if event.up else away.add)(event.node)
        flows.append(mended_flow(setup.ways, setup.edges, lambda name: name not in away))
    return flows


def stage_rows(network: HopNetwork, options: Options) -> list[FixedStage]:
    """The stages, with what limits their batches; without their curves."""
    return [_stage(network, stage, options) for stage in network.setup.stages]


def _stage(network: HopNetwork, stage: StageSetup, options: Options) -> FixedStage:
    placement, layers = network.setup.placement, stage.layers
    tails = [link.tail for link in network.links if link.head == stage.name]
    stops = {placement[tail].stop if tail != COORDINATOR else 0 for tail in tails}
    mixed = any(stop != layers.start for stop in stops)
    sent = [number for number, link in enumerate(network.links) if link.tail == stage.name]
    limits = [limit for limit in (stage.max_batch or options.max_batch, stage.timing.max_batch) if limit is not None]
    max_batch = min(limits) if limits else NO_LIMIT
    frees = options.sends_messages and not options.kv_by_layer
    return FixedStage(
        start=layers.start,
        width=len(layers),
        capacity=stage.kv_tokens // options.kv_page_tokens * options.kv_page_tokens * len(layers),
        layered=mixed and options.layer_steps and len(layers) > 1,
        mixed=mixed,
        max_batch=max_batch,
        max_prompts=stage.timing.max_prompts or NO_LIMIT,
        max_context=max_batch * options.context_per_slot if options.context_per_slot else NOTHING,
        prefill_budget=stage.max_prefill_tokens or options.max_prefill_tokens or NO_LIMIT,
        only_link=sent[0] if len(sent) == 1 else NOTHING,
        windowed=stage.windowed if frees else 0,
        window=stage.kv_window if frees else 0,
        more_s=further_token_s(stage.timing.prefill_s(TIMED_TOKENS), TIMED_TOKENS, stage.timing.decode_s(1)),
    )


def link_rows(network: HopNetwork, options: Options) -> tuple[list[FixedLink], list[float]]:
    """The links, and bytes/s of the NICs that some of them share."""
    stages, rows = network.setup.stages, []
    for link in network.links:
        size = link.token_bytes * link.ratio
        tail, head = _place(network, link.tail), _place(network, link.head)
        stop = stages[tail].layers.stop if tail != NOTHING else 0
        layers = stages[head].layers if head != NOTHING else None
        rows.append(
            FixedLink(
                tail=tail,
                head=head,
                run_layers=layers.stop - stop if layers else 0,
                skipped=stop - layers.start if layers else 0,
                token_s=size / link.bytes_per_s,
                message_s=options.message_bytes / link.bytes_per_s,
                token_bytes=size,
                message_bytes=float(options.message_bytes),
                latency_s=link.latency_s,
                apart=NOTHING not in (tail, head)
                and goes_apart(options.max_prefill_tokens or NO_LIMIT, size, link.bytes_per_s),
            )
        )
    return rows, _share_nics(stages, rows)


def _place(network: HopNetwork, name: str) -> int:
    return NOTHING if name == COORDINATOR else int(network.codes[name])


def _share_nics(stages: Sequence[StageSetup], rows: Sequence[FixedLink]) -> list[float]:
    """Put a NIC before the links that together could want more than it has."""
    nics = [1.0]  # A table of none has no type.
    for at, stage in enumerate(stages):
        if stage.nic_bytes_per_s is None:
            continue
        sent, received = [row for row in rows if row.tail == at], [row for row in rows if row.head == at]
        for direction, end in ((sent, "out_nic"), (received, "in_nic")):
            if sum(row.token_bytes / row.token_s for row in direction) > stage.nic_bytes_per_s:
                for row in direction:
                    setattr(row, end, len(nics))
                nics.append(stage.nic_bytes_per_s)
    return nics


def request_rows(trace: Trace, options: Options) -> list[FixedRequest]:
    """The requests of a trace."""
    share, mean = options.expected_output, options.mean_output
    return [
        FixedRequest(
            float(one.arrival_s),
            one.input_tokens,
            one.output_tokens,
            one.input_tokens + one.max_tokens,
            expected_answer(one.max_tokens, share, mean),
        )
        for one in trace.requests
    ]


def request_table(trace: Trace, options: Options) -> Array:
    """The same as the compiled loop wants them; one trace is simulated under many options."""
    arrivals_s, tokens = trace.columns
    asked, which = np.unique(tokens[:, 2], return_inverse=True)
    answers = [expected_answer(int(most), options.expected_output, options.mean_output) for most in asked]
    rows = np.zeros(len(tokens), dtype=record_of(FixedRequest))
    rows["arrival_s"], rows["inputs"], rows["outputs"] = arrivals_s, tokens[:, 0], tokens[:, 1]
    rows["most"], rows["answer"] = tokens[:, 0] + tokens[:, 2], np.array(answers)[which]
    return rows


def fixed_of(network: HopNetwork, options: Options, requests: Table[FixedRequest], weights: Sequence[Weights]) -> Fixed:
    """What doesn't move; ``weights`` are those of the next hops from every endpoint, under each flow of the network."""
    stages = stage_rows(network, options)
    links, nics = link_rows(network, options)
    curve_x, curve_y = _curves(stages, [stage.timing for stage in network.setup.stages])
    to_stage, from_stage = _control(network, links, options)
    next_link, weight, open_links = _choices(network, weights, len(links))
    by_stop = sorted(range(len(stages)), key=lambda at: network.setup.stages[at].layers.stop)
    return Fixed(
        stages,
        links,
        requests,
        curve_x,
        curve_y,
        next_link,
        weight,
        open_links,
        nics,
        by_stop,
        to_stage,
        from_stage,
    )


def _choices(network: HopNetwork, weights: Sequence[Weights], links: int) -> tuple[list[int], list[float], list[int]]:
    """Links that lead on from every vertex, their weights under each flow, and whether each link is taken under it."""
    heads = _heads(weights)
    fanout, numbers = max(map(len, heads.values())), network.numbers
    size = fanout * (len(network.setup.stages) + 1)
    next_link, weight, open_links = [NOTHING] * size, [0.0] * (size * len(weights)), [1] * (links * len(weights))
    for tail, names in heads.items():
        first = fanout * (0 if tail == COORDINATOR else int(tail) + 1)
        for at, head in enumerate(names):
            number = next_link[first + at] = numbers[tail, head]
            for flow, shares in enumerate(weights):
                share = shares.get(tail, {}).get(head, 0.0)
                weight[flow * size + first + at] = float(share)
                open_links[flow * links + number] = int(share > 0)
    return next_link, weight, open_links


def _heads(weights: Sequence[Weights]) -> dict[str, list[str]]:
    """The next hops from every endpoint under any flow, of which the first of equals is taken: in the order that all
    flows have, else by name, as routers that take turns have them."""
    orders = [{tail: list(heads) for tail, heads in one.items()} for one in weights]
    if all(order == orders[0] for order in orders):
        return orders[0]
    found: dict[str, set[str]] = {}
    for shares in weights:
        for tail, heads in shares.items():
            found.setdefault(tail, set()).update(heads)
    return {tail: sorted(heads) for tail, heads in sorted(found.items())}


def _control(network: HopNetwork, links: list[FixedLink], options: Options) -> tuple[list[int], list[int]]:
    """The links from the coordinator to every stage and back; those that no request takes are added to ``links``."""
    known = {(link.tail, link.head): at for at, link in enumerate(links)}
    setup = network.setup
    declared = {(_place(network, link.tail), _place(network, link.head)): link for link in setup.control}

    def number(tail: int, head: int) -> int:
        if (tail, head) not in known:
            known[tail, head] = len(links)
            links.append(_control_row(tail, head, declared.get((tail, head)), options))
        return known[tail, head]

    places = range(len(setup.stages))
    return [number(NOTHING, at) for at in places], [number(at, NOTHING) for at in places]


def _control_row(tail: int, head: int, link: LinkSetup | None, options: Options) -> FixedLink:
    if link is None:
        return FixedLink(tail, head, control=True)
    return FixedLink(
        tail,
        head,
        message_s=options.message_bytes / link.bytes_per_s,
        message_bytes=float(options.message_bytes),
        latency_s=link.latency_s,
        control=True,
    )


def _curves(stages: Sequence[FixedStage], timings: Sequence[LayerTiming]) -> tuple[list[float], list[float]]:
    curves = [curve for timing in timings for curve in (timing.decode, timing.prefill)]
    firsts = [0, *accumulate(len(curve) for curve in curves)]
    for at, stage in enumerate(stages):
        stage.decode_first, stage.decode_points = firsts[2 * at], len(curves[2 * at])
        stage.prefill_first, stage.prefill_points = firsts[2 * at + 1], len(curves[2 * at + 1])
    points = [point for curve in curves for point in curve]
    return [float(x) for x, _ in points], [float(y) for _, y in points]


def rules_of(
    network: HopNetwork, trace: Trace, options: Options, fixed: Fixed, router: object, routes: int, records: bool
) -> Rules:
    """Options as numbers."""
    feed = options.feed
    by_hop = options.routing == "hop" and isinstance(router, HopRouter)
    layered = [fixed.stages[at].width for at in range(len(fixed.stages)) if fixed.stages[at].layered]
    copies = options.copy_bytes_per_s
    first, below, spacing_s, delay_s = 0, 0.0, 0.0, 0.0
    if not isinstance(feed, Saturate):
        first = feed.count if isinstance(feed, HoldInFlight) else feed.initial
        below = feed.below if isinstance(feed, FeedByKv) else 0.0
        spacing_s, delay_s = feed.spacing_s, feed.delay_s
    return Rules(
        end_s=float(options.end_s),
        warmup_s=float(options.warmup_s),
        sample_s=options.end_s / options.series,
        series=options.series,
        drains=options.drain and not trace.saturating,
        high_water=float(options.kv_high_water),
        open=options.admission == "open",
        saturating=trace.saturating,
        feed=SATURATE if isinstance(feed, Saturate) else HOLD if isinstance(feed, HoldInFlight) else BY_KV,
        feed_initial=first,
        feed_below=float(below),
        feed_spacing_s=float(spacing_s),
        feed_delay_s=float(delay_s),
        drops=options.when_full == "drop",
        shortest_first=options.shortest_first,
        max_queue=options.max_queue,
        patience_s=float(options.path_timeout),
        by_layer=options.kv_by_layer,
        routes=routes,
        by_hop=by_hop,
        observes=routes == BY_ASKING and isinstance(router, HopObserver),
        counts_tokens=routes == BY_TOKENS or (routes == BY_ASKING and isinstance(router, TokenCounter)),
        sees_all=options.sees == "everything",
        decode_first=options.batching == "decode_first",
        prefill_chunk=options.prefill_chunk or NO_LIMIT,
        merge_prefills=options.merge_prefills,
        rides=options.rides,
        micro_batches=options.keeps_micro_batches,
        bundles=options.bundles,
        messages=options.sends_messages,
        page_tokens=options.kv_page_tokens if options.sends_messages else 1,
        copy_s=network.setup.activation_bytes / copies if copies else 0.0,
        drafts=options.drafts,
        acceptance=float(options.acceptance),
        coverage=float(options.coverage),
        seed=options.seed,
        gives_token=options.prefill_gives_token,
        backs_off=options.backs_off,
        records=records,
        fanout=len(fixed.next_link) // (len(fixed.stages) + 1),
        depth=max(stage.layers.stop for stage in network.setup.stages),
        layers=max(layered, default=1),
        longest=_longest(network),
        vertices=len(fixed.stages) + 1,
    )


def _longest(network: HopNetwork) -> int:
    """Most stages of a pipeline."""
    stages = network.setup.stages
    order = sorted(range(len(stages)), key=lambda at: stages[at].layers.stop)
    depth = {COORDINATOR: 0}
    for code in (COORDINATOR, *(network.codes[stages[at].name] for at in order)):
        for head in network.adjacency.get(code, ()) if code in depth else ():
            if head != COORDINATOR:
                depth[head] = max(depth.get(head, 0), depth[code] + 1)
    return max(depth.values())


def even_weights(network: HopNetwork) -> list[Weights]:
    """Every hop alike that is taken under each flow, 0 for others, for routers that are asked."""
    if len(network.flows) == 1:
        return [{tail: dict.fromkeys(heads, 1.0) for tail, heads in network.adjacency.items()}]
    taken = [{(edge.tail, edge.head) for edge in edges} for edges in network.flows]
    return [
        {tail: {head: float((tail, head) in hops) for head in heads} for tail, heads in network.adjacency.items()}
        for hops in taken
    ]
