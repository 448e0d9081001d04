"""Emulated clusters for real: what the runtime delivers against what the declared links and speeds allow, and what
codecs do to bytes and logits.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.emulation_table

A cluster is two worker processes of SmolLM2, half the layers each. With one request at a time, a token takes one step
on either node: the seconds of both are measured in this process first, and their sum, with the second over its speed,
says what to expect of a slowed node. With eight requests over a slow link, its bandwidth over the bytes of a decode
message says what to expect. Generated tokens/s are medians of three rounds of greedy requests, from when each request
has its first token.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from functools import partial

import numpy as np

from benchmarks.halves import SMOLLM2, halves_plan
from benchmarks.serving import answer_all, serving
from helix_df.codecs import Codec, packed_bytes
from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.plan.plan import Plan
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.framing import decode, encode
from helix_df.runtime.wire.messages import Forward
from helix_df.runtime.worker.device import backend_defaults, matrix_layout
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.steps import Step
from helix_df.spec.source import parse_source

HALF, LAYERS = 15, 30
CODECS: tuple[Codec, ...] = ("none", "bfloat16", "int8")
PROMPT = tuple(range(100, 116))
REQUEST_KEY = "r0-000/1"

# Rounds repeat their prompt, and are to compute it every time.
two_nodes = partial(halves_plan, SMOLLM2, context=256, kv_tokens=8192, prefix_cache=False)


async def measure(plan: Plan, requests: int, tokens: int) -> tuple[float, list[list[int]]]:
    """Median generated tokens/s from the second token on, and the tokens."""
    rates, answers = [], []
    async with serving(plan) as coordinator:
        for turn in range(4):
            found = await answer_all(coordinator, [PROMPT] * requests, tokens)
            answers = [one.tokens for one in found]
            # From when every request has its first token: prompts cost more than the rows compare.
            steady = sorted(time_s for one in found for time_s in one.times_s)[requests:]
            if turn:
                rates.append((len(steady) - 1) / (steady[-1] - steady[0]))
    return statistics.median(rates), answers


def message_bytes(codec: Codec, hidden: int) -> int:
    """Bytes of a decode step between two workers, header included."""
    tensor = np.zeros((1, hidden), np.float32)
    return sum(
        memoryview(part).nbytes for part in encode(Forward(REQUEST_KEY, 40, True, None, tensor, codec), "0" * 32)
    )


def engines() -> list[Engine]:
    """The two halves of the model."""
    source = parse_source(SMOLLM2)
    geometry = read_geometry(source)
    shards = (
        load_shard(source, geometry, layers, dtype="float32", seed=0, layout=matrix_layout())
        for layers in (LayerRange(0, HALF), LayerRange(HALF, LAYERS))
    )
    return [Engine(shard, num_pages=64, max_batch=1, max_context=256, **backend_defaults()) for shard in shards]


def codec_rows(halves: list[Engine]) -> None:
    """Bytes of a token and the change of log-probabilities at the hand-over in the middle of the model."""
    prompt = np.array([504, 3575, 282, 4649, 314], dtype=np.int32)  # "The capital of France is"
    sent = halves[0].run([Step("r", LayerRange(0, HALF), 0, tokens=prompt)])[0].hidden
    assert sent is not None
    print("| codec | bytes a token | message | largest change of the top 20 log-probabilities | greedy token |")
    print("|---|---|---|---|---|")
    exact: dict[int, float] = {}
    for codec in CODECS:
        arrived = decode(encode(Forward("r", 0, True, None, sent, codec), ""), "")
        assert isinstance(arrived, Forward)
        sampling = SamplingParams(logprobs=20)
        step = Step(codec, LayerRange(HALF, LAYERS), 0, hidden=arrived.tensor, sampling=sampling)
        result = halves[1].run([step])[0]
        assert result.logprobs is not None
        top = dict(result.logprobs.top)
        exact = exact or top
        worst = max(abs(top[token] - exact[token]) for token in top.keys() & exact.keys())
        hidden = halves[0].geometry.hidden_size
        payload = packed_bytes(hidden, 4, codec)
        print(f"| {codec} | {payload} | {message_bytes(codec, hidden)} | {worst:.4f} | {result.token} |")


def step_seconds(halves: list[Engine]) -> tuple[float, float]:
    """Median seconds of a decode step of one request on either half."""
    first: list[float] = []
    second: list[float] = []
    for position in range(60):
        token = np.array([position], dtype=np.int32)
        started = time.perf_counter()
        hidden = halves[0].run([Step("t", LayerRange(0, HALF), position, tokens=token)])[0].hidden
        between = time.perf_counter()
        step = Step("t", LayerRange(HALF, LAYERS), position, hidden=hidden, sampling=SamplingParams())
        halves[1].run([step])
        first.append(between - started)
        second.append(time.perf_counter() - between)
    return statistics.median(first[10:]), statistics.median(second[10:])


async def clusters(seconds: tuple[float, float]) -> None:
    """Measured beside expected."""
    hidden = read_geometry(parse_source(SMOLLM2)).hidden_size
    first_s, second_s = seconds
    print(f"\nA decode step takes {1e3 * first_s:.2f} ms on the first half, {1e3 * second_s:.2f} ms on the second.\n")
    print("| cluster | requests | expected tokens/s | measured | same tokens as plain |")
    print("|---|---|---|---|---|")
    expected: list[list[int]] = []
    for speed in (1.0, 0.5, 0.25):
        rate, answers = await measure(two_nodes(speed=speed), 1, 40)
        expected = expected or answers
        name = "plain" if speed == 1 else f"second node at speed {speed}"
        print(
            f"| {name} | 1 | {1 / (first_s + second_s / speed):.1f} | {rate:.1f} | {answers == expected} |", flush=True
        )
    for codec in CODECS:
        rate, answers = await measure(two_nodes(link={"bandwidth": "1Mbps", "latency": "5ms", "codec": codec}), 8, 40)
        most = 125_000 / message_bytes(codec, hidden)
        same = sum(answer == expected[0] for answer in answers)
        print(f"| 1 Mbit/s, 5 ms, {codec} | 8 | at most {most:.1f} | {rate:.1f} | {same} of 8 |", flush=True)


if __name__ == "__main__":
    both = engines()
    codec_rows(both)
    asyncio.run(clusters(step_seconds(both)))
