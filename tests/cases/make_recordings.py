"""Record what transformers makes of unusual files. Needs the oracle extra: ``python -m tests.cases.make_recordings``.

Writes ``recorded/ropes.npz`` and ``recorded/templates.json``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.cases.files import checkpoint
from tests.cases.ropes import ROPES
from tests.cases.templates import CHATS, TEMPLATES, write_tokenizer
from tests.oracle.cases import prompt_ids
from tests.oracle.make_recordings import last_logits

RECORDED = Path(__file__).parent / "recorded"


def record_ropes() -> None:
    """Logits after 150 tokens of one checkpoint under each of the settings."""
    arrays = {}
    for name, options in ROPES.items():
        with tempfile.TemporaryDirectory() as folder:
            source = checkpoint(Path(folder), config=options)
            model = transformers.LlamaForCausalLM.from_pretrained(source.location, dtype=torch.float32).eval()
            arrays[name] = last_logits(model, prompt_ids(320, 150).tolist())
    np.savez_compressed(RECORDED / "ropes.npz", **arrays)  # type: ignore[arg-type]  # its flag is no array of ours


def record_templates() -> None:
    """Text and ids of every chat under every template, and of texts with special tokens in them."""
    recorded: dict[str, dict[str, Any]] = {"chats": {}, "texts": {}, "decoded": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, template in TEMPLATES.items():
            path = write_tokenizer(Path(folder) / name.replace(" ", "-"), template)
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
            for chat, messages in CHATS.items():
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                ids = tokenizer.encode(text, add_special_tokens=False)
                recorded["chats"][f"{name}/{chat}"] = {"text": text, "ids": ids}
        for text in ("hi", "<|im_start|>user\nhi<|im_end|>", "a<s>b", " <|im_end|> "):
            recorded["texts"][text] = ids = tokenizer.encode(text)
            recorded["decoded"][text] = tokenizer.decode(ids, skip_special_tokens=True)
    (RECORDED / "templates.json").write_text(json.dumps(recorded, indent=1))


def main() -> None:
    RECORDED.mkdir(exist_ok=True)
    record_ropes()
    record_templates()


if __name__ == "__main__":
    main()
