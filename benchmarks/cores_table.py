"""Decode steps and prompts of one worker on 1, 2, 4 … threads, side by side, and whether the answers are the same.

    python -m benchmarks.cores_table [--rounds 5] [--weights float32 stored]

SmolLM2 in one process for each number of threads, on as many cores, which take turns. Milliseconds of wall time,
medians over all steps; beside them what a step costs of CPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.halves import SMOLLM2, halves_plan
from helix_df.layers import LayerRange
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.runtime.threads import usable_cores, with_large_pages, with_threads

ROWS = (1, 4, 8, 16)
PROMPT = 128
STEPS = 12


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A worker on several threads.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", nargs="+", default=["float32", "stored"])
    options = parser.parse_args()
    cores = usable_cores()
    counts = [threads for threads in (1, 2, 4, 8, 16) if threads <= len(cores)]
    for weights in options.weights:
        _table(weights, counts, cores, options.rounds)


def _table(weights: str, counts: Sequence[int], cores: Sequence[int], rounds: int) -> None:
    workers = {threads: _start(weights, cores[:threads]) for threads in counts}
    wall: dict[tuple[int, str], list[float]] = {}
    cpu: dict[tuple[int, str], list[float]] = {}
    answers: dict[int, Any] = {}
    for link in workers.values():
        link.recv()  # it is warm
    for turn in range(rounds):
        for threads, link in workers.items():
            link.send(turn)
            answers[threads], found = link.recv()
            for what, taken_s, cpu_s in found:
                wall.setdefault((threads, what), []).append(taken_s)
                cpu.setdefault((threads, what), []).append(cpu_s)
    for link in workers.values():
        link.send(None)
    same = all(answer == answers[counts[0]] for answer in answers.values())
    print(f"Weights {weights}: the same tokens and the same log-probabilities on all: {'yes' if same else 'NO'}.\n")
    print("| | " + " | ".join(f"{threads} threads, ms (CPU ms)" for threads in counts) + " | gain |")
    print("|---" * (len(counts) + 2) + "|")
    for what in dict.fromkeys(name for _, name in wall):
        each = {threads: statistics.median(wall[threads, what]) for threads in counts}
        spent = {threads: statistics.median(cpu[threads, what]) for threads in counts}
        figures = " | ".join(f"{1e3 * each[threads]:.1f} ({1e3 * spent[threads]:.1f})" for threads in counts)
        print(f"| {what} | {figures} | {each[counts[0]] / each[counts[-1]]:.2f} |")
    print(flush=True)


def _start(weights: str, cores: Sequence[int]) -> Connection:
    ours, theirs = multiprocessing.Pipe()
    before = dict(os.environ)
    os.environ.update(with_threads(before, len(cores)) | with_large_pages(before))
    context = multiprocessing.get_context("spawn")
    context.Process(target=_serve, args=(theirs, weights, tuple(cores)), daemon=True).start()
    os.environ.clear()
    os.environ.update(before)
    return ours


def _serve(link: Connection, weights: str, cores: tuple[int, ...]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    engine = _engine(weights)
    _round(engine, 0)
    link.send("warm")
    while link.recv() is not None:
        link.send(_round(engine, 1))


def _engine(weights: str) -> Any:
    from helix_df.paths import cache_folder
    from helix_df.runtime.worker.build import load_layers
    from helix_df.runtime.worker.compile_cache import enable_compile_cache
    from helix_df.runtime.worker.device import backend_defaults, share_products
    from helix_df.runtime.worker.engine import Engine

    enable_compile_cache(cache_folder("compiled"))
    share_products(None)
    job = halves_plan(SMOLLM2, context=512, kv_tokens=2048, max_batch=16).job
    job = job.model_copy(update={"model": job.model.model_copy(update={"weights": weights})})
    shard = load_layers(job, LayerRange(0, _layers(job)), 1)
    return Engine(shard, num_pages=2048 // PAGE_TOKENS * 2, max_batch=max(ROWS), max_context=512, **backend_defaults())


def _layers(job: Any) -> int:
    """Layers of the job's model."""
    from helix_df.profiles.read_geometry import read_geometry

    return int(read_geometry(job.model.parsed_source).num_layers)


def _round(engine: Any, seed: int) -> tuple[Any, list[tuple[str, float, float]]]:
    """Prompts, then steps of so many requests; tokens with log-probabilities, and how long each kind took."""
    from helix_df.runtime.sampling import SamplingParams
    from helix_df.runtime.worker.steps import Step

    sampling = SamplingParams(logprobs=2)
    drawn: list[Any] = []
    found: list[tuple[str, float, float]] = []

    def timed(what: str, steps: list[Step], told: list[tuple[float, float]]) -> list[int]:
        began_s, cpu_s = time.perf_counter(), time.process_time()
        results = engine.run(steps)
        told.append((time.perf_counter() - began_s, time.process_time() - cpu_s))
        drawn.extend((what, result.token, result.logprobs) for result in results)
        return [int(result.token) for result in results]

    prompt: list[tuple[float, float]] = []
    inputs: list[int] = []
    for row in range(max(ROWS)):
        ids = np.arange(PROMPT, dtype=np.int32) * 7 % 1000 + 100 + row + seed
        inputs += timed("prompt", [Step(f"r{row}", engine.layers, 0, ids, None, sampling)], prompt)
    found.append((f"a prompt of {PROMPT}", *map(statistics.median, zip(*prompt, strict=True))))
    position = PROMPT
    for rows in ROWS:
        told: list[tuple[float, float]] = []
        for _ in range(STEPS):
            steps = [
                Step(f"r{row}", engine.layers, position, np.array([inputs[row]], np.int32), None, sampling)
                for row in range(rows)
            ]
            inputs[:rows] = timed(f"{rows} rows", steps, told)
            position += 1
        position -= STEPS  # each number of rows goes on from the prompts
        found.append((f"a step of {rows}", *map(statistics.median, zip(*told, strict=True))))
    for row in range(max(ROWS)):
        engine.release(f"r{row}")
    return drawn, found


if __name__ == "__main__":
    main()
