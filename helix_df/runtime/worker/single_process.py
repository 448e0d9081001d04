"""The single-process reference: what distributed serving is compared with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from helix_df.errors import RequestError
from helix_df.runtime.requests import History
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.steps import Step


def generate_in_process(
    engine: Engine,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: SamplingParams | None = None,
    *,
    eos_ids: Collection[int] = (),
    request: str = "reference",
) -> Iterator[int]:
    """Yield the tokens that follow ``prompt``, at most ``max_tokens``, up to and including one of ``eos_ids``.

    The engine must hold the whole model. Its pages are released at the end, or when the iterator is closed.

    Raises:
        RequestError: when prompt and output don't fit in the KV cache or the context.
    """
    drawn = sampling or SamplingParams()
    tokens, position = np.asarray(prompt, np.int32), 0
    history = History(tuple(map(int, prompt)), len(prompt))
    try:
        for _ in range(max_tokens):
            step = Step(
                request,
                engine.layers,
                position,
                tokens=tokens,
                sampling=drawn,
                constraint=drawn.constraint,
                history=history,
            )
            (result,) = engine.run([step])
            if result.stuck:
                raise RequestError("the constraint allows no next token", code="constraint_stuck")
            if result.kv_full or result.token is None:
                raise RequestError("the KV cache is full", found=f"{position + len(tokens)} tokens", status=503)
            yield result.token
            if result.token in eos_ids:
                return
            position += len(tokens)
            tokens = np.array([result.token], np.int32)
    finally:
        engine.release(request)
