"""Which attention kernels a worker asks for: those of its job, or the fastest of this device.

On an accelerator kernels are tried once on numbers of the model's own shapes before the first request: what raises, or
computes something else than ours, isn't used. A CPU has nothing to choose from that is faster. Doesn't know weights.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from helix_df.errors import DeploymentError
from helix_df.models.attention import AttentionView, PagedBatch, computes, page_rows, write_pages
from helix_df.models.kv_cache import PagedCache, blank_cache
from helix_df.profiles.attention_kernels import (
    AUTO,
    KERNELS,
    OURS,
    AttentionCase,
    AttentionChoice,
    AttentionKernel,
    attention_kernels,
    case_of,
)
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_formats import KvFormat

log = logging.getLogger(__name__)

_RUNS = 5
"""Timed runs of a kernel, of which the fastest counts."""

_TOLERANCE = {"float32": 5e-3, "bfloat16": 3e-2, "float16": 5e-3}
"""How far a kernel may be from ours, where values are about 1. An accelerator's products of float32 have fewer bits."""


@dataclass(frozen=True, slots=True)
class AttentionBatches:
    """What is tried: decode steps of ``rows`` requests and a piece of ``piece`` tokens, after ``context`` tokens."""

    rows: int
    piece: int
    context: int
    page_tokens: int


@dataclass(frozen=True, slots=True)
class TriedKernel:
    """A kernel on one kind of batch: its seconds, or why it isn't used."""

    kernel: AttentionKernel
    seconds: float | None
    lacks: str | None = None

    def __str__(self) -> str:
        if self.seconds is None:
            return f"not {self.kernel.name} ({self.lacks})"
        return f"{self.kernel.name} {1e3 * self.seconds:.3g} ms"


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """All kernels on both kinds of batch."""

    decode: tuple[TriedKernel, ...]
    prefill: tuple[TriedKernel, ...]

    @property
    def fastest(self) -> AttentionChoice:
        """The fastest of each kind; ours where nothing else can."""
        return AttentionChoice(_fastest(self.decode), _fastest(self.prefill))

    def __str__(self) -> str:
        return f"decode: {', '.join(map(str, self.decode))}; prefill: {', '.join(map(str, self.prefill))}"


def _fastest(tried: Iterable[TriedKernel]) -> AttentionKernel:
    timed = [(one.seconds, one.kernel) for one in tried if one.seconds is not None]
    return min(timed, key=lambda one: one[0])[1] if timed else OURS


def choose_attention(
    name: str,
    geometry: ModelGeometry,
    dtype: str,
    kv: KvFormat | None,
    batches: AttentionBatches,
    *,
    platform: str | None = None,
) -> AttentionChoice:
    """The kernels of a worker's programs.

    Args:
        name: as in ``runtime.attention``.
        geometry: of the model, or of the share of one of several devices.
        dtype: of queries.
        kv: format of the KV cache; ``None``: as queries.
        batches: what is tried.
        platform: of the device; default this process's.

    Raises:
        DeploymentError: when the kernel of that name can do nothing here.
        ModelError: when there is none of that name.
    """
    platform = platform or jax.default_backend()
    accelerated = platform != "cpu"
    if name == OURS.name or (name == AUTO and not accelerated):
        return AttentionChoice()
    asked = tuple(attention_kernels().values()) if name == AUTO else (OURS, KERNELS.get(name))
    cases = cases_of(geometry, dtype, kv, batches, platform)
    if name != AUTO and not accelerated:
        return AttentionChoice(*_of_name(asked[1], {case: asked[1].lacks(case) for case in cases}))
    measured = KernelTimes(*(tuple(try_kernel(one, case, geometry, batches) for one in asked) for case in cases))
    log.info("attention: %s", measured)
    if name == AUTO:
        return measured.fastest
    lacking = {case: tried[1].lacks for case, tried in zip(cases, (measured.decode, measured.prefill), strict=True)}
    return AttentionChoice(*_of_name(asked[1], lacking))


def cases_of(
    geometry: ModelGeometry, dtype: str, kv: KvFormat | None, batches: AttentionBatches, platform: str
) -> tuple[AttentionCase, AttentionCase]:
    """Of a decode step and of a piece of a prompt."""
    of = partial(case_of, geometry, dtype=dtype, kv=kv or dtype, page_tokens=batches.page_tokens, platform=platform)
    return of(tokens=1), of(tokens=max(2, batches.piece))


def _of_name(kernel: AttentionKernel, lacks: dict[AttentionCase, str | None]) -> tuple[AttentionKernel, ...]:
    """The kernel for each case that it can do, ours for the others.

    Raises:
        DeploymentError: when it can do none.
    """
    if all(reason is not None for reason in lacks.values()):
        raise DeploymentError(
            "this worker can't compute attention as its job says",
            where="runtime.attention",
            found=f"{kernel.name}, which lacks {' and '.join(dict.fromkeys(map(str, lacks.values())))}",
            expected=" | ".join((AUTO, *KERNELS.names())),
        )
    return tuple(kernel if reason is None else OURS for reason in lacks.values())


def try_kernel(
    kernel: AttentionKernel, case: AttentionCase, geometry: ModelGeometry, batches: AttentionBatches
) -> TriedKernel:
    """Whether a kernel computes what ours does, and how long it takes."""
    lacks = kernel.lacks(case)
    if lacks is not None:
        return TriedKernel(kernel, None, lacks)
    try:
        problem = AttentionProblem.drawn(case, geometry, batches)
        found, expected = problem.run(kernel), problem.run(OURS)
        apart = float(jnp.max(jnp.abs(found.astype(jnp.float32) - expected.astype(jnp.float32))))
        if not apart <= _TOLERANCE.get(case.dtype, 0.0):
            return TriedKernel(kernel, None, f"it computes something else: {apart:.2g} apart")
        return TriedKernel(kernel, problem.seconds(kernel))
    except Exception as error:  # whatever a compiler says of a device that it doesn't serve
        return TriedKernel(kernel, None, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")


@dataclass(frozen=True, slots=True)
class AttentionProblem:
    """One batch of a layer, with numbers drawn from a seed."""

    queries: Array
    view: AttentionView
    batch: PagedBatch
    cache: PagedCache

    @classmethod
    def drawn(cls, case: AttentionCase, geometry: ModelGeometry, batches: AttentionBatches) -> AttentionProblem:
        """Of ``case``: decode steps of all rows, or one piece of a prompt, at the end of a context."""
        rows = batches.rows if case.tokens == 1 else 1
        each = max(1, -(-max(batches.context, case.tokens) // batches.page_tokens))
        pages = 1 + rows * each
        chance = np.random.default_rng(0)
        kept = cast(KvFormat, case.kv)
        cache = blank_cache(geometry, kept, pages, batches.page_tokens, jnp.zeros)
        tables = jnp.asarray(1 + chance.permutation(rows * each).reshape(rows, each), jnp.int32)
        whole = each * batches.page_tokens
        rows_of = partial(page_rows, kv_heads=case.kv_heads, pages=pages, page_tokens=batches.page_tokens)
        every = jnp.broadcast_to(jnp.arange(whole, dtype=jnp.int32), (rows, whole))
        write_rows, _ = rows_of(tables, every, jnp.full(rows, whole, jnp.int32))

        def numbers(*shape: int) -> Array:
            return jnp.asarray(chance.standard_normal(shape, np.float32), case.dtype)

        values = numbers(rows, whole, case.kv_heads, geometry.value_width) if geometry.value_width else None
        cache = write_pages(numbers(rows, whole, case.kv_heads, case.key_width), values, write_rows, cache)
        positions = every[:, whole - case.tokens :]
        write_rows, read_pages = rows_of(tables, positions, jnp.full(rows, case.tokens, jnp.int32))
        nothing = jnp.zeros(0)
        batch = PagedBatch(
            positions, nothing, nothing, write_rows, read_pages, jnp.int32(whole), jnp.int32(whole - case.tokens)
        )
        return cls(numbers(rows, case.tokens, case.heads, case.key_width), _view(case, geometry, whole), batch, cache)

    def run(self, kernel: AttentionKernel) -> Array:
        """What a kernel computes of it."""
        return _program(kernel, self.view.scale, self.view.softcap, self.view.value_width)(
            self.queries, self.view.window, self.view.sinks, self.batch, self.cache
        )

    def seconds(self, kernel: AttentionKernel, clock: Callable[[], float] = time.perf_counter) -> float:
        """The fastest of some runs, once it is compiled."""
        self.run(kernel).block_until_ready()
        return min(self._timed(kernel, clock) for _ in range(_RUNS))

    def _timed(self, kernel: AttentionKernel, clock: Callable[[], float]) -> float:
        start = clock()
        self.run(kernel).block_until_ready()
        return clock() - start


def _view(case: AttentionCase, geometry: ModelGeometry, context: int) -> AttentionView:
    options = geometry.attention
    return AttentionView(
        options.scale or geometry.head_dim**-0.5,
        options.softcap,
        jnp.int32(context) if case.window else None,
        jnp.zeros(case.heads, case.dtype) if case.sinks else None,
        geometry.latent.rank or None,
    )


@lru_cache(maxsize=16)
def _program(
    kernel: AttentionKernel, scale: float, softcap: float | None, value_width: int | None
) -> Callable[[Array, Array | None, Array | None, PagedBatch, PagedCache], Array]:
    attend = computes(kernel)

    def run(queries: Array, window: Array | None, sinks: Array | None, batch: PagedBatch, cache: PagedCache) -> Array:
        return attend(queries, AttentionView(scale, softcap, window, sinks, value_width), batch, cache)

    program: Callable[..., Array] = jax.jit(run)
    return program
