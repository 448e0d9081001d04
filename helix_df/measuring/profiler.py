"""Times the runtime's own engine on this device: milliseconds a layer for prefills and decode steps.

Owns which layers are loaded and which batches run. Compiling never counts: a batch is timed once it has run before.
Doesn't know what the numbers are used for (``device_profile``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from helix_df.errors import SpecError
from helix_df.layers import LayerRange
from helix_df.measuring.device_profile import Kind, Memory, Sample
from helix_df.paths import cache_folder
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.worker.build import attention_of, load_layers
from helix_df.runtime.worker.compile_cache import enable_compile_cache
from helix_df.runtime.worker.device import backend_defaults, share_products
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.steps import Step
from helix_df.spec.job import Job


@dataclass(frozen=True, slots=True)
class Batches:
    """What is timed: numbers of layers, prompt tokens of prefills, requests of decode steps, and runs of each."""

    layers: tuple[int, ...]
    prefill: tuple[int, ...]
    decode: tuple[int, ...]
    context: int
    repeat: int

    def __len__(self) -> int:
        return len(self.layers) * (len(self.prefill) + len(self.decode))


@dataclass(frozen=True, slots=True)
class Timed:
    """The samples, the device's own name, and its memory where it tells."""

    samples: tuple[Sample, ...]
    device: str
    memory: Memory | None


def time_batches(
    job: Job,
    batches: Batches,
    clock: Callable[[], float],
    on_sample: Callable[[Sample], None] = lambda sample: None,
    devices: int = 1,
) -> Timed:
    """Run every batch through layers from the middle of the job's model.

    Args:
        job: whose model, batch limits and context to use.
        batches: what to time.
        clock: seconds of any monotonic clock.
        on_sample: called with each sample as it is there.
        devices: of this process that share the layers.

    Raises:
        ModelError: when the weights can't be read.
        SpecError: for sizes that the model or the job doesn't allow.
    """
    geometry, held = read_geometry(job.model.parsed_source), held_layers(job, batches)
    engine = engine_of(job, held, batches, devices)
    samples = []
    for kind, count, size in _all(batches):
        layers = LayerRange(held.start, held.start + count)
        steps = steps_of(kind, layers, size, batches, geometry)
        sample = Sample(kind, count, size, _time(engine, steps, batches.repeat, clock))
        samples.append(sample)
        on_sample(sample)
    return Timed(tuple(samples), device_name(devices), _memory(jax.local_devices()[0], devices))


def held_layers(job: Job, batches: Batches) -> LayerRange:
    """The layers to load.

    Raises:
        SpecError: for sizes that the model or the job doesn't allow.
    """
    geometry = read_geometry(job.model.parsed_source)
    held = middle_layers(geometry, max(batches.layers))
    _check(batches, job, geometry)
    return held


def engine_of(job: Job, held: LayerRange, batches: Batches, devices: int) -> Engine:
    """An engine as a worker of the job has it, with room for all batches.

    Raises:
        ModelError: when the weights can't be read.
    """
    enable_compile_cache(cache_folder("compiled"))
    share_products(None)
    shard = load_layers(job, held, devices)
    return Engine(
        shard,
        num_pages=_pages(batches),
        max_batch=job.runtime.max_batch,
        max_context=job.model.context,
        max_prefill=job.runtime.max_prefill_tokens,
        kv=job.model.kv,
        attention=attention_of(job, shard, PAGE_TOKENS * _pages(batches)),
        **backend_defaults(),
    )


def device_name(devices: int) -> str:
    """What so many devices of this process call themselves."""
    device = jax.local_devices()[0]
    named = f"{device.device_kind} ({device.platform})"
    return named if devices == 1 else f"{devices} x {named}"


def middle_layers(geometry: ModelGeometry, count: int) -> LayerRange:
    """``count`` layers without the model's ends, if it has so many, since the ends cost something of their own.

    The heaviest, where layers differ, as in plans.

    Raises:
        SpecError: when the model has fewer layers.
    """
    if count > geometry.num_layers:
        raise SpecError(
            "the model has fewer layers", where="--layers", found=str(count), expected=f"at most {geometry.num_layers}"
        )
    start = 1 if count < geometry.num_layers else 0
    places = (LayerRange(first, first + count) for first in range(start, geometry.num_layers - count + 1))
    return max(places, key=geometry.parameters)


def _check(batches: Batches, job: Job, geometry: ModelGeometry) -> None:
    context = min(job.model.context or geometry.context_length, geometry.context_length)
    if max(batches.prefill) > context:
        raise SpecError(
            "the model's context is shorter",
            where="--prefill",
            found=str(max(batches.prefill)),
            expected=f"at most {context}",
        )
    if max(batches.decode) > job.runtime.max_batch:
        raise SpecError(
            "the job decodes fewer requests together",
            where="--decode",
            found=str(max(batches.decode)),
            expected=f"at most {job.runtime.max_batch}",
            hint="raise runtime.max_batch in the job",
        )


def _pages(batches: Batches) -> int:
    """Pages for the largest batch; each is given back before the next."""
    decode = max(batches.decode) * -(-(batches.context + 1) // PAGE_TOKENS)
    return max(decode, -(-max(batches.prefill) // PAGE_TOKENS))


def _all(batches: Batches) -> Iterator[tuple[Kind, int, int]]:
    for layers in batches.layers:
        yield from (("prefill", layers, tokens) for tokens in batches.prefill)
        yield from (("decode", layers, requests) for requests in batches.decode)


def steps_of(kind: Kind, layers: LayerRange, size: int, batches: Batches, geometry: ModelGeometry) -> tuple[Step, ...]:
    """A prefill of ``size`` tokens, or decode steps of so many requests."""
    if kind == "prefill":
        return (_step("profile-0", layers, 0, size, geometry),)
    # Nobody wrote the keys and values that these steps read: zeros take as long.
    return tuple(_step(f"profile-{index}", layers, batches.context, 1, geometry) for index in range(size))


def _step(request: str, layers: LayerRange, position: int, count: int, geometry: ModelGeometry) -> Step:
    if layers.start == 0:
        return Step(request, layers, position, tokens=np.zeros(count, np.int32))
    return Step(request, layers, position, hidden=np.full((count, geometry.hidden_size), 0.01, np.float32))


def _time(engine: Engine, steps: Sequence[Step], repeat: int, clock: Callable[[], float]) -> tuple[float, ...]:
    try:
        engine.run(steps)
        compiled = engine.compilations
        seconds = []
        for _ in range(repeat):
            start = clock()
            results = engine.run(steps)
            seconds.append(clock() - start)
            assert not any(result.kv_full for result in results), "the profiler's cache is too small for its own batch"
        assert engine.compilations == compiled, "a timed batch was compiled"
        return tuple(seconds)
    finally:
        for step in steps:
            engine.release(step.request)


def _memory(device: jax.Device, devices: int) -> Memory | None:
    """What so many devices let this process use, before weights; a CPU doesn't say."""
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else Memory(devices * float(limit), "what the device lets one process use")
