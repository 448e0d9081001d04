"""Families × where weights come from × how they are kept, as Markdown: what works, and how far it is from float32.

    python -m tests.oracle.support_table [FAMILY …]

Small random models of each family. ``exact`` is the largest difference of a logit from transformers' recorded one; the
other figures are the mean divergence (KL, nats) of next-token probabilities from those in float32, which rounding to so
few bits costs random weights, that have no structure to keep. What is refused says so.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helix_df.errors import HelixError
from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import check_weights, read_geometry
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.single_process import generate_in_process
from helix_df.spec.source import ModelSource
from tests.oracle.cases import RECORDED, prompt_ids
from tests.oracle.family_checkpoints import FAMILY_CONFIGS, LENGTHS, lengths_of, write_family
from tests.oracle.family_gguf import GGUF_NAMES, write_family_gguf
from tests.whole_model import whole_logits

KEPT: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8": {"kept": "int8"},
    "int4": {"kept": "int4"},
}
KV = "int8"


@dataclass(frozen=True, slots=True)
class Family:
    """A family's model and what transformers says of it."""

    name: str
    ids: np.ndarray
    recorded: dict[int, np.ndarray]

    def exact(self, source: ModelSource) -> str:
        """The largest difference of a logit from the recorded ones."""
        logits = logits_of(source, self.ids)
        most = max(np.abs(logits[length - 1] - told).max() for length, told in self.recorded.items())
        return f"{most:.1e}"


def logits_of(source: ModelSource, ids: np.ndarray, **how: Any) -> np.ndarray:
    """Of every position, float32 [tokens, vocabulary]."""
    geometry = read_geometry(source)
    check_weights(source, geometry)
    return np.asarray(whole_logits(load_shard(source, geometry, **how), ids[None])[0], np.float32)


def divergence(exact: np.ndarray, other: np.ndarray) -> float:
    """Mean over positions of what next-token probabilities lose, in nats."""
    ours, theirs = log_softmax(exact), log_softmax(other)
    return float((np.exp(ours) * (ours - theirs)).sum(axis=-1).mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def same_tokens(source: ModelSource, ids: np.ndarray) -> str:
    """How many of 16 greedy tokens are the same with an int8 KV cache, before the first that isn't."""
    model = load_shard(source, read_geometry(source))
    said = []
    for kv in (None, KV):
        engine = Engine(model, num_pages=8, max_batch=1, max_prefill=32, layers_per_call=1, pages_at_once=2, kv=kv)  # type: ignore[arg-type]
        said.append(list(generate_in_process(engine, ids[:20].tolist(), 16)))
    differ = [at for at, (one, other) in enumerate(zip(*said, strict=True)) if one != other]
    return f"{min(differ, default=16)} of 16"


def tried(figure: Callable[[], str]) -> str:
    """A figure, or why there is none."""
    try:
        return figure()
    except HelixError as error:
        return f"refused: {error.problem}"


def row(name: str, folder: Path) -> list[str]:
    """The cells of a family."""
    source = ModelSource("hf", str(write_family(folder, name)))
    told = np.load(RECORDED / "families.npz")
    ids = prompt_ids(read_geometry(source).vocab_size, max(LENGTHS))
    family = Family(name, ids, {length: told[f"{name}.logits.{length}"] for length in lengths_of(name)})
    float32 = logits_of(source, ids)
    cells = [name, tried(lambda: family.exact(source))]
    if name in GGUF_NAMES:
        cells.append(tried(lambda: family.exact(ModelSource("gguf", str(write_family_gguf(folder, name))))))
    else:
        cells.append("no such architecture")
    for how in KEPT.values():
        cells.append(tried(lambda how=how: f"{divergence(float32, logits_of(source, ids, **how)):.1e}"))  # type: ignore[misc]
    return [*cells, tried(lambda: same_tokens(source, ids))]


def main(names: list[str]) -> None:
    columns = ["family", "safetensors, exact", "GGUF, exact", *KEPT, f"tokens with kv {KV}"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for name in names or FAMILY_CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {' | '.join(row(name, Path(folder)))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
