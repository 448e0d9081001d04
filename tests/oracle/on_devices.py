"""Families over several forced host devices, each a JSON line; ``test_recorded_devices`` reads them.

    python -m tests.oracle.on_devices FOLDER NAME:DEVICES…

In a process of its own, since how many devices there are is said before jax begins.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import jax

from helix_df.layers import LayerRange
from helix_df.models.weights import load_shares
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.single_process import generate_in_process
from helix_df.spec.source import ModelSource
from tests.oracle.cases import NEW_TOKENS, prompt_ids
from tests.oracle.family_checkpoints import LENGTHS, lengths_of, write_family

PAGES = 20


def run(folder: Path, name: str, count: int) -> dict[str, object]:
    """Greedy tokens of each prompt, and the bytes that each device holds once weights and KV cache are there."""
    source = ModelSource("hf", str(write_family(folder, name)))
    geometry = read_geometry(source)
    before = held()
    shard = load_shares(source, geometry, LayerRange(0, geometry.num_layers), jax.devices()[:count], layout="panels")
    weights = held() - before
    window = geometry.attention.windowed(shard.layers)[1]
    engine = Engine(
        shard, num_pages=PAGES, max_batch=1, max_prefill=32, layers_per_call=1, pages_at_once=2, window=window
    )
    cache = held() - before - weights
    ids = prompt_ids(geometry.vocab_size, max(LENGTHS))
    tokens = {
        length: list(generate_in_process(engine, ids[:length].tolist(), NEW_TOKENS)) for length in lengths_of(name)
    }
    return {
        "name": name,
        "count": count,
        "tokens": tokens,
        "bytes": list(weights.values()),
        "cache": list(cache.values()),
    }


def held() -> Counter[int]:
    """Bytes on each device, those that several arrays share counted once."""
    found: dict[tuple[int, int], int] = {}
    for array in jax.live_arrays():
        for share in array.addressable_shards:
            found[share.device.id, share.data.unsafe_buffer_pointer()] = share.data.nbytes
    each: Counter[int] = Counter()
    for (device, _), size in found.items():
        each[device] += size
    return each


def main(folder: str, *cases: str) -> None:
    """Run all cases."""
    jax.config.update("jax_num_cpu_devices", 4)
    for case in cases:
        name, _, count = case.partition(":")
        print(json.dumps(run(Path(folder), name, int(count))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
