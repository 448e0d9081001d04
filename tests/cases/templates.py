"""Chat templates, tokenizers and chats whose rendering is recorded from transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

ODD = 'a < b & c\'s > "d" é 😀'
CHATS: dict[str, list[dict[str, str]]] = {
    "one": [{"role": "user", "content": ODD}],
    "three": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2 <|im_end|>"},
        {"role": "user", "content": "Sure?"},
    ],
}
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "tojson": "{{ messages[0]['content'] | tojson }}",
    "tojson of all": "{{ messages | tojson(indent=2) }}",
    "tojson escaped": "{{ messages[0] | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}",
    "chatml": _CHATML,
    "bos written": "{{ bos_token }}" + _CHATML + "{{ eos_token }}",
    "bos written twice": "{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{%- endgeneration %}{% else %}[{{ m.content }}]{% endif %}{% endfor %}",
    "generation that sets": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "namespace": "{% set n = namespace(k=0) %}{% for m in messages %}{% set n.k = n.k + 1 %}{% endfor %}{{ n.k }}",
    "specials": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}",
    "undefined": "{{ tools is none }}{{ documents is none }}{{ nothing is defined }}",
}


def write_tokenizer(folder: Path, template: str | None, **config: Any) -> Path:
    """A byte-level tokenizer that puts ``<s>`` first, with ChatML's marks in its config alone."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(number): {"content": text, "special": True, "normalized": False, "lstrip": False, "rstrip": False,
                      "single_word": False}
        for number, text in {256: "<s>", 257: "</s>", 258: "<|im_start|>", 259: "<|im_end|>"}.items()
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "pad_token": "</s>",
        "unk_token": "</s>",
        "added_tokens_decoder": added,
        **config,
    }
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "llama", "eos_token_id": 2}')
    return folder
