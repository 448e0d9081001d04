"""A prefill and a decode step of a job's model under jax's profiler, and where their time went.

Owns what runs. The files are those of TensorBoard's profile plugin (xprof) and Perfetto. Doesn't know how they are read
(``trace_scopes``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax

from helix_df.errors import SpecError
from helix_df.layers import LayerRange
from helix_df.measuring.device_profile import Kind
from helix_df.measuring.profiler import Batches, device_name, engine_of, held_layers, steps_of
from helix_df.measuring.trace_scopes import ScopeTime, newest_trace, scope_times
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.steps import Step
from helix_df.spec.job import Job


@dataclass(frozen=True, slots=True)
class EngineTrace:
    """What was traced, and where.

    Attributes:
        path: the file that has everything.
        device: its own name.
        attention: the kernels of its attention.
        layers: those that ran.
        prefill: prompt tokens of a prefill.
        decode: requests of a decode step.
        runs: of each.
        scopes: of all runs, those first that took longest.
    """

    path: Path
    device: str
    attention: str
    layers: LayerRange
    prefill: int
    decode: int
    runs: int
    scopes: tuple[ScopeTime, ...]


def trace_batches(job: Job, batches: Batches, folder: Path, devices: int = 1) -> EngineTrace:
    """Trace the largest prefill and decode step of ``batches``, through its most layers.

    Everything has run once before it is traced, so that compiling isn't in it. Layers that end the model also draw
    tokens.

    Raises:
        ModelError: when the weights can't be read.
        SpecError: for sizes that the model or the job doesn't allow, and a folder that can't be written to.
    """
    require_writable(folder)
    held = held_layers(job, batches)
    with _names_as_they_are():
        return _traced(job, batches, held, folder, devices)


def _traced(job: Job, batches: Batches, held: LayerRange, folder: Path, devices: int) -> EngineTrace:
    geometry, engine = read_geometry(job.model.parsed_source), engine_of(job, held, batches, devices)
    prefill, decode = max(batches.prefill), max(batches.decode)
    sizes: tuple[tuple[Kind, int], ...] = (("prefill", prefill), ("decode", decode))
    ends_model = held.stop == geometry.num_layers
    each = {
        phase: [_drawing(step, ends_model) for step in steps_of(phase, held, size, batches, geometry)]
        for phase, size in sizes
    }
    for steps in each.values():
        _run(engine, steps)
    with jax.profiler.trace(str(folder)):
        for phase, steps in each.items():
            for _ in range(batches.repeat):
                with jax.profiler.TraceAnnotation(phase):
                    _run(engine, steps)
    return EngineTrace(
        path=newest_trace(folder),
        device=device_name(devices),
        attention=engine.health.attention,
        layers=held,
        prefill=prefill,
        decode=decode,
        runs=batches.repeat,
        scopes=scope_times(folder, tuple(each)),
    )


@contextmanager
def _names_as_they_are() -> Iterator[None]:
    """What is kept compiled has the names of when it was compiled, by which it isn't told from others elsewhere."""
    name = "jax_compilation_cache_include_metadata_in_key"
    before = getattr(jax.config, name)
    jax.config.update(name, True)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        jax.config.update(name, before)  # type: ignore[no-untyped-call]


def require_writable(folder: Path) -> None:
    """Make the folder of a trace, if need be.

    Raises:
        SpecError: when it can't be made, or nothing written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".helix-df"
        probe.touch()
        probe.unlink()
    except OSError as failure:
        raise SpecError(
            "no trace can be written there",
            where="--trace",
            found=f"{folder}: {failure.strerror}",
            expected="a folder, there already or not, that may be written to",
        ) from failure


def _drawing(step: Step, ends_model: bool) -> Step:
    if not ends_model:
        return step
    return Step(step.request, step.layers, step.position, step.tokens, step.hidden, sampling=SamplingParams())


def _run(engine: Engine, steps: Sequence[Step]) -> None:
    results = engine.run(steps)
    assert all(result.fault is None for result in results), "a traced batch came to nothing"
    for step in steps:
        engine.release(step.request)
