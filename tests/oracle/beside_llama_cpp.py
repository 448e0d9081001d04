"""llama.cpp on the GGUF files that families are tested with, beside what is recorded of transformers.

    python -m tests.oracle.beside_llama_cpp --python .venv-llama/bin/python [FAMILY…]

Both read the same weights, one from GGUF and one from safetensors, so that this says whether the files are as llama.cpp
has them; ``test_recorded_families`` says that we read them as transformers has the model. Prints a row a family: how
far log-probabilities behind prompts are apart at most, and how many of the greedy tokens are equal. How to install
llama-cpp-python is in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import read_geometry
from helix_df.spec.source import parse_source
from tests.oracle.cases import NEW_TOKENS, RECORDED, prompt_ids
from tests.oracle.every_family import MOST_APART, log_softmax
from tests.oracle.family_checkpoints import FAMILY_CONFIGS, lengths_of
from tests.oracle.family_gguf import GGUF_NAMES, write_family_gguf
from tests.whole_model import whole_logits

UP_TO = {"phi3": 40}
"""Positions that count: beyond them a window matters, which llama.cpp leaves out for this architecture."""

OTHERWISE = {
    "deepseek-v2": "llama.cpp takes queries without a low rank for V2 Lite, of 27 layers",
    "deepseek-v2-groups": "llama.cpp judges groups by their two best experts, as V3 does, not by the best",
}
"""What llama.cpp doesn't compute as the model's own code does."""

ROUNDED_RAMP = "gpt-oss"
"""llama.cpp rounds the ends of YaRN's ramp to whole dimensions, where this model's configuration says not to: what it
says is held to what we compute from the same file with such ends."""

HALF_GELU = ("gemma2", "gemma3")
"""llama.cpp looks this activation up in a table of float16."""

CHILD = Path(__file__).with_name("llama_cpp_child.py")


def said_by_llama_cpp(python: Path, path: Path, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """Logits behind each prompt, and tokens.

    Raises:
        RuntimeError: with its last words, if it can't.
    """
    asked = json.dumps({"path": str(path), "prompts": prompts, "tokens": NEW_TOKENS})
    done = subprocess.run([str(python), str(CHILD)], input=asked, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(" / ".join(done.stderr.strip().splitlines()[-3:]) or f"exit code {done.returncode}")
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def with_rounded_ramp(path: Path, prompts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Our logits behind prompts, from a GGUF file."""
    source = parse_source(f"gguf:{path}")
    geometry = read_geometry(source)
    assert geometry.rope_scaling is not None, "this model has a ramp"
    rounded = replace(geometry, rope_scaling=replace(geometry.rope_scaling, truncated=True))
    shard = load_shard(source, rounded, LayerRange(0, geometry.num_layers))
    return [whole_logits(shard, [prompt])[0, -1] for prompt in prompts]


def compare(python: Path, name: str) -> tuple[float, int, int]:
    """The largest difference of a log-probability, equal tokens, and all that are compared."""
    recorded, lengths = np.load(RECORDED / "families.npz"), lengths_of(name)
    prompts = [prompt_ids(FAMILY_CONFIGS[name]["vocab_size"], length).tolist() for length in lengths]
    with tempfile.TemporaryDirectory() as folder:
        path = write_family_gguf(Path(folder), name, no_vocabulary=True)
        said = said_by_llama_cpp(python, path, prompts)
        if name == ROUNDED_RAMP:
            both = zip(said, with_rounded_ramp(path, prompts), strict=True)
            apart = [log_softmax(np.array(one["logits"])) - log_softmax(logits) for one, logits in both]
            return max(float(np.abs(one).max()) for one in apart), 0, 0
    worst, equal, count, last = 0.0, 0, 0, UP_TO.get(name, max(lengths) + NEW_TOKENS)
    for length, one in zip(lengths, said, strict=True):
        if length > last:
            continue
        apart = log_softmax(np.array(one["logits"])) - log_softmax(recorded[f"{name}.logits.{length}"])
        worst = max(worst, float(np.abs(apart).max()))
        tokens = recorded[f"{name}.tokens.{length}"].tolist()[: last - length + 1]
        equal += sum(mine == theirs for mine, theirs in zip(one["tokens"], tokens, strict=False))
        count += len(tokens)
    return worst, equal, count


def main(arguments: list[str]) -> int:
    """Print the table; 1 where a family is further apart than 1e-3 or says other tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(GGUF_NAMES))
    parser.add_argument("--python", type=Path, required=True, help="an interpreter with llama-cpp-python")
    options = parser.parse_args(arguments)
    print("| family in GGUF | log-probabilities apart at most | tokens equal |\n|---|---|---|")
    is_right = True
    for name in options.families:
        if name in OTHERWISE:
            print(f"| {name} | {OTHERWISE[name]} | – |")
            continue
        try:
            worst, equal, count = compare(options.python, name)
        except RuntimeError as error:
            print(f"| {name} | {error} | |", flush=True)
            is_right = False
            continue
        is_right &= worst < (10 if name in HALF_GELU else 1) * MOST_APART and equal == count
        print(f"| {name} | {worst:.1e} | {equal} of {count} |", flush=True)
    return int(not is_right)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
