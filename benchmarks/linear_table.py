"""Products of a few rows with weight matrices, by how the matrices lie in memory, beside reading them once.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false taskset -c 0 python -m benchmarks.linear_table

Milliseconds on one thread, medians of interleaved rounds; more matrices than any cache holds take turns.
"""

from __future__ import annotations

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from helix_df.models.linear import Layout, lay_out, linear

SHAPES = ((768, 4096), (2048, 768), (576, 3072))
ROWS = (1, 2, 4, 8, 16, 64, 256)
ROUNDS = 9
BYTES = 160 << 20
LAYOUTS: tuple[Layout, ...] = ("rows", "panels")


def read_bytes_per_s() -> float:
    """What a sum over an array far larger than any cache reaches."""
    array = np.ones(1 << 26, np.float32)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        array.sum()
        seconds.append(time.perf_counter() - started)
    return array.nbytes / statistics.median(seconds)


def main() -> None:
    bandwidth = read_bytes_per_s()
    print(f"Reading: {bandwidth / 1e9:.1f} GB/s\n")
    print("| inputs x outputs | rows of input | matrix in rows, ms | in panels, ms | ratio | reading it once, ms |")
    print("|---|---|---|---|---|---|")
    product = jax.jit(linear)
    chance = np.random.default_rng(0)
    for inputs, outputs in SHAPES:
        size = 4 * inputs * outputs
        plain = [chance.standard_normal((outputs, inputs), dtype=np.float32) for _ in range(max(1, BYTES // size))]
        matrices = {layout: [jnp.asarray(lay_out(one, layout)) for one in plain] for layout in LAYOUTS}
        for rows in ROWS:
            given = jnp.asarray(chance.standard_normal((rows, inputs), dtype=np.float32))
            taken: dict[Layout, list[float]] = {layout: [] for layout in LAYOUTS}
            for turn in range(ROUNDS + 1):
                for layout, all_of_it in matrices.items():
                    started = time.perf_counter()
                    for matrix in all_of_it:
                        last = product(given, matrix)
                    last.block_until_ready()
                    if turn:
                        taken[layout].append((time.perf_counter() - started) / len(all_of_it))
            in_rows, in_panels = (1e3 * statistics.median(taken[layout]) for layout in LAYOUTS)
            print(
                f"| {inputs} x {outputs} | {rows} | {in_rows:.2f} | {in_panels:.2f} | {in_rows / in_panels:.1f} "
                f"| {1e3 * size / bandwidth:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
