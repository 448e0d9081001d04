"""vLLM on CPUs: two stages, a process each with one OpenMP thread bound to its core."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.child import Answer, Generate, Setup, serve
from benchmarks.peers.system import System

_MODULE = "benchmarks.peers.vllm"
_KV_GIB = "1"


def systems(python: Path) -> list[System]:
    """Its row."""
    how = "2 stages, each 1 thread on a core of its own"
    # A worker polls for a second after its last message.
    return [System("vLLM pipeline", how, _MODULE, "vllm", python, splits_layers=True, settle_s=1.2)]


@contextmanager
def load(setup: Setup) -> Iterator[Generate]:
    """See ``child``."""
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": _KV_GIB,
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, setup.cores)),
        "VLLM_PP_LAYER_PARTITION": ",".join(map(str, setup.split)),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    from vllm import EngineArgs, LLMEngine

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=setup.folder,
            skip_tokenizer_init=True,
            dtype="float32",
            pipeline_parallel_size=len(setup.split),
            distributed_executor_backend="mp",
            max_model_len=setup.context,
            max_num_seqs=setup.requests,
            max_num_batched_tokens=max(setup.context, 2048),
            enable_prefix_caching=False,
        )
    )
    numbers = itertools.count()

    def generate(prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        return _generate(engine, prompts, tokens, numbers)

    yield generate


def _generate(engine: Any, prompts: Sequence[Sequence[int]], tokens: int, numbers: Iterator[int]) -> list[Answer]:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    start = time.perf_counter()
    answers = {}
    for prompt in prompts:
        name = str(next(numbers))
        answers[name] = Answer([], [])
        engine.add_request(name, {"prompt_token_ids": list(prompt)}, sampling)
    while engine.has_unfinished_requests():
        for output in engine.step():
            now = time.perf_counter() - start
            answer = answers[output.request_id]
            for token in output.outputs[0].token_ids:
                answer.tokens.append(int(token))
                answer.times_s.append(now)
    return list(answers.values())


if __name__ == "__main__":
    serve(load)
