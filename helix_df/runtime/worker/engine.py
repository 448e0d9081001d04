"""One worker's compute: batches of steps in, hidden states and tokens out.

Owns batching, padding and the pages of each request. Doesn't know sockets, routes or other workers: a ``Step`` says
everything about its share of a batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jax import Array

from helix_df.layers import LayerRange
from helix_df.models.attention import PagedBatch
from helix_df.models.decoder import DecoderShard
from helix_df.models.tensor_parallel import SharedShard
from helix_df.models.tokenizer import Tokenizer
from helix_df.profiles.attention_kernels import AttentionChoice
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_formats import KvFormat
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.runtime.requests import DrawnToken, EngineHealth, ScoredToken, TopLogprobs
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.packing import all_finite
from helix_df.runtime.worker.buckets import bucket_for
from helix_df.runtime.worker.compile_cache import compiled_programs
from helix_df.runtime.worker.drawing import Draws, compile_draws, draw
from helix_df.runtime.worker.kv_pages import PagePool
from helix_df.runtime.worker.passes import Pass, passes
from helix_df.runtime.worker.programs import ShardPrograms
from helix_df.runtime.worker.sampler import NOT_FINITE, log_probabilities, sampler_rows, score
from helix_df.runtime.worker.shapes import ASKED, ASKED_DRAFTED, Shape, ShapePlan
from helix_df.runtime.worker.steps import Step, StepResult
from helix_df.runtime.worker.warm_shapes import WarmShapes

_SCORED_AT_ONCE = 64
"""Tokens of a prompt whose logits are there together: a row of the vocabulary each."""


@dataclass(frozen=True, slots=True)
class WarmUpProgress:
    """``done`` of ``total`` shapes are ready; ``shape`` is the one just made, in words."""

    done: int
    total: int
    shape: str


@dataclass(frozen=True, slots=True, eq=False)
class _Padded:
    """Steps as arrays of a shape, with how many tokens are real in each row."""

    inputs: np.ndarray
    tables: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Launched:
    """Steps under way on the device, one row each. ``hidden`` is a list of stretches along T.

    Of ``stuck`` requests what is drawn is none that their constraints allow. Where steps have drafts, ``tokens`` and
    ``logprobs`` have a row for each of ``columns`` tokens of each step; what ``drawn`` says goes before them.
    """

    steps: tuple[Step, ...]
    hidden: tuple[Array, ...]
    tokens: Array | None
    logprobs: tuple[Array, Array, Array] | None
    stuck: frozenset[str] = frozenset()
    scores: dict[str, tuple[ScoredToken, ...]] = field(default_factory=dict)
    pooled: dict[str, list[Array]] = field(default_factory=dict)
    columns: int = 1
    drawn: dict[str, StepResult] = field(default_factory=dict)


class Engine:
    """Runs steps on one shard, with its own paged KV cache.

    Args:
        shard: the layers to run.
        num_pages: KV pages for requests, in each held layer (one more is kept as scratch). Where layers keep different
            ones, so many for each, and whichever layer needs one takes it.
        max_batch: most decode steps in one program; more run one batch after another.
        max_context: most tokens of one request, prompt and output; default the model's.
        max_prefill: most prompt tokens in one program; longer stretches run chunk by chunk.
        layers_per_call: see ``ShardPrograms``.
        pages_at_once: see ``attend_in_pages``. With stretches, the shape of a batch is the same for all contexts.
        page_tokens: tokens a page.
        tokenizer: gives the model's tokenizer, for constraints; without one none can be kept to.
        kv: format of the KV cache; default that of activations.
        window: tokens that a query sees at most in layers that don't see all, where pages behind them are freed; 0 to
            free none.
        attention: which kernels are asked for; others than ours don't read stretch by stretch.
        drafts: most drafts of a decode step that are to be expected; with more it runs all the same.
    """

    def __init__(
        self,
        shard: DecoderShard | SharedShard,
        *,
        num_pages: int,
        max_batch: int = 8,
        max_context: int | None = None,
        max_prefill: int = 512,
        layers_per_call: int = 8,
        pages_at_once: int | None = None,
        page_tokens: int = PAGE_TOKENS,
        tokenizer: Callable[[], Tokenizer] | None = None,
        kv: KvFormat | None = None,
        window: int = 0,
        attention: AttentionChoice = AttentionChoice(),  # noqa: B008  # it is frozen
        drafts: int = 0,
    ) -> None:
        self.geometry = shard.geometry
        self.layers = shard.layers
        self.max_context = min(max_context or self.geometry.context_length, self.geometry.context_length)
        if attention != AttentionChoice():
            pages_at_once = None  # other kernels read all pages of a shape, which has to follow contexts then
        windows = page_windows(self.geometry, self.layers, window)
        self._pool = PagePool(num_pages * len(windows), page_tokens, windows)
        self._programs = ShardPrograms(
            shard,
            num_pages=self._pool.num_pages + 1,
            num_tables=len(windows),
            page_tokens=page_tokens,
            layers_per_call=layers_per_call,
            pages_at_once=pages_at_once,
            max_context=self.max_context,
            kv=kv,
            attention=attention,
        )
        self._attention = attention.words
        self._shapes = ShapePlan(self._pool.pages_for, max_batch, self.max_context, max_prefill, pages_at_once, drafts)
        self._draws = Draws(self.geometry.vocab_size, tokenizer)
        self._warm_ones = WarmShapes(self._shapes)
        self._asked: Counter[Shape] = Counter()
        self._warm_shapes = 0
        self._verifies: set[Shape] = set()
        """Shapes with drafts whose programs are there."""

    @property
    def compilations(self) -> int:
        """Programs compiled (or loaded from the compile cache) so far."""
        return self._programs.compilations

    @property
    def free_pages(self) -> int:
        """KV pages that no request holds."""
        return self._pool.free_pages

    @property
    def used_pages(self) -> int:
        """KV pages that requests hold, each counted once."""
        return self._pool.used_pages

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV cache that requests can hold, in whole pages."""
        return self._pool.num_pages // len(self._pool.windows) * self._pool.page_tokens

    @property
    def programs(self) -> ShardPrograms:
        """The compiled programs, for benchmarks."""
        return self._programs

    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        """Run ``steps`` and wait for their results, in the same order.

        A step that doesn't fit in the KV cache comes back ``kv_full`` with its request's state as it was; the others
        run all the same. A step with drafts may be cut: where they don't fit, or there is no program for so many yet.

        Raises:
            ValueError: for two steps of one request, layers that aren't held, or inputs that don't fit the layers.
        """
        for step in steps:
            self._check(step)
        if len({step.request for step in steps}) != len(steps):
            raise ValueError("a batch holds two steps of one request")
        admitted = [fitting for step in steps if (fitting := self._fitting(step)) is not None]
        for step in admitted:
            self._draws.begin(step)
        launched = [part for one in passes(admitted, self._decodes_at_once(admitted)) for part in self._launch(one)]
        results = {result.request: result for batch in launched for result in _collect(batch)}
        ran = {step.request: len(step.inputs) for batch in launched for step in batch.steps if step.is_decode}
        for result in results.values():
            if not result.finite:
                self._scrub(result.request)
        told = {name for batch in launched for name in batch.drawn}
        drawn = {name: it.token for name, it in results.items() if it.token is not None and name not in told}
        self._draws.drawn(drawn)
        for step in steps:
            if step.drafts and step.request in results and ran[step.request] < len(step.inputs):
                results[step.request] = replace(results[step.request], computed=ran[step.request])
        return [results.get(step.request, StepResult(step.request, kv_full=True)) for step in steps]

    def release(self, request: str) -> None:
        """Free the request's pages. Unknown requests are fine."""
        self._pool.release(request)
        self._draws.forget(request)

    def fork(self, parent: str, child: str, tokens: int) -> None:
        """Let ``child`` begin with what is computed of the first ``tokens`` tokens of ``parent``, whole pages only.

        Raises:
            ValueError: when ``child`` holds pages already, or ``parent`` fewer than that.
        """
        self._pool.fork(parent, child, tokens)

    def trim(self, request: str, tokens: int) -> None:
        """Free the request's pages but for those of its first ``tokens`` tokens."""
        self._pool.trim(request, tokens)
        self._draws.forget(request)

    @property
    def health(self) -> EngineHealth:
        """Shapes that ``warm_up`` hasn't compiled yet, programs of this process, pages in use and how attention
        is computed."""
        cold = len(self._shapes.in_order) - self._warm_shapes
        return EngineHealth(cold, compiled_programs(), self._pool.used_tokens, attention=self._attention)

    def compile_next(self) -> None:
        """Compile what ``warm_up`` makes next, if anything is left; may run in a thread of its own, beside all else."""
        if self._warm_shapes < len(self._shapes.in_order):
            shape = self._shapes.in_order[self._warm_shapes]
            padded = self._padding(self.layers, shape)
            arrays = padded.inputs, padded.tables, padded.starts, padded.lengths
            logits = self._programs.compile(*arrays, every=shape.drafted)
            if logits is not None:
                compile_draws(logits)

    def warm_up(self, *, only_first: bool = False) -> Iterator[WarmUpProgress]:
        """Compile the shapes that are still cold, those that a first short request needs before all others.

        Args:
            only_first: stop when a short request can be served; a later call goes on from there.
        """
        last = self._shapes.num_first if only_first else len(self._shapes.in_order)
        while self._warm_shapes < last:
            shape = self._shapes.in_order[self._warm_shapes]
            self._warm(shape)
            self._warm_ones.note(shape)
            if shape.drafted:
                self._verifies.add(shape)
            self._warm_shapes += 1
            yield WarmUpProgress(self._warm_shapes, last, self._shapes.words(shape))

    def _check(self, step: Step) -> None:
        if not self.layers.covers(step.layers):
            raise ValueError(f"layers {step.layers} aren't held here, {self.layers} are")
        if step.inputs.shape[1:] not in ((), (self.geometry.hidden_size,)) or step.position < 0:
            raise ValueError(f"inputs of shape {step.inputs.shape} at position {step.position}")

    def _scrub(self, request: str) -> None:
        """Blank the pages that only this request holds: NaN would reach whoever holds them next, however masked."""
        self._programs.blank(self._pool.own_pages(request))

    def _decodes_at_once(self, steps: Sequence[Step]) -> int:
        decodes = [step.position + len(step.inputs) for step in steps if step.is_decode]
        return self._warm_ones.decodes_at_once(len(decodes), max(decodes, default=0))

    def _fitting(self, step: Step) -> Step | None:
        """The step, without its drafts if it doesn't fit with them; None if it doesn't without them either."""
        if self._reserve(step):
            return step
        alone = step.cut(0)
        return alone if step.drafts and self._reserve(alone) else None

    def _reserve(self, step: Step) -> bool:
        stop = step.position + len(step.inputs)
        self._pool.slide(step.request, step.position)
        return stop <= self.max_context and self._pool.reserve(step.request, stop)

    def _launch(self, one: Pass) -> Iterator[_Launched]:
        """Start a pass on the device; what can't run together runs apart."""
        if any(step.drafts for step in one.decodes):
            yield from self._launch_drafted(one.decodes)
        elif one.decodes and one.piece is not None:
            tokens = len(one.piece.inputs)
            longest = max(step.position + len(step.inputs) for step in (*one.decodes, one.piece))
            shape = self._shapes.mixed(len(one.decodes), tokens, longest)
            if shape is not None and self._is_worth(shape):
                yield from self._launch_mixed(one.decodes, one.piece, shape)
                return
            yield self._launch_apart(one.decodes)
        elif one.decodes:
            yield self._launch_apart(one.decodes)
        if one.piece is not None:
            yield self._launch_apart((one.piece,))

    def _launch_drafted(self, steps: tuple[Step, ...]) -> Iterator[_Launched]:
        """Decode steps with drafts, and those without beside them; without any where their shape is rare so far."""
        most = max(len(step.inputs) for step in steps)
        plain = tuple(step for step in steps if not step.drafts)
        if plain and not self._shapes.is_filled(len(steps), most, sum(len(step.inputs) for step in steps)):
            yield self._launch_apart(plain)
            steps = tuple(step for step in steps if step.drafts)
        rows = self._shapes.drafted_rows(most)
        for at in range(0, len(steps), rows):
            group = steps[at : at + rows]
            longest = max(step.position + len(step.inputs) for step in group)
            shape = self._shapes.drafted(len(group), most, longest)
            if not self._is_verifiable(shape):
                yield self._launch_apart(tuple(step.cut(0) for step in group))
                continue
            padded = self._pad(group, 0, most, shape)
            hidden = self._run_padded(group[0].layers, padded)
            yield self._verify(group, hidden)

    def _is_verifiable(self, shape: Shape) -> bool:
        """Whether steps with drafts run in this shape: it has a program, or is asked for often enough."""
        self._asked[shape] += 1
        if self._asked[shape] > ASKED_DRAFTED:
            self._verifies.add(shape)
        return shape in self._verifies

    def _is_worth(self, shape: Shape) -> bool:
        """Whether a pass that mixes runs in this shape, or apart since it is rare so far."""
        self._asked[shape] += 1
        return self._asked[shape] > ASKED

    def _launch_apart(self, steps: tuple[Step, ...]) -> _Launched:
        """Steps of as many tokens each; a long prompt goes chunk by chunk."""
        longest = len(steps[0].inputs)
        chunk = self._warm_ones.tokens_at_once(longest, max(step.position for step in steps) + longest)
        hidden: list[Array] = []
        lengths = np.zeros(1, np.int32)
        for at in range(0, longest, chunk):
            state, lengths = self._forward(steps, at, min(at + chunk, longest))
            hidden.append(state)
        return self._finish(steps, hidden, lengths)

    def _launch_mixed(self, decodes: tuple[Step, ...], piece: Step, shape: Shape) -> Iterator[_Launched]:
        layers, tokens = piece.layers, len(piece.inputs)
        rows = self._pad(decodes, 0, 1, shape.decodes)
        prompt = self._pad((piece,), 0, tokens, shape)
        states = self._run_mixed(layers, rows, prompt)
        yield self._finish(decodes, [states[0]], rows.lengths)
        yield self._finish((piece,), [states[1]], prompt.lengths)

    def _finish(self, steps: tuple[Step, ...], hidden: list[Array], lengths: np.ndarray) -> _Launched:
        """What follows the layers: logits and draws, where they end the model."""
        if steps[0].layers.stop < self.geometry.num_layers:
            return _Launched(steps, tuple(hidden), None, None)
        scores = {step.request: self._scores(step, row, hidden) for row, step in enumerate(steps) if step.targets}
        pooled = {step.request: self._pooled(step, row, hidden) for row, step in enumerate(steps) if step.pooled}
        if all(step.sampling is None for step in steps):
            hidden[-1].block_until_ready()
            return _Launched(steps, (), None, None, scores=scores, pooled=pooled)
        logits = self._programs.last_logits(hidden[-1], lengths)
        params = [step.sampling for step in steps]
        rows = sampler_rows(params, [step.position + len(step.inputs) for step in steps], len(lengths))
        adjusted = self._draws.adjust(steps, len(lengths))
        tokens = draw(logits, rows, adjusted)
        wants_logprobs = any(one is not None and one.logprobs is not None for one in params)
        logprobs = log_probabilities(logits, tokens) if wants_logprobs else None
        return _Launched(steps, (), tokens, logprobs, adjusted.stuck, scores, pooled)

    def _verify(self, steps: tuple[Step, ...], hidden: Array) -> _Launched:
        """What follows the layers where steps have drafts: a draw behind each of their tokens, hidden [B, T, hidden].

        A draw counts if all drafts before it were drawn. Where draws depend on the tokens before, they are made one
        after the other.
        """
        if steps[0].layers.stop < self.geometry.num_layers:
            return _Launched(steps, (hidden,), None, None)
        columns = hidden.shape[1]
        logits = self._programs.every_logits(hidden)
        plain = [step for step in steps if step.sampling is None or step.sampling.is_plain]
        dependent = {it.request: (it, row * columns) for row, it in enumerate(steps) if it not in plain}
        drawn = self._draw_in_turn(dependent, logits)
        if not plain:
            return _Launched(steps, (), None, None, columns=columns, drawn=drawn)
        places = [(step.sampling, step.position + 1 + at) for step in steps for at in range(columns)]
        rows = sampler_rows([one for one, _ in places], [position for _, position in places], len(logits))
        tokens = draw(logits, rows)
        wants_logprobs = any(one.sampling is not None and one.sampling.logprobs is not None for one in plain)
        logprobs = log_probabilities(logits, tokens) if wants_logprobs else None
        return _Launched(steps, (), tokens, logprobs, columns=columns, drawn=drawn)

    def _draw_in_turn(self, steps: dict[str, tuple[Step, int]], logits: Array) -> dict[str, StepResult]:
        """What is drawn for requests, behind one token after the other for as long as drafts are drawn.

        Args:
            steps: by request, with the row of ``logits`` that is of the step's first token.
            logits: float32 [rows, vocab].
        """
        found: dict[str, StepResult] = {}
        behind = 0
        while steps:
            count = bucket_for(len(steps), self._shapes.batch_sizes)
            at = np.zeros(count, np.int32)
            at[: len(steps)] = [first + behind for _, first in steps.values()]
            drawn = self._draw_once([step.cut(0) for step, _ in steps.values()], logits[at], behind)
            for result in drawn:
                # Where nothing can be drawn behind drafts, the next step finds that out again.
                if result.request not in found:
                    found[result.request] = result
                elif result.token is not None:
                    found[result.request] = _followed(found[result.request], result.token, result.logprobs)
            tokens = {result.request: result.token for result in drawn if result.token is not None}
            self._draws.drawn(tokens)
            steps = {
                name: (step, first)
                for name, (step, first) in steps.items()
                if step.drafts[behind : behind + 1] == (tokens.get(name),)
            }
            behind += 1
        return found

    def _draw_once(self, steps: list[Step], logits: Array, behind: int) -> list[StepResult]:
        """A token for each of these, ``behind`` drafts that were drawn; float32 [rows, vocab], a row for each first."""
        params = [step.sampling for step in steps]
        rows = sampler_rows(params, [step.position + 1 + behind for step in steps], len(logits))
        adjusted = self._draws.adjust(steps, len(logits))
        tokens = draw(logits, rows, adjusted)
        wants_logprobs = any(one is not None and one.logprobs is not None for one in params)
        logprobs = log_probabilities(logits, tokens) if wants_logprobs else None
        return list(_collect(_Launched(tuple(steps), (), tokens, logprobs, adjusted.stuck)))

    def _pooled(self, step: Step, row: int, hidden: Sequence[Array]) -> list[Array]:
        """Sums of a step's last states that it asks for, one a stretch."""
        at, first = 0, len(step.inputs) - step.pooled
        sums: list[Array] = []
        for stretch in hidden:
            stop = min(at + stretch.shape[1], len(step.inputs))
            if stop > first:
                sums.append(self._programs.pooled(stretch, row, max(first - at, 0), stop - at))
            at += stretch.shape[1]
        return sums

    def _scores(self, step: Step, row: int, hidden: Sequence[Array]) -> tuple[ScoredToken, ...]:
        """How likely the targets of a step are, from the stretches of its hidden states, some tokens at a time."""
        found: list[ScoredToken] = []
        for stretch in hidden:
            for at in range(0, stretch.shape[1], _SCORED_AT_ONCE):
                states = stretch[row, at : at + _SCORED_AT_ONCE]
                targets = step.targets[len(found) :][: len(states)]
                if not targets:
                    return tuple(found)
                found += self._scored(states, targets, step.best)
        return tuple(found)

    def _scored(self, states: Array, targets: tuple[int, ...], best: int) -> list[ScoredToken]:
        """Scores of targets by the states before them, [T, hidden] with at least as many."""
        count = len(targets)
        padded = np.pad(np.asarray(states), ((0, _SCORED_AT_ONCE - len(states)), (0, 0)))
        logits = self._programs.each_logits(padded)
        wanted = np.pad(np.array(targets, np.int32), (0, _SCORED_AT_ONCE - count))
        chosen, ranks, values, ids = (np.asarray(array)[:count] for array in score(logits, wanted))
        tops = (tuple(zip(ids[at, :best].tolist(), values[at, :best].tolist(), strict=True)) for at in range(count))
        return [ScoredToken(*one) for one in zip(chosen.tolist(), ranks.tolist(), tops, strict=True)]

    def _forward(self, steps: tuple[Step, ...], start: int, stop: int) -> tuple[Array, np.ndarray]:
        """Tokens ``start`` to ``stop`` of each step through its layers; also how many are real in each padded row."""
        longest = max(step.position + stop for step in steps)
        padded = self._pad(steps, start, stop, self._shapes.apart(len(steps), stop - start, longest))
        return self._run_padded(steps[0].layers, padded), padded.lengths

    def _pad(self, steps: tuple[Step, ...], start: int, stop: int, shape: Shape) -> _Padded:
        """Tokens ``start`` to ``stop`` of each step in arrays of ``shape``."""
        padded = self._padding(steps[0].layers, shape)
        for row, step in enumerate(steps):
            for at, table in enumerate(self._pool.tables(step.request)):
                owned = table[: shape.pages]
                padded.tables[at, row, : len(owned)] = owned
            given = step.inputs[start:stop]
            padded.starts[row], padded.lengths[row] = step.position + start, len(given)
            padded.inputs[row, : len(given)] = given
        return padded

    def _padding(self, layers: LayerRange, shape: Shape) -> _Padded:
        """Arrays of ``shape`` without a real token."""
        tables = np.zeros((len(self._pool.windows), shape.rows, shape.pages), np.int32)
        inputs = self._empty_inputs(layers, shape.rows, shape.tokens)
        return _Padded(inputs, tables, np.zeros(shape.rows, np.int32), np.zeros(shape.rows, np.int32))

    def _empty_inputs(self, layers: LayerRange, rows: int, columns: int) -> np.ndarray:
        if layers.start == 0:
            return np.zeros((rows, columns), np.int32)
        return np.zeros((rows, columns, self.geometry.hidden_size), self._programs.dtype)

    def _run_padded(self, layers: LayerRange, padded: _Padded) -> Array:
        return self._programs.run_layers(self._embedded(layers, padded), self._prepared(padded), layers)

    def _run_mixed(self, layers: LayerRange, steps: _Padded, piece: _Padded) -> tuple[Array, Array]:
        states = self._embedded(layers, steps), self._embedded(layers, piece)
        return self._programs.run_mixed(*states, (self._prepared(steps), self._prepared(piece)), layers)

    def _prepared(self, padded: _Padded) -> PagedBatch:
        return self._programs.prepare(padded.tables, padded.starts, padded.lengths, padded.inputs.shape[1])

    def _embedded(self, layers: LayerRange, padded: _Padded) -> Array | np.ndarray:
        return self._programs.embed(padded.inputs) if layers.start == 0 else padded.inputs

    def _warm(self, shape: Shape) -> None:
        """Run a pass of padding, which touches only the scratch page."""
        hidden = self._run_padded(self.layers, self._padding(self.layers, shape))
        if self.layers.stop == self.geometry.num_layers:
            logits = (
                self._programs.every_logits(hidden)
                if shape.drafted
                else self._programs.last_logits(hidden, np.zeros(shape.rows, np.int32))
            )
            for params in (SamplingParams(), SamplingParams(temperature=1.0)):
                draw(logits, sampler_rows([params], [0], len(logits))).block_until_ready()
        hidden.block_until_ready()


def page_windows(geometry: ModelGeometry, layers: LayerRange, window: int) -> tuple[int, ...]:
    """The windows of a pool's tables: one for all layers where they keep the same, else one for each."""
    windows = [window if geometry.attention.window(layer) else 0 for layer in range(layers.start, layers.stop)]
    return tuple(windows) if len(set(windows)) > 1 else (windows[0],)


def _collect(batch: _Launched) -> Iterator[StepResult]:
    """Wait for a group and hand out its rows."""
    tokens = None if batch.tokens is None else np.asarray(batch.tokens)
    logprobs = None if batch.logprobs is None else tuple(np.asarray(array) for array in batch.logprobs)
    stretches = [np.asarray(array) for array in batch.hidden]
    for place, step in enumerate(batch.steps):
        if step.request in batch.drawn:
            yield batch.drawn[step.request]
            continue
        row = place * batch.columns
        hidden = np.concatenate([part[row] for part in stretches]) if len(stretches) > 1 else None
        if len(stretches) == 1:
            hidden = stretches[0][row]
        wanted = step.sampling
        sampled = None if tokens is None or wanted is None else int(tokens[row])
        scores = batch.scores.get(step.request, ())
        if not all(math.isfinite(one.logprob) for one in scores):
            yield StepResult(step.request, finite=False)
            continue
        if sampled == NOT_FINITE or (hidden is not None and not all_finite(hidden[: len(step.inputs)])):
            yield StepResult(step.request, finite=False)
            continue
        sums = [np.asarray(one) for one in batch.pooled.get(step.request, ())]
        if not all(map(all_finite, sums)):
            yield StepResult(step.request, finite=False)
            continue
        if step.request in batch.stuck:
            yield StepResult(step.request, stuck=True)
            continue
        yield StepResult(
            step.request,
            hidden=None if hidden is None else hidden[: len(step.inputs)],
            token=sampled,
            logprobs=_row_logprobs(logprobs, row, wanted),
            scores=scores,
            pooled=np.sum(sums, axis=0) if sums else None,
            more=() if tokens is None else tuple(_more(step, tokens, logprobs, row)),
        )


def _more(step: Step, tokens: np.ndarray, logprobs: tuple[np.ndarray, ...] | None, row: int) -> Iterator[DrawnToken]:
    """What is drawn behind a step's drafts, from ``row`` on, for as long as they are drawn."""
    for at, draft in enumerate(step.drafts):
        token = int(tokens[row + at + 1])
        if tokens[row + at] != draft or token == NOT_FINITE:
            return
        yield DrawnToken(token, _row_logprobs(logprobs, row + at + 1, step.sampling))


def _followed(first: StepResult, token: int, logprobs: TopLogprobs | None) -> StepResult:
    """What is drawn in a step, with one token more."""
    return replace(first, more=(*first.more, DrawnToken(token, logprobs)))


def _row_logprobs(arrays: tuple[np.ndarray, ...] | None, row: int, wanted: SamplingParams | None) -> TopLogprobs | None:
    if arrays is None or wanted is None or wanted.logprobs is None:
        return None
    chosen, values, ids = (array[row] for array in arrays)
    top = zip(ids[: wanted.logprobs].tolist(), values[: wanted.logprobs].tolist(), strict=True)
    return TopLogprobs(float(chosen), tuple(top))
