"""How many token ids a model's tokenizer files name, without a tokenizer library.

Owns what a GGUF vocabulary is of that doesn't name its splitter, and where ids stand in ``tokenizer.json`` and
``tokenizer_config.json``. Doesn't turn text into ids.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from helix_df.errors import ModelError
from helix_df.profiles.gguf_header import GgufHeader

_LLAMA_3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>")
_QWEN_2 = ("<|endoftext|>", "<|im_start|>", "<|fim_middle|>")
_PRE = "tokenizer.ggml.pre"


def splitter_of(tokens: Collection[str]) -> str | None:
    """Which ``tokenizer.ggml.pre`` a byte-level vocabulary without one is of, told by its special tokens."""
    known = set(tokens)
    return next((name for name, marks in _MARKS.items() if known.issuperset(marks)), None)


_MARKS = {"llama-bpe": _LLAMA_3, "qwen2": _QWEN_2}


def doubt_about_tokens(header: GgufHeader) -> str | None:
    """Why a GGUF file's token ids may be wrong, if they may: it doesn't say how text is split before it is merged.

    ``header`` has the array ``tokenizer.ggml.tokens`` in it.
    """
    metadata = header.metadata
    if metadata.get("tokenizer.ggml.model") != "gpt2" or metadata.get(_PRE):
        return None
    if splitter_of(metadata.get("tokenizer.ggml.tokens", ())) is not None:
        return None
    return (
        f"{header.path}: there is no {_PRE} in this GGUF file, so text is split as GPT-2 does; if the model was "
        "trained with another rule, its token ids are wrong and its answers worse. Newer converters write the rule."
    )


def highest_id(folder: Path) -> int:
    """The highest token id in the tokenizer files of ``folder``; -1 where there are none.

    Raises:
        ModelError: when one of them is malformed.
    """
    return max(*_listed(folder / "tokenizer.json"), *_added(folder / "tokenizer_config.json"), -1, -1)


def check_ids(highest: int, rows: int, where: str) -> None:
    """Stop at a tokenizer with ids that the embedding has no row for.

    Raises:
        ModelError: with both numbers.
    """
    if highest >= rows:
        raise ModelError(
            "the tokenizer has token ids that the model has no row for",
            where=where,
            found=f"ids up to {highest}, an embedding of {rows} rows",
            expected=f"ids up to {rows - 1}",
            hint="a tokenizer of another model, or tokens that were added without resizing the embedding",
        )


def _listed(path: Path) -> Iterator[int]:
    document = _read(path)
    try:
        vocabulary = (document.get("model") or {}).get("vocab") or {}
        # Byte pairs and word pieces have ids by token, Unigram a list in the order of ids.
        yield max(vocabulary.values(), default=-1) if isinstance(vocabulary, dict) else len(vocabulary) - 1
        yield from (int(token["id"]) for token in document.get("added_tokens") or ())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _malformed(path, error) from error


def _added(path: Path) -> Iterator[int]:
    try:
        yield from (int(number) for number in _read(path).get("added_tokens_decoder") or ())
    except (TypeError, ValueError) as error:
        raise _malformed(path, error) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _malformed(path, error) from error


def _malformed(path: Path, error: Exception) -> ModelError:
    return ModelError("this file of the model can't be read", where=str(path), found=str(error))
