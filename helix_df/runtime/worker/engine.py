"""One worker's compute: batches of steps in, hidden states and tokens out.

Owns batching, padding and the pages of each request. Doesn't know sockets, routes or other workers: a ``Step`` says
everything about its share of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jax import Array

from helix_df.layers import LayerRange
from helix_df.models.llama import LlamaShard
from helix_df.rules.pages import PAGE_TOKENS
from helix_df.runtime.requests import EngineHealth, TopLogprobs
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.buckets import bucket_for, bucket_sizes
from helix_df.runtime.worker.compile_cache import compiled_programs
from helix_df.runtime.worker.kv_pages import PagePool
from helix_df.runtime.worker.programs import ShardPrograms
from helix_df.runtime.worker.sampler import (
    NOT_FINITE,
    SamplerRows,
    log_probabilities,
    pick_greedily,
    sample,
    sampler_rows,
)
from helix_df.runtime.worker.steps import Step, StepResult

_SMALLEST_PREFILL = 16
_SMALLEST_CONTEXT_PAGES = 8
_SHORT_PROMPT = 64


@dataclass(frozen=True, slots=True)
class WarmUpProgress:
    """``done`` of ``total`` shapes are ready; ``shape`` is the one just made, in words."""

    done: int
    total: int
    shape: str


@dataclass(frozen=True, slots=True)
class _Shape:
    """The padded shape of a batch: ``rows`` requests of ``tokens`` tokens each, with ``pages`` pages of context."""

    rows: int
    tokens: int
    pages: int


@dataclass(frozen=True, slots=True, eq=False)
class _Launched:
    """Steps under way on the device, one row each. ``hidden`` is a list of stretches along T."""

    steps: tuple[Step, ...]
    hidden: tuple[Array, ...]
    tokens: Array | None
    logprobs: tuple[Array, Array, Array] | None


class Engine:
    """Runs steps on one shard, with its own paged KV cache.

    Args:
        shard: the layers to run.
        num_pages: KV pages for requests, in each held layer (one more is kept as scratch).
        max_batch: most decode steps in one program; more run one batch after another.
        max_context: most tokens of one request, prompt and output; default the model's.
        max_prefill: most prompt tokens in one program; longer stretches run chunk by chunk.
        layers_per_call: see ``ShardPrograms``.
        pages_at_once: see ``attend_in_pages``. With stretches, the shape of a batch is the same for all contexts.
        page_tokens: tokens a page.
    """

    def __init__(
        self,
        shard: LlamaShard,
        *,
        num_pages: int,
        max_batch: int = 8,
        max_context: int | None = None,
        max_prefill: int = 512,
        layers_per_call: int = 8,
        pages_at_once: int | None = None,
        page_tokens: int = PAGE_TOKENS,
    ) -> None:
        self.geometry = shard.geometry
        self.layers = shard.layers
        self.max_context = min(max_context or self.geometry.context_length, self.geometry.context_length)
        self._pool = PagePool(num_pages, page_tokens)
        self._programs = ShardPrograms(
            shard,
            num_pages=num_pages + 1,
            page_tokens=page_tokens,
            layers_per_call=layers_per_call,
            pages_at_once=pages_at_once,
        )
        self._batch_sizes = bucket_sizes(1, max_batch)
        self._prefill_sizes = bucket_sizes(_SMALLEST_PREFILL, max(max_prefill, _SMALLEST_PREFILL))
        self._decode_pages, self._prefill_pages = self._context_sizes(pages_at_once)
        self._shapes, self._shapes_first = self._plan_shapes()
        self._warm_shapes = 0

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
        return self._pool.num_pages * self._pool.page_tokens

    @property
    def programs(self) -> ShardPrograms:
        """The compiled programs, for benchmarks."""
        return self._programs

    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        """Run ``steps`` and wait for their results, in the same order.

        A step that doesn't fit in the KV cache comes back ``kv_full`` with its request's state as it was; the others
        run all the same.

        Raises:
            ValueError: for two steps of one request, layers that aren't held, or inputs that don't fit the layers.
        """
        for step in steps:
            self._check(step)
        if len({step.request for step in steps}) != len(steps):
            raise ValueError("a batch holds two steps of one request")
        admitted = [step for step in steps if self._reserve(step)]
        launched = [self._launch(group) for group in self._group(admitted)]
        results = {result.request: result for batch in launched for result in _collect(batch)}
        for result in results.values():
            if not result.finite:
                self._scrub(result.request)
        return [results.get(step.request, StepResult(step.request, kv_full=True)) for step in steps]

    def release(self, request: str) -> None:
        """Free the request's pages. Unknown requests are fine."""
        self._pool.release(request)

    def fork(self, parent: str, child: str, tokens: int) -> None:
        """Let ``child`` begin with what is computed of the first ``tokens`` tokens of ``parent``, whole pages only.

        Raises:
            ValueError: when ``child`` holds pages already, or ``parent`` fewer than that.
        """
        self._pool.fork(parent, child, tokens)

    def trim(self, request: str, tokens: int) -> None:
        """Free the request's pages but for those of its first ``tokens`` tokens."""
        self._pool.trim(request, tokens)

    @property
    def health(self) -> EngineHealth:
        """Shapes that ``warm_up`` hasn't compiled yet, programs of this process, and pages in use."""
        cold = len(self._shapes) - self._warm_shapes
        return EngineHealth(cold, compiled_programs(), self.used_pages * self._pool.page_tokens)

    def warm_up(self, *, only_first: bool = False) -> Iterator[WarmUpProgress]:
        """Compile the shapes that are still cold, those that a first short request needs before all others.

        Args:
            only_first: stop when a short request can be served; a later call goes on from there.
        """
        last = self._shapes_first if only_first else len(self._shapes)
        while self._warm_shapes < last:
            shape = self._shapes[self._warm_shapes]
            self._warm(shape)
            self._warm_shapes += 1
            yield WarmUpProgress(self._warm_shapes, last, self._words(shape))

    def _words(self, shape: _Shape) -> str:
        context = f", {shape.pages} pages of context" if len(self._decode_pages) > 1 else ""
        return f"{shape.rows} x {shape.tokens} tokens{context}"

    def _context_sizes(self, pages_at_once: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Pages of context that shapes may have, in batches of decode steps and of prompts."""
        most = self._pool.pages_for(self.max_context)
        if pages_at_once is not None:
            whole_stretches = (-(-most // pages_at_once) * pages_at_once,)
            return whole_stretches, whole_stretches
        return bucket_sizes(_SMALLEST_CONTEXT_PAGES, most), bucket_sizes(_SMALLEST_CONTEXT_PAGES, most, ratio=4)

    def _plan_shapes(self) -> tuple[list[_Shape], int]:
        """Every shape that ``run`` can ask for, in order of need, and how many make a first short request."""
        fits = self._pool.pages_for
        decode = [_Shape(rows, 1, pages) for pages in self._decode_pages for rows in self._batch_sizes]
        prefill = [
            _Shape(1, tokens, pages)
            for pages in self._prefill_pages
            for tokens in self._prefill_sizes
            if pages >= min(fits(tokens), self._prefill_pages[-1])
        ]
        shortest = {tokens: min(s.pages for s in prefill if s.tokens == tokens) for tokens in self._prefill_sizes}
        first = [decode[0], *(s for s in prefill if s.tokens <= _SHORT_PROMPT and s.pages == shortest[s.tokens])]
        rest = sorted((s for s in decode + prefill if s not in first), key=lambda s: (s.pages, s.rows, s.tokens))
        return first + rest, len(first)

    def _check(self, step: Step) -> None:
        if not self.layers.covers(step.layers):
            raise ValueError(f"layers {step.layers} aren't held here, {self.layers} are")
        if step.inputs.shape[1:] not in ((), (self.geometry.hidden_size,)) or step.position < 0:
            raise ValueError(f"inputs of shape {step.inputs.shape} at position {step.position}")

    def _scrub(self, request: str) -> None:
        """Blank the pages that only this request holds: NaN would reach whoever holds them next, however masked."""
        self._programs.blank(self._pool.own_pages(request))

    def _reserve(self, step: Step) -> bool:
        stop = step.position + len(step.inputs)
        return stop <= self.max_context and self._pool.reserve(step.request, stop)

    def _group(self, steps: Sequence[Step]) -> Iterator[tuple[Step, ...]]:
        """Decode steps of the same layers together, at most ``max_batch``; each prefill on its own."""
        decodes: dict[LayerRange, list[Step]] = {}
        for step in steps:
            if len(step.inputs) == 1:
                decodes.setdefault(step.layers, []).append(step)
        most = self._batch_sizes[-1]
        for group in decodes.values():
            for at in range(0, len(group), most):
                yield tuple(group[at : at + most])
        for step in steps:
            if len(step.inputs) > 1:
                yield (step,)

    def _launch(self, steps: tuple[Step, ...]) -> _Launched:
        """Start a group on the device; a long prefill goes chunk by chunk."""
        longest, chunk = len(steps[0].inputs), self._prefill_sizes[-1]
        hidden: list[Array] = []
        lengths = np.zeros(1, np.int32)
        for at in range(0, longest, chunk):
            state, lengths = self._forward(steps, at, min(at + chunk, longest))
            hidden.append(state)
        if steps[0].layers.stop < self.geometry.num_layers:
            return _Launched(steps, tuple(hidden), None, None)
        if all(step.sampling is None for step in steps):
            hidden[-1].block_until_ready()
            return _Launched(steps, (), None, None)
        logits = self._programs.last_logits(hidden[-1], lengths)
        params = [step.sampling for step in steps]
        rows = sampler_rows(params, [step.position + len(step.inputs) for step in steps], len(lengths))
        tokens = _draw(logits, rows)
        wants_logprobs = any(one is not None and one.logprobs is not None for one in params)
        return _Launched(steps, (), tokens, log_probabilities(logits, tokens) if wants_logprobs else None)

    def _forward(self, steps: tuple[Step, ...], start: int, stop: int) -> tuple[Array, np.ndarray]:
        """Tokens ``start`` to ``stop`` of each step through its layers; also how many are real in each padded row."""
        columns = 1 if stop - start == 1 and start == 0 else bucket_for(stop - start, self._prefill_sizes)
        rows = bucket_for(len(steps), self._batch_sizes)
        need = self._pool.pages_for(max(step.position + stop for step in steps))
        pages = bucket_for(need, self._decode_pages if columns == 1 else self._prefill_pages)
        tables = np.zeros((rows, pages), np.int32)
        starts, lengths = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        inputs = self._empty_inputs(steps[0].layers, rows, columns)
        for row, step in enumerate(steps):
            owned = self._pool.table(step.request)[:pages]
            tables[row, : len(owned)] = owned
            starts[row], lengths[row] = step.position + start, stop - start
            inputs[row, : stop - start] = step.inputs[start:stop]
        return self._run_padded(steps[0].layers, inputs, tables, starts, lengths), lengths

    def _empty_inputs(self, layers: LayerRange, rows: int, columns: int) -> np.ndarray:
        if layers.start == 0:
            return np.zeros((rows, columns), np.int32)
        return np.zeros((rows, columns, self.geometry.hidden_size), self._programs.dtype)

    def _run_padded(
        self, layers: LayerRange, inputs: np.ndarray, tables: np.ndarray, starts: np.ndarray, lengths: np.ndarray
    ) -> Array:
        batch = self._programs.prepare(tables, starts, lengths, inputs.shape[1])
        hidden = self._programs.embed(inputs) if layers.start == 0 else inputs
        return self._programs.run_layers(hidden, batch, layers)

    def _warm(self, shape: _Shape) -> None:
        """Run a batch of padding, which touches only the scratch page."""
        nothing = np.zeros(shape.rows, np.int32)
        tables = np.zeros((shape.rows, shape.pages), np.int32)
        inputs = self._empty_inputs(self.layers, shape.rows, shape.tokens)
        hidden = self._run_padded(self.layers, inputs, tables, nothing, nothing)
        if self.layers.stop == self.geometry.num_layers:
            logits = self._programs.last_logits(hidden, nothing)
            for params in (SamplingParams(), SamplingParams(temperature=1.0)):
                _draw(logits, sampler_rows([params], [0], shape.rows)).block_until_ready()
        hidden.block_until_ready()


def _draw(logits: Array, rows: SamplerRows) -> Array:
    tokens: Array = sample(logits, rows) if np.any(rows.temperature) else pick_greedily(logits)
    return tokens


def _collect(batch: _Launched) -> Iterator[StepResult]:
    """Wait for a group and hand out its rows."""
    tokens = None if batch.tokens is None else np.asarray(batch.tokens)
    logprobs = None if batch.logprobs is None else tuple(np.asarray(array) for array in batch.logprobs)
    stretches = [np.asarray(array) for array in batch.hidden]
    for row, step in enumerate(batch.steps):
        hidden = np.concatenate([part[row] for part in stretches]) if len(stretches) > 1 else None
        if len(stretches) == 1:
            hidden = stretches[0][row]
        wanted = step.sampling
        sampled = None if tokens is None or wanted is None else int(tokens[row])
        if sampled == NOT_FINITE or (hidden is not None and not _is_finite(hidden[len(step.inputs) - 1])):
            yield StepResult(step.request, finite=False)
            continue
        yield StepResult(
            step.request,
            hidden=None if hidden is None else hidden[: len(step.inputs)],
            token=sampled,
            logprobs=_row_logprobs(logprobs, row, wanted),
        )


def _is_finite(hidden: np.ndarray) -> bool:
    """Whether the hidden state [hidden] of a last token is finite; one that wasn't before it is seen in its keys."""
    return bool(np.isfinite(hidden.astype(np.float32, copy=False)).all())


def _row_logprobs(arrays: tuple[np.ndarray, ...] | None, row: int, wanted: SamplingParams | None) -> TopLogprobs | None:
    if arrays is None or wanted is None or wanted.logprobs is None:
        return None
    chosen, values, ids = (array[row] for array in arrays)
    top = zip(ids[: wanted.logprobs].tolist(), values[: wanted.logprobs].tolist(), strict=True)
    return TopLogprobs(float(chosen), tuple(top))
