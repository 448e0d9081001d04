"""Attention kernels side by side, alone and in the runtime's own engine, on whatever device there is.

    python -m benchmarks.attention_table [--model random:llama-3.2-1b] [--layers 2] [--kv int8] [--quick]

First attention of one layer, by itself: decode steps of 1 and 16 requests and a piece of 512 tokens, at the end of a
context. Then the engine: decode steps and prefills through layers of the model, milliseconds a layer. A kernel that
lacks something says so, and nothing of it is timed. On an accelerator all layers run, in bfloat16; on a CPU two, in
float32, and the kernels for GPUs don't.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import jax

from helix_df.errors import HelixError
from helix_df.measuring.device_profile import Sample
from helix_df.measuring.profiler import Batches, time_batches
from helix_df.measuring.profiling import model_job
from helix_df.profiles.attention_kernels import OURS, AttentionKernel, attention_kernels
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_formats import KvFormat
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.worker.attention_choice import AttentionBatches, cases_of, try_kernel
from helix_df.spec.job import Job

DECODE, PREFILL, CONTEXTS = (1, 16), (64, 512), (1024, 4096)


def kernel_rows(geometry: ModelGeometry, dtype: str, kv: KvFormat | None, contexts: tuple[int, ...]) -> Iterator[str]:
    """Of attention alone, a row a kernel and context: milliseconds, or what the kernel lacks."""
    for context in contexts:
        for kernel in attention_kernels().values():
            cells = []
            for rows in DECODE:
                batches = AttentionBatches(rows, max(PREFILL), context, PAGE_TOKENS)
                decode, prefill = cases_of(geometry, dtype, kv, batches, jax.default_backend())
                cells.append(str(try_kernel(kernel, decode, geometry, batches)))
            cells.append(str(try_kernel(kernel, prefill, geometry, batches)))
            yield f"| {kernel.name} | {context:,} | {' | '.join(cells)} |"


def engine_row(job: Job, kernel: AttentionKernel, batches: Batches) -> str:
    """Of the engine with a kernel: milliseconds a layer of each batch."""
    runtime = job.runtime.model_copy(update={"attention": kernel.name})
    try:
        timed = time_batches(job.model_copy(update={"runtime": runtime}), batches, time.perf_counter)
    except HelixError as error:
        return f"| {kernel.name} | {error.found or error.problem} |"
    return f"| {kernel.name} | {' | '.join(_cell(sample) for sample in timed.samples)} |"


def _cell(sample: Sample) -> str:
    return f"{1e3 * statistics.median(sample.seconds) / sample.layers:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="random:llama-3.2-1b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--kv", choices=("int8",))
    parser.add_argument("--quick", action="store_true", help="a short context, and one run of each batch")
    given = parser.parse_args()
    accelerated = jax.default_backend() != "cpu"
    device = jax.local_devices()[0]
    print(f"{device.device_kind} ({device.platform})" + ("" if accelerated else ": there is no GPU here"))
    dtype = "bfloat16" if accelerated else "float32"
    job = model_job(given.model, dtype)
    geometry = read_geometry(job.model.parsed_source)
    contexts = (256,) if given.quick else CONTEXTS
    of_model = {"kv": given.kv, "context": min(2 * contexts[0], geometry.context_length)}
    job = job.model_copy(update={"model": job.model.model_copy(update=of_model)})
    print("\n| attention of one layer | context | decode 1 | decode 16 | piece of 512 |\n|---|---|---|---|---|")
    for row in kernel_rows(geometry, dtype, given.kv, contexts):
        print(row, flush=True)
    layers = given.layers or (geometry.num_layers if accelerated else 2)
    batches = Batches((layers,), PREFILL, DECODE, contexts[0], 1 if given.quick else 9)
    columns = (*(f"prefill {size}" for size in PREFILL), *(f"decode {size}" for size in DECODE))
    print(f"\n| {layers} layers, ms a layer | {' | '.join(columns)} |\n{'|---' * (1 + len(columns))}|")
    for kernel in sorted(attention_kernels().values(), key=lambda one: one is not OURS):
        print(engine_row(job, kernel, batches), flush=True)


if __name__ == "__main__":
    main()
