"""Every family through the whole runtime, three workers and all, against what is recorded of transformers.

    python -m tests.oracle.every_family [FAMILY…]

Prints a row a family: how far log-probabilities are apart at most, and seconds. Ends with 1 if a greedy token differs,
or a log-probability by more than 1e-3.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.oracle.cases import NEW_TOKENS, RECORDED, prompt_ids
from tests.oracle.family_checkpoints import FAMILY_CONFIGS, lengths_of, write_family
from tests.oracle.serving import greedy, served

MOST_APART = 1e-3


def log_softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    return exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())


async def worst_logprob(folder: Path, name: str) -> float:
    """How far the log-probabilities of first tokens are from the recorded ones, at most; infinite if a token differs.

    In batches, and with the prefix cache: the second round begins like the first.
    """
    recorded, lengths = np.load(RECORDED / "families.npz"), lengths_of(name)
    config = FAMILY_CONFIGS[name]
    prompts = [prompt_ids(config["vocab_size"], length).tolist() for length in lengths]
    worst = 0.0
    async with served(f"hf:{write_family(folder, name)}", config["num_hidden_layers"]) as job:
        for turn in range(2):
            asked = (greedy(job, f"{turn}-{len(prompt)}", prompt, NEW_TOKENS) for prompt in prompts)
            for length, events in zip(lengths, await asyncio.gather(*asked), strict=True):
                if [event.token for event in events] != recorded[f"{name}.tokens.{length}"].tolist():
                    return float("inf")
                expected = log_softmax(recorded[f"{name}.logits.{length}"])
                worst = max(worst, *(abs(found - expected[token]) for token, found in events[0].logprobs.top))
    return worst


def main(names: Sequence[str]) -> int:
    print(f"| family | log-probabilities apart at most, {NEW_TOKENS} tokens equal | s |\n|---|---|---|")
    is_right = True
    for name in names or FAMILY_CONFIGS:
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            worst = asyncio.run(worst_logprob(Path(folder), name))
        is_right &= worst < MOST_APART
        print(f"| {name} | {worst:.1e} | {time.monotonic() - began_s:.0f} |", flush=True)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
