"""transformers on torch: one process, greedy with its KV cache, all prompts of one length in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.child import Answer, Generate, Setup, Stopwatch, serve
from benchmarks.peers.system import System, one_thread


def systems(python: Path) -> list[System]:
    """Its row."""
    how = "1 process, 2 threads"
    return [
        System("transformers", how, "benchmarks.peers.transformers", "transformers", python, environment=one_thread(2))
    ]


@contextmanager
def load(setup: Setup) -> Iterator[Generate]:
    """See ``child``."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(setup.cores))
    model = AutoModelForCausalLM.from_pretrained(setup.folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def generate(prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        watch = Stopwatch(len(prompts))
        inputs, cache = torch.tensor(prompts), None
        for _ in range(tokens):
            output = model(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            inputs = output.logits[:, -1].argmax(-1, keepdim=True)
            watch.step(inputs[:, 0].tolist())
        return watch.answers()

    yield generate


if __name__ == "__main__":
    serve(load)
