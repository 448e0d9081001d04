"""What a compiled simulation runs on, as arrays: what doesn't change, and what does.

Owns the step from a setup, a trace and options to these arrays. Stages are numbered from 0; vertex 0 is the
coordinator and vertex ``i + 1`` stage ``i``. ``-1`` stands for nothing: no stage, no run, no limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from helix_df.graph.problem import COORDINATOR
from helix_df.profiles.timing import LayerTiming
from helix_df.rules.schedulers.api import View
from helix_df.rules.schedulers.registry import get_scheduler
from helix_df.simulator.network import Network
from helix_df.simulator.options import FeedByKv, Options, Saturate
from helix_df.simulator.parts import Link
from helix_df.simulator.stage import LayeredStage, Stage
from helix_df.simulator.trace import Trace, TraceRequest

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Records = npt.NDArray[np.void]

NOTHING = -1
NO_LIMIT = 10**9
NEVER = float("inf")


class Rules(NamedTuple):
    """Options as numbers; names as in ``Options``."""

    end_s: float
    warmup_s: float
    high_water: float
    saturating: bool
    feeds_by_kv: bool
    feed_initial: int
    feed_below: float
    feed_spacing_s: float
    feed_delay_s: float
    drops: bool
    max_queue: int
    by_layer: bool
    by_tokens: bool
    decode_first: bool
    prefill_budget: int
    prefill_chunk: int
    merge_prefills: bool
    micro_batches: bool
    bundles: bool
    copy_s: float
    gives_token: bool
    largest: int


_STAGE = np.dtype(
    [
        ("width", np.int64),
        ("start", np.int64),
        ("capacity", np.int64),
        ("layered", np.bool_),
        ("mixed", np.bool_),
        ("max_batch", np.int64),
        ("max_prompts", np.int64),
        ("max_context", np.int64),
        ("only_link", np.int64),
        ("decode_points", np.int64),
        ("prefill_points", np.int64),
    ],
    align=True,
)
_LINK = np.dtype(
    [
        ("tail", np.int64),
        ("head", np.int64),
        ("run_layers", np.int64),
        ("skipped", np.int64),
        ("token_s", np.float64),
        ("message_s", np.float64),
        ("latency_s", np.float64),
        ("token_bytes", np.float64),
        ("message_bytes", np.float64),
    ]
)
_WANTED = np.dtype(
    [
        ("arrival_s", np.float64),
        ("inputs", np.int64),
        ("outputs", np.int64),
        ("most", np.int64),
        ("answer", np.int64),
    ]
)


class Plant(NamedTuple):
    """What doesn't move: see ``Stage``, ``Link`` and ``TraceRequest`` for the fields.

    ``curves`` are (decode, prefill) by stage and point, each x and y; ``way`` and ``weight`` the links that lead on
    from every vertex, of which there are ``ways``; ``nics`` those that a link shares.
    """

    stages: Records
    links: Records
    wanted: Records
    curves: Floats
    ways: Ints
    way: Ints
    weight: Floats
    nics: Ints
    nic_bytes_per_s: Floats


class Supported(Protocol):
    """A router whose turns can be compiled."""

    def turns(self) -> Mapping[str, Mapping[str, float]]:
        """Weights of the next hops from every endpoint, in the order in which ties are broken."""
        ...


def can_compile(options: Options) -> bool:
    """Whether the compiled simulation knows these rules."""
    return (
        options.scheduler in ("flow", "flow-tokens")
        and options.routing == "admission"
        and options.admission == "kv"
        and isinstance(options.feed, Saturate | FeedByKv)
        and (options.kv_by_layer or not isinstance(options.feed, FeedByKv))
        and not options.events
        and not options.drain
    )


def rules_of(trace: Trace, options: Options, network: Network, activation_bytes: float) -> Rules:
    """Options as numbers."""
    feed = options.feed if isinstance(options.feed, FeedByKv) else FeedByKv()
    return Rules(
        end_s=float(options.end_s),
        warmup_s=float(options.warmup_s),
        high_water=float(options.kv_high_water),
        saturating=trace.saturating,
        feeds_by_kv=isinstance(options.feed, FeedByKv),
        feed_initial=feed.initial,
        feed_below=float(feed.below),
        feed_spacing_s=float(feed.spacing_s),
        feed_delay_s=float(feed.delay_s),
        drops=options.when_full == "drop",
        max_queue=options.max_queue,
        by_layer=options.kv_by_layer,
        by_tokens=options.scheduler == "flow-tokens",
        decode_first=options.batching == "decode_first",
        prefill_budget=options.max_prefill_tokens or NO_LIMIT,
        prefill_chunk=options.prefill_chunk or NO_LIMIT,
        merge_prefills=options.merge_prefills,
        micro_batches=options.keeps_micro_batches,
        bundles=options.bundles,
        copy_s=activation_bytes / options.copy_bytes_per_s if options.copy_bytes_per_s else 0.0,
        gives_token=options.prefill_gives_token,
        largest=network.widest(lambda stage: stage.kv_capacity // stage.width),
    )


def plant_of(wanted: Records, options: Options, network: Network) -> Plant:
    """A network as arrays, with the ways of the options' scheduler; ``wanted`` are the requests."""
    stages, links = network.stages, network.links
    number = {(link.tail_name, link.head_name): at for at, link in enumerate(links)}
    nics = list(dict.fromkeys(nic for link in links for nic in link.nics))
    ways, way, weight = _ways(options, network, number)
    return Plant(
        stages=np.array([_stage(stage, number) for stage in stages], dtype=_STAGE),
        links=np.array([_link(link) for link in links], dtype=_LINK),
        wanted=wanted,
        curves=_curves([stage.timing for stage in stages]),
        ways=ways,
        way=way,
        weight=weight,
        nics=np.array(
            [[*(nics.index(nic) for nic in link.nics), NOTHING, NOTHING][:2] for link in links], dtype=np.int64
        ),
        nic_bytes_per_s=np.array([*(nic.bytes_per_s for nic in nics), 1.0]),
    )


def wanted_of(trace: Trace, options: Options) -> Records:
    """The requests of a trace as an array."""
    return np.array([_wanted(one, options) for one in trace.requests], dtype=_WANTED)


def _stage(stage: Stage, number: Mapping[tuple[str, str], int]) -> tuple[Any, ...]:
    link = stage.only_link
    return (
        stage.width,
        stage.layers.start,
        stage.kv_capacity,
        isinstance(stage, LayeredStage),
        stage.mixed,
        stage.max_batch,
        stage.max_prompts,
        NOTHING if stage.max_context is None else stage.max_context,
        NOTHING if link is None else number[link.tail_name, link.head_name],
        len(stage.timing.decode),
        len(stage.timing.prefill),
    )


def _link(link: Link) -> tuple[Any, ...]:
    return (
        NOTHING if link.tail_name == COORDINATOR else int(link.tail_name),
        NOTHING if link.head is None else link.head.index,
        link.width,
        link.skipped,
        link.s_per_token,
        link.s_per_message,
        link.latency_s,
        link.bytes_per_token,
        link.message_bytes,
    )


def _wanted(request: TraceRequest, options: Options) -> tuple[Any, ...]:
    answer = math.ceil(min(options.expected_output * request.max_tokens, options.mean_output))
    most = request.input_tokens + request.max_tokens
    return request.arrival_s, request.input_tokens, request.output_tokens, most, answer


def _curves(timings: Sequence[LayerTiming]) -> Floats:
    longest = max(len(curve) for timing in timings for curve in (timing.decode, timing.prefill))
    curves = np.zeros((2, len(timings), longest, 2))
    for at, timing in enumerate(timings):
        curves[0, at, : len(timing.decode)] = timing.decode
        curves[1, at, : len(timing.prefill)] = timing.prefill
    return curves


def _ways(options: Options, network: Network, number: Mapping[tuple[str, str], int]) -> tuple[Ints, Ints, Floats]:
    """Links that lead on from every vertex: how many, which, and with which weight."""

    def unseen(*_: str) -> Any:
        raise AssertionError("a router of the flow looks at nothing else")

    placement = {network.code(stage.index): stage.layers for stage in network.stages}
    view = View(placement, network.ways, network.edges, options.seed, unseen, unseen)
    router: Any = get_scheduler(options.scheduler)(view)
    turns = router.turns()
    vertices = [COORDINATOR, *placement]
    most = max((len(heads) for heads in turns.values()), default=1)
    ways = np.zeros(len(vertices), dtype=np.int64)
    way = np.full((len(vertices), most), NOTHING, dtype=np.int64)
    weight = np.zeros((len(vertices), most))
    for vertex, tail in enumerate(vertices):
        for at, (head, share) in enumerate(turns.get(tail, {}).items()):
            ways[vertex], way[vertex, at], weight[vertex, at] = at + 1, number[tail, head], share
    return ways, way, weight
