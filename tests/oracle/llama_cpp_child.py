"""What llama.cpp says of a GGUF file; run by an interpreter that has llama-cpp-python and numpy, and nothing of ours.

Reads one JSON document from standard input: ``path``, ``prompts`` (lists of token ids) and ``tokens`` to draw greedily.
Writes one line of JSON: for each prompt the logits behind it and the tokens. KV cache is float32, as everybody's here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

_FLOAT32 = 0
_NEVER = 0


def main() -> None:
    asked = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # the library writes to standard output
    import llama_cpp

    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False  # rows as they are stored
    model = llama_cpp.llama_model_load_from_file(asked["path"].encode(), params)
    if not model:
        sys.exit(f"llama.cpp doesn't load {asked['path']}")
    said = [_answer(llama_cpp, model, prompt, asked["tokens"]) for prompt in asked["prompts"]]
    os.write(answer, (json.dumps(said) + "\n").encode())


def _answer(llama: Any, model: Any, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
    wanted = llama.llama_context_default_params()
    wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = 512
    wanted.n_threads = wanted.n_threads_batch = 1
    wanted.type_k = wanted.type_v = _FLOAT32
    wanted.flash_attn_type = _NEVER  # on a CPU it rounds to float16
    context = llama.llama_init_from_model(model, wanted)
    batch = llama.llama_batch_init(wanted.n_batch, 0, 1)
    first: list[float] = []
    drawn: list[int] = []
    inputs, position = list(prompt), 0
    while len(drawn) < tokens:
        logits = _logits(llama, model, context, batch, inputs, position)
        first = first or logits.tolist()
        drawn.append(int(logits.argmax()))
        position += len(inputs)
        inputs = drawn[-1:]
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    return {"logits": first, "tokens": drawn}


def _logits(llama: Any, model: Any, context: Any, batch: Any, ids: Sequence[int], position: int) -> Any:
    import numpy as np

    for at, token in enumerate(ids):
        batch.token[at], batch.pos[at] = token, position + at
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
        batch.logits[at] = at == len(ids) - 1
    batch.n_tokens = len(ids)
    code = llama.llama_decode(context, batch)
    if code != 0:
        sys.exit(f"llama_decode says {code}")
    count = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    return np.ctypeslib.as_array(llama.llama_get_logits(context), shape=(count,)).copy()


if __name__ == "__main__":
    main()
