"""What any placement of a job would be made of: seconds and KV cache of every node by the layers it holds.

Owns these numbers as arrays, ready for thousands of placements. Doesn't know which placement is good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from helix_df.graph.capacities import Floats, Ints
from helix_df.graph.problem import COORDINATOR, NodeProfile, Problem
from helix_df.layers import LayerRange
from helix_df.profiles.expected_drafts import DraftedSteps, ExpectedDrafts
from helix_df.profiles.kv_windows import ALIKE, KvShape, held_by_layers
from helix_df.profiles.timing import LayerTiming
from helix_df.simulator.options import FeedByKv, Options
from helix_df.simulator.setup import StageSetup

LARGEST_BATCH = 512
"""Decode batches that are tabulated; beyond, a layer's time goes on in proportion."""

FILLED = 0.875
"""Share of what admission allows that is in use on average, as simulations of the paper's clusters show."""

TimingOf = Callable[[NodeProfile, int, KvShape], LayerTiming]
"""Seconds a layer takes on a node that holds so many layers, of which some have a window."""


LONGEST_PREFILL = 1024
"""Prompt tokens that are tabulated, with decode steps beside; beyond, likewise."""


@dataclass(frozen=True, slots=True)
class RequestMoments:
    """Mean prompt and output tokens of a request, and the mean square of prompt tokens, for waits.

    ``prompts``: the lengths that these are of.
    """

    input_tokens: float
    output_tokens: float
    input_square: float
    prompts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PromptPieces:
    """Prompts in pieces: how many a prompt has on average, their mean tokens, and the mean square over the mean."""

    count: float
    tokens: float
    bunch: float


def pieces_of(workload: RequestMoments, longest: int) -> PromptPieces:
    """What becomes of prompts that travel in pieces of at most ``longest`` tokens."""
    counts = np.ceil(np.array(workload.prompts) / longest)
    mean = float(counts.mean())
    return PromptPieces(mean, workload.input_tokens / mean, float((counts**2).mean()) / mean)


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Decode steps that bring so many tokens on average: seconds of a layer by row and requests in the batch, shape
    (rows, LARGEST_BATCH + 1)."""

    steps: DraftedSteps
    decode_s: Floats


def _step_costs(timings: Sequence[LayerTiming], steps: DraftedSteps) -> StepCosts:
    requests = range(LARGEST_BATCH + 1)
    return StepCosts(steps, np.array([[timing.decode_s(b * steps.carried) for b in requests] for timing in timings]))


def _kinds_of_steps(options: Options) -> Iterator[DraftedSteps]:
    """Plain steps, and those with 1, 3, 7, … drafts and with the most."""
    choices = tuple(ExpectedDrafts(options.drafts, options.acceptance, options.coverage).choices())
    return (steps for drafts, steps in enumerate(choices) if drafts & (drafts + 1) == 0 or drafts == len(choices) - 1)


@dataclass(frozen=True, slots=True)
class StageCosts:
    """Timing of node ``i`` with ``k`` layers is a row of the tables; seconds are those of one layer.

    Attributes:
        problem: whose nodes these are.
        workload: mean request.
        row: by node, layers held and how these differ from other layers in a row, shape (nodes, layers + 1, variants).
        variant: that difference by the first layer and the number of layers, shape (layers, layers + 1).
        steps: decode steps without drafts, then with a few numbers of them.
        prefill_s: of a prefill, by row and tokens, shape (rows, LONGEST_PREFILL + 1).
        prompt_s: of a mean prompt, by row.
        pieces: that prompts travel in and that ride with decode steps; ``None`` where they don't.
        max_batch: by row.
        kv_tokens: tokens of cache of node ``i`` beside ``k`` layers, shape (nodes, layers + 1).
        latency_s: from node to node, the coordinator last; where there is no link, 0.
        bytes_per_s: likewise.
        token_bytes: likewise, what one token takes on the way, packed by the link's codec.
        admitted: share of the KV cache that is in use when no more requests are admitted.
        fullest: how much more of a single node's cache may be in use than of all that hold a layer.
        looks_ahead: whether a request avoids nodes that only lead to full ones.
        kv_by_layer: whether a request takes cache only in the layers of a node that it runs.
        request_tokens: KV cache of a request in flight, on average.
        copy_s: seconds a node takes to receive the activations of one token.
    """

    problem: Problem
    workload: RequestMoments
    timings: tuple[LayerTiming, ...]
    row: Ints
    variant: Ints
    steps: tuple[StepCosts, ...]
    prefill_s: Floats
    prompt_s: Floats
    pieces: PromptPieces | None
    max_batch: Floats
    kv_tokens: Floats
    latency_s: Floats
    bytes_per_s: Floats
    token_bytes: Floats
    admitted: float
    fullest: float
    looks_ahead: bool
    kv_by_layer: bool
    request_tokens: float
    copy_s: float

    def rows(self, nodes: Ints, start: Ints, count: Ints) -> Ints:
        """Rows of the tables of nodes that hold ``count`` layers from ``start`` on."""
        found: Ints = self.row[nodes, count, self.variant[start, count]]
        return found

    def stage(self, node: int, start: int, count: int) -> StageSetup:
        """A node with its layers, for the simulator."""
        profile, layers = self.problem.nodes[node], LayerRange(start, start + count)
        windowed, kv_window = self.problem.windowed(layers)
        return StageSetup(
            profile.name,
            layers,
            self.timings[self.row[node, count, self.variant[start, count]]],
            profile.kv_tokens[count - 1],
            profile.nic_bytes_per_s,
            windowed=windowed,
            kv_window=kv_window,
        )


def tabulate_costs(problem: Problem, timing_of: TimingOf, workload: RequestMoments, options: Options) -> StageCosts:
    """Tabulate everything that placements of a problem are made of."""
    widest = max((node.max_layers for node in problem.nodes), default=0)
    variant, shapes = _variants(problem)
    row = np.zeros((len(problem.nodes), widest + 1, max(map(len, shapes))), dtype=np.int64)
    kv_tokens = np.zeros((len(problem.nodes), widest + 1))
    request_tokens = workload.input_tokens + workload.output_tokens / 2
    held = _held(problem, request_tokens, options)
    timings: list[LayerTiming] = []
    known: dict[tuple[str, tuple[float, ...], int, int], int] = {}
    for i, node in enumerate(problem.nodes):
        for k in range(1, node.max_layers + 1):
            for v, shape in enumerate(shapes[k]):
                key = (node.gpu, node.tokens_per_s, k, v)
                if key not in known:
                    known[key] = len(timings)
                    timings.append(timing_of(node, k, shape))
                row[i, k, v] = known[key]
            # As if all of a request were kept, however much of it is.
            kv_tokens[i, k] = node.kv_tokens[k - 1] * (request_tokens / held[k - 1])
    latency, rate, token_bytes = _links(problem)
    return StageCosts(
        problem,
        workload,
        tuple(timings),
        row,
        variant,
        tuple(_step_costs(timings, steps) for steps in _kinds_of_steps(options)),
        np.array([[timing.prefill_s(n) for n in range(LONGEST_PREFILL + 1)] for timing in timings]),
        np.array([timing.prefill_s(workload.input_tokens) for timing in timings]),
        pieces_of(workload, options.prefill_chunk) if options.rides and options.prefill_chunk is not None else None,
        np.array([_batch(timing, options) for timing in timings]),
        kv_tokens,
        latency,
        rate,
        token_bytes,
        admitted=_admitted(options),
        fullest=options.kv_high_water / _full(options),
        looks_ahead=options.scheduler == "flow",
        kv_by_layer=options.kv_by_layer,
        request_tokens=request_tokens,
        copy_s=problem.activation_bytes / options.copy_bytes_per_s if options.copy_bytes_per_s else 0.0,
    )


def _variants(problem: Problem) -> tuple[Ints, list[list[KvShape]]]:
    """``StageCosts.variant``, and by layers held the shapes that so many in a row have."""
    layers = problem.num_layers
    variant, shapes = np.zeros((layers, layers + 1), dtype=np.int64), [[ALIKE] for _ in range(layers + 1)]
    if problem.origin is None or not any(problem.origin.geometry.attention.windows):
        return variant, shapes
    for count in range(1, layers + 1):
        starts = range(layers - count + 1)
        own = [problem.origin.geometry.attention.shape(LayerRange(start, start + count)) for start in starts]
        shapes[count] = list(dict.fromkeys(own))
        variant[: len(own), count] = [shapes[count].index(shape) for shape in own]
    return variant, shapes


def _held(problem: Problem, tokens: float, options: Options) -> tuple[float, ...]:
    """Tokens that a request in flight keeps in each of 1, 2, 3, … layers, on average."""
    windows = () if problem.origin is None else problem.origin.geometry.attention.windows
    if not windows or options.prefill_chunk is None:
        return (tokens,) * problem.num_layers
    return held_by_layers(windows, tokens, options.prefill_chunk, options.kv_page_tokens)


def _admitted(options: Options) -> float:
    """The share that saturating runs reach; a request in flight has generated half of what it is expected to."""
    return FILLED * _full(options)


def _full(options: Options) -> float:
    return options.feed.below if isinstance(options.feed, FeedByKv) else options.kv_high_water


def _batch(timing: LayerTiming, options: Options) -> float:
    limits = [limit for limit in (options.max_batch, timing.max_batch) if limit is not None]
    return float(min(limits, default=LARGEST_BATCH))


def _links(problem: Problem) -> tuple[Floats, Floats, Floats]:
    names = [*(node.name for node in problem.nodes), COORDINATOR]
    latency, rate = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)))
    token_bytes = np.full((len(names), len(names)), float(problem.token_bytes))
    for a, first in enumerate(names):
        for b, second in enumerate(names):
            link = problem.links.find(first, second) if a != b else None
            if link is not None:
                latency[a, b], rate[a, b] = link.latency_s, link.bytes_per_s
                if COORDINATOR not in (first, second):
                    token_bytes[a, b] = problem.packed_bytes(link.codec)
    return latency, rate, token_bytes
