"""Prompts that begin alike, of a model with short windows: how much of them isn't computed.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.window_prefix_table [--kv-tokens 8192]

A small random model with Gemma 3's layers, windows of 128 tokens in five of six, over two workers. 32 requests have a
system prompt of 1,024 tokens in common and 96 of their own, which is more than a window; four are under way at a time,
the first one alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from unittest.mock import patch

from benchmarks.halves import halves_plan
from benchmarks.serving import Answered, answer
from helix_df.plan.plan import Plan
from helix_df.runtime.coordinator.requests_state import RequestsState
from helix_df.runtime.jobs.coordinators import new_coordinator

REQUESTS, AT_ONCE = 32, 4
COMMON, OWN, ANSWER = 1024, 96, 16
GEMMA = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_size": 128,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 8192,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "sliding_window": 128,
    "query_pre_attn_scalar": 32,
    "tie_word_embeddings": True,
}


def prompt_of(number: int) -> tuple[int, ...]:
    """The common beginning, and what the request alone asks."""
    common = ((7 * at) % 5000 + 100 for at in range(COMMON))
    return (*common, *((31 * number + 11 * at) % 3000 + 5000 for at in range(OWN)))


async def measure(plan: Plan) -> tuple[list[Answered], int]:
    """All answers, and how often a worker rejected a request."""
    rejected = 0
    right = RequestsState.on_rejected

    def counted(*given):  # type: ignore[no-untyped-def]
        nonlocal rejected
        rejected += 1
        return right(*given)

    with patch.object(RequestsState, "on_rejected", counted):
        coordinator = new_coordinator(plan)
        await coordinator.start()
        try:
            await coordinator.wait_ready(600)
            answers = [await answer(coordinator, prompt_of(0), ANSWER)]
            for first in range(1, REQUESTS, AT_ONCE):
                numbers = range(first, min(first + AT_ONCE, REQUESTS))
                answers += await asyncio.gather(*(answer(coordinator, prompt_of(one), ANSWER) for one in numbers))
        finally:
            await coordinator.close()
    return answers, rejected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kv-tokens", type=int, default=8192)
    kv_tokens = parser.parse_args().kv_tokens
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(GEMMA))
        print("| prefix cache | prompt tokens | not computed | rejected |")
        print("|---|---|---|---|")
        for kept in (False, True):
            plan = halves_plan(f"random:{path}", context=1152, kv_tokens=kv_tokens, max_batch=4, prefix_cache=kept)
            answers, rejected = asyncio.run(measure(plan))
            cached, total = sum(one.cached_tokens for one in answers), REQUESTS * (COMMON + OWN)
            words = f"{total:,} | {cached:,} ({cached / total:.0%}) | {rejected}"
            print(f"| {'on' if kept else 'off'} | {words} |", flush=True)


if __name__ == "__main__":
    main()
