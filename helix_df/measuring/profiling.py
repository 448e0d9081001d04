"""Measure a model on this device: times by the runtime's own engine, memory, and what the job had declared.

measured = profile_device(load_job("job.yaml"), node="a")
sys.stdout.write(profile_yaml(measured))
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from helix_df.errors import SpecError
from helix_df.graph.compile import origin_of
from helix_df.graph.held_weights import divided_weights, held_weights
from helix_df.graph.problem import Origin
from helix_df.load import load_job, parse_job
from helix_df.measuring.device_profile import DeviceProfile, Memory, Sample, profile_yaml
from helix_df.plan.plan import read_plan
from helix_df.profiles.catalogue import device_count
from helix_df.profiles.device_shares import held_by
from helix_df.profiles.kv_formats import kv_token_bytes
from helix_df.profiles.throughput import kv_tokens_by_layers
from helix_df.runtime.jobs.launchers.local import threads_each
from helix_df.runtime.threads import with_one_thread
from helix_df.spec.job import GpuType, Job

if TYPE_CHECKING:
    from helix_df.measuring.profiler import Batches
    from helix_df.measuring.tracing import EngineTrace

__all__ = ["job_to_profile", "model_job", "node_gpu", "profile_device", "profile_yaml", "trace_device"]

LAYERS = (1, 2, 4)
PREFILL = (16, 64, 256)
DECODE = (1, 4, 8, 16)
REPEAT = 7
TRACED_TOKENS, TRACED_REQUESTS, TRACED_RUNS = 64, 8, 3
MODEL_GPU = "measured"
"""The name of the GPU type when a model is profiled without a job."""


def model_job(source: str, dtype: str = "float32") -> Job:
    """A job of one node for a model that is profiled without one.

    Raises:
        SpecError: for what is no model's source.
    """
    text = (
        f"name: profile\nmodel: {{source: {_quoted(source)}, dtype: {dtype}}}\n"
        f"gpus: {{{MODEL_GPU}: {{memory: 1TiB, profile: {{prefill_ms: [[1, 1]], decode_ms: [[1, 1]]}}}}}}\n"
        f"nodes: {{here: {{gpu: {MODEL_GPU}}}}}\nlinks: {{default: {{bandwidth: 10Gbps}}}}\n"
    )
    job = parse_job(text, name=source, base=Path())
    return job.model_copy(update={"gpus": {MODEL_GPU: GpuType()}})


def job_to_profile(source: str, dtype: str = "float32") -> Job:
    """The job of a job file or a plan file; one of one node for what else names a model, such as ``hf:DIR``.

    Raises:
        SpecError, PlanError: when it can't be read.
    """
    path = Path(source)
    if path.suffix == ".json":
        return read_plan(path).job
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return load_job(path)
    return model_job(source, dtype)


def node_gpu(job: Job, node: str | None) -> str:
    """The GPU type of a node; without a name, the one that all nodes have.

    Raises:
        SpecError: when there is no such node, or no such one type.
    """
    if node is not None:
        if node not in job.nodes:
            raise SpecError("there is no such node", where="--node", found=node, expected=" | ".join(job.nodes))
        return job.nodes[node].gpu
    kinds = {one.gpu for one in job.nodes.values()}
    if len(kinds) > 1:
        raise SpecError(
            "the nodes have different GPUs",
            where="--node",
            expected=f"the node that this machine is: {' | '.join(job.nodes)}",
        )
    return kinds.pop()


def profile_device(
    job: Job,
    node: str | None = None,
    *,
    layers: tuple[int, ...] | None = None,
    prefill: tuple[int, ...] | None = None,
    decode: tuple[int, ...] | None = None,
    repeat: int = REPEAT,
    clock: Callable[[], float] = time.perf_counter,
    on_sample: Callable[[Sample], None] = lambda sample: None,
) -> DeviceProfile:
    """Time the job's model on this device, in the batches that its runtime would run.

    Args:
        job: whose model, dtype, workload and batch limits to use.
        node: which of its nodes this machine is; needed where they differ in GPU.
        layers: how many to run at once; default 1, 2 and 4, as far as the model has so many.
        prefill: prompt tokens; default 16, 64 and 256, as far as the context goes.
        decode: requests; default 1, 4, 8 and 16, as far as ``runtime.max_batch`` goes.
        repeat: timed runs of each batch.
        clock: seconds of any monotonic clock.
        on_sample: called with each sample as it is there.

    Raises:
        SpecError: for a node, sizes or layers that the job or the model doesn't have.
        ModelError: when the model can't be read.
    """
    gpu = node_gpu(job, node)
    _share_cores(job, node)
    from helix_df.measuring.profiler import time_batches

    origin = origin_of(job)
    geometry = origin.geometry
    batches = _batches(job, origin, _BatchSizes(layers, prefill, decode), repeat)
    timed = time_batches(job, batches, clock, on_sample, device_count(gpu))
    memory = _memory(job, gpu, timed.memory)
    together = held_by(geometry, device_count(gpu))
    held = divided_weights(job, geometry, device_count(gpu))
    kv_bytes = kv_token_bytes(together, job.model.kv_format)
    kv_tokens = kv_tokens_by_layers(
        together, job.model.element_bytes, memory.total_bytes, origin.requests, held, kv_bytes
    )
    return DeviceProfile(
        gpu=gpu,
        device=timed.device + (", one thread" if with_one_thread(os.environ) else ""),
        model=f"{job.model.source} in {job.model.precision}",
        context=batches.context,
        samples=timed.samples,
        memory=memory,
        weights_bytes=round(held_weights(job, geometry).layer),
        kv_tokens=kv_tokens,
    )


def trace_device(
    job: Job,
    folder: Path,
    node: str | None = None,
    *,
    layers: tuple[int, ...] | None = None,
    prefill: tuple[int, ...] | None = None,
    decode: tuple[int, ...] | None = None,
    repeat: int = TRACED_RUNS,
) -> EngineTrace:
    """Trace a prefill and a decode step of the job's model on this device, into ``folder``.

    Args:
        job, node: as for ``profile_device``.
        folder: where the trace's files go.
        layers: how many run at once; default all of a model that has no more than 4, else 4 from its middle.
        prefill: prompt tokens; default 64.
        decode: requests; default 8.
        repeat: traced runs of each.

    Raises:
        SpecError: for a folder that can't be written to, and as ``profile_device``.
        ModelError: when the model can't be read.
    """
    gpu = node_gpu(job, node)
    _share_cores(job, node)
    from helix_df.measuring.tracing import trace_batches

    origin = origin_of(job)
    longest = min(job.model.context or origin.geometry.context_length, origin.geometry.context_length)
    sizes = _BatchSizes(
        layers or (min(max(LAYERS), origin.geometry.num_layers),),
        prefill or (min(TRACED_TOKENS, longest),),
        decode or (min(TRACED_REQUESTS, job.runtime.max_batch),),
    )
    return trace_batches(job, _batches(job, origin, sizes, repeat), folder, device_count(gpu))


def _share_cores(job: Job, node: str | None) -> None:
    """Compute as a worker of this job would: on one thread where many workers share this machine."""
    local = sum(1 for one in job.nodes.values() if one.started_by == "local")
    mine = node is None or job.nodes[node].started_by == "local"
    if mine and "jax" not in sys.modules:  # afterwards the flags are not read any more
        os.environ.update(threads_each(os.environ, local))


class _BatchSizes(NamedTuple):
    """As they are asked for; ``None``: the usual ones."""

    layers: tuple[int, ...] | None
    prefill: tuple[int, ...] | None
    decode: tuple[int, ...] | None


def _batches(job: Job, origin: Origin, sizes: _BatchSizes, repeat: int) -> Batches:
    from helix_df.measuring.profiler import Batches

    geometry, requests = origin.geometry, origin.requests
    context = min(job.model.context or geometry.context_length, geometry.context_length)
    inner = max(1, geometry.num_layers - 2)
    options = ("--layers", "--prefill", "--decode", "--repeat")
    for where, given in zip(options, (*sizes, (repeat,)), strict=True):
        if given is not None and (not given or min(given) < 1):
            raise SpecError("sizes must be at least 1", where=where, found=str(given))

    def chosen(given: tuple[int, ...] | None, usual: tuple[int, ...], most: int) -> tuple[int, ...]:
        return tuple(sorted(set(given if given is not None else (min(size, most) for size in usual))))

    return Batches(
        layers=chosen(sizes.layers, LAYERS, inner),
        prefill=chosen(sizes.prefill, PREFILL, min(context, max(PREFILL))),
        decode=chosen(sizes.decode, DECODE, job.runtime.max_batch),
        context=min(context - 1, int(requests.input_tokens + requests.output_tokens / 2)),
        repeat=repeat,
    )


def _memory(job: Job, gpu: str, of_device: Memory | None) -> Memory:
    declared = job.gpus.get(gpu, GpuType()).memory
    if of_device is not None:
        return of_device
    if declared is not None:
        return Memory(declared, "as declared in the job, since a CPU has no limit of its own")
    local = max(1, sum(1 for one in job.nodes.values() if one.started_by == "local"))
    share = "" if local == 1 else f", shared by {local} workers"
    return Memory(float(available_bytes() // local >> 20 << 20), f"RAM available now{share}")


def available_bytes() -> int:
    """RAM that this process could still get, within its control group's limit."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass  # not a Linux, or without control groups: what is known so far has to do
    return max(1, min(found))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
