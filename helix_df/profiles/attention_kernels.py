"""Ways to compute attention over pages, by name, and what each can do.

Owns the rules, as pure functions: which kernel computes a case, and why another one can't. What a kernel can't do is
computed by ``gather``, which does everything. Built in, or of other packages by the entry point
``helix_df.attention_kernels``, an ``AttentionKernel`` each. Doesn't know arrays or times
(``models.attention``, ``runtime.worker.attention_choice``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from helix_df.errors import ModelError
from helix_df.plugins import Registry, instance_of
from helix_df.profiles.geometry import ModelGeometry

AUTO = "auto"
"""In a job: the fastest on an accelerator, as measured when a worker starts; ``gather`` on a CPU."""


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """What is to be computed of one layer and batch.

    Attributes:
        tokens: of each request in the batch; 1 in a decode step.
        heads: of queries.
        kv_heads: of keys and values.
        key_width: numbers of a head's key.
        page_tokens: tokens a page.
        dtype: of queries.
        kv: number format of the cache.
        softcap: whether scores are capped.
        window: whether queries see a window only.
        sinks: whether heads have sinks.
        latent: whether values are among keys.
        platform: of the device, as jax calls it: ``cpu``, ``gpu``, ``tpu``.
    """

    tokens: int
    heads: int
    kv_heads: int
    key_width: int
    page_tokens: int
    dtype: str
    kv: str
    softcap: bool = False
    window: bool = False
    sinks: bool = False
    latent: bool = False
    platform: str = "gpu"


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """What is known of a kernel without importing it.

    Attributes:
        name: in a job.
        meaning: follows the name in the reference of the job language.
        place: module and attribute of what computes it: queries [B, T, heads, head_dim], ``AttentionView``,
            ``PagedBatch`` and ``PagedCache`` → [B, T, heads * value_width].
        lacks: why it can't compute a case; ``None`` where it can.
    """

    name: str
    meaning: str
    place: str
    lacks: Callable[[AttentionCase], str | None]


def _lacks_nothing(_case: AttentionCase) -> None:
    return None


def _fused_lacks(case: AttentionCase) -> str | None:
    if case.latent:
        return "values that are part of keys"
    if case.softcap:
        return "capped scores"
    if case.sinks:
        return "sinks"
    return "an int8 KV cache" if case.kv == "int8" else None


def _paged_lacks(case: AttentionCase) -> str | None:
    if case.platform != "gpu":
        return f"a device of platform {case.platform}: it is for GPUs"
    if case.tokens > 1:
        return "pieces of prompts: it decodes"
    if case.latent:
        return "values that are part of keys"
    if case.window:
        return "sliding windows"
    if case.sinks:
        return "sinks"
    if case.kv not in (case.dtype, "int8"):
        return f"a KV cache in {case.kv} beside {case.dtype}"
    for words, size in (("heads", case.key_width), ("pages", case.page_tokens)):
        if size < _LEAST_SIDE or size & (size - 1):
            return f"{words} of {size}: a power of two from {_LEAST_SIDE} on"
    return None


_LEAST_SIDE = 16
"""Of a product that Triton makes on a GPU's matrix units."""

OURS = AttentionKernel(
    "gather", "reads pages side by side, and then as one product", "helix_df.models.attention:gather", _lacks_nothing
)
FUSED = AttentionKernel(
    "fused",
    "reads pages side by side for jax's fused attention, cuDNN's where that can",
    "helix_df.models.fused_attention:attend",
    _fused_lacks,
)
PAGED = AttentionKernel(
    "paged",
    "reads pages where they lie, by jax's Pallas kernel for decode steps on GPUs",
    "helix_df.models.paged_attention:attend",
    _paged_lacks,
)
BUILT_IN = {one.name: one for one in (OURS, FUSED, PAGED)}
KERNELS = Registry(
    "attention kernel",
    "helix_df.attention_kernels",
    {name: f"{__name__}:{attribute}" for name, attribute in zip(BUILT_IN, ("OURS", "FUSED", "PAGED"), strict=True)},
    "a helix_df.profiles.attention_kernels.AttentionKernel",
    instance_of(AttentionKernel),
    ModelError,
)


def attention_kernels() -> Mapping[str, AttentionKernel]:
    """All kernels by name, ours first.

    Raises:
        ModelError: when an entry point can't be loaded.
    """
    return {name: KERNELS.get(name) for name in KERNELS.names()}


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """Which kernel decode steps and pieces of prompts ask for."""

    decode: AttentionKernel = OURS
    prefill: AttentionKernel = OURS

    @property
    def words(self) -> str:
        """For people."""
        if self.decode is self.prefill:
            return self.decode.name
        return f"{self.decode.name}, {self.prefill.name} for prompts"

    def kernel(self, case: AttentionCase) -> AttentionKernel:
        """The kernel that computes ``case``: the one that is asked for, or ours where that can't."""
        asked = self.decode if case.tokens == 1 else self.prefill
        return asked if asked.lacks(case) is None else OURS


def case_of(
    geometry: ModelGeometry, *, tokens: int, dtype: str, kv: str, page_tokens: int, platform: str = "gpu"
) -> AttentionCase:
    """What the layers of a model come to, in batches of ``tokens`` tokens a request.

    Where some layers have a window, all share a program in which any may have one.
    """
    options = geometry.attention
    return AttentionCase(
        tokens=tokens,
        heads=geometry.num_heads,
        kv_heads=geometry.cached_heads,
        key_width=geometry.key_width,
        page_tokens=page_tokens,
        dtype=dtype,
        kv=kv,
        softcap=options.softcap is not None,
        window=bool(options.windows),
        sinks=options.sinks,
        latent=bool(geometry.latent.rank),
        platform=platform,
    )
