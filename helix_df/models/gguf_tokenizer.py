"""The tokenizer inside a GGUF file, rebuilt as a ``tokenizers.Tokenizer``.

Owns the two kinds that Llama models use: byte-level BPE (``gpt2``), which splits text by a pattern named in
``tokenizer.ggml.pre``, and SentencePiece BPE (``llama``), which merges by score. Doesn't know chat or streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from helix_df.errors import ModelError
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.vocabulary import splitter_of

_ARRAYS = ("tokens", "token_type", "merges", "scores")
_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = MappingProxyType(
    {
        "llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST,
        "llama3": _WORDS + r"\p{N}{1,3}" + _REST,
        "llama-v3": _WORDS + r"\p{N}{1,3}" + _REST,
        "qwen2": _WORDS + r"\p{N}" + _REST,
    }
)
_GPT2_NAMES = ("default", "gpt-2")
_DIGIT_NAMES = ("smollm", "starcoder", "refact", "command-r")
_END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")
_CALL, _MESSAGE_END = "<|call|>", "<|end|>"


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """What a GGUF file says of its tokenizer. ``bos_id`` may exist without being added to prompts."""

    tokenizer: tokenizers.Tokenizer
    bos_id: int | None
    bos_token: str
    eos_token: str
    eos_ids: frozenset[int]
    add_bos: bool
    chat_template: str | None


def read_gguf_tokenizer(path: Path) -> GgufTokenizer:
    """Read and rebuild the tokenizer of the GGUF file at ``path``.

    Raises:
        ModelError: when it has none, or one of an unsupported kind.
    """
    header = read_gguf_header(path, tuple(f"tokenizer.ggml.{name}" for name in _ARRAYS))
    entries = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in header.metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    kind, tokens = entries.get("model"), entries.get("tokens", ())
    if kind not in ("gpt2", "llama") or not tokens:
        raise ModelError(
            "the GGUF file has no tokenizer that helix-df reads",
            where=str(path),
            found=f"tokenizer.ggml.model = {kind}",
            expected="gpt2 (byte-level BPE) or llama (SentencePiece)",
        )
    if kind == "gpt2" and not entries.get("pre"):
        entries["pre"] = splitter_of(tokens) or "default"
    tokenizer = _byte_level(entries, str(path)) if kind == "gpt2" else _sentencepiece(entries)
    _add_specials(tokenizer, tokens, entries.get("token_type", ()))
    bos_id, eos_id = entries.get("bos_token_id"), entries.get("eos_token_id")
    ends = {eos_id, entries.get("eot_token_id")} | {tokenizer.token_to_id(name) for name in _END_OF_TURN}
    call_id = tokenizer.token_to_id(_CALL)
    if call_id is not None:  # of gpt-oss, where a message of an answer ends with what ends the turn elsewhere
        ends = ends - {tokenizer.token_to_id(_MESSAGE_END)} | {call_id}
    template = header.metadata.get("tokenizer.chat_template")
    return GgufTokenizer(
        tokenizer=tokenizer,
        bos_id=bos_id,
        bos_token="" if bos_id is None else tokens[bos_id],
        eos_token="" if eos_id is None else tokens[eos_id],
        eos_ids=frozenset(end for end in ends if end is not None),
        add_bos=bool(entries.get("add_bos_token", kind == "llama" or entries.get("pre") in _PATTERNS)),
        chat_template=template,
    )


def _byte_level(entries: dict[str, Any], where: str) -> tokenizers.Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in entries.get("merges", ())]
    vocabulary = {token: number for number, token in enumerate(entries["tokens"])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=_whole_words(entries)))
    tokenizer.pre_tokenizer = _splitter(entries.get("pre", "default"), where)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _whole_words(entries: dict[str, Any]) -> bool:
    """Llama 3 looks a whole word up before it merges."""
    return entries.get("pre") in ("llama-bpe", "llama3", "llama-v3")


def _splitter(name: str, where: str) -> Any:
    if name in _GPT2_NAMES:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _DIGIT_NAMES:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if name in _PATTERNS:
        split = pre_tokenizers.Split(Regex(_PATTERNS[name]), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise ModelError(
        "this GGUF file splits text in a way that isn't supported",
        where=where,
        found=f"tokenizer.ggml.pre = {name}",
        expected=" | ".join((*_GPT2_NAMES, *_DIGIT_NAMES, *_PATTERNS)),
    )


def _sentencepiece(entries: dict[str, Any]) -> tokenizers.Tokenizer:
    """BPE over characters with U+2581 for spaces; unknown characters fall back to their bytes."""
    tokens = entries["tokens"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in entries["merges"]] if "merges" in entries else None
    unknown = tokens[entries.get("unknown_token_id", 0)]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges_by_score(vocabulary, entries["scores"]) if merges is None else merges,
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", "\u2581")
    prefix = bool(entries.get("add_space_prefix", True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces] if prefix else [spaces])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _merges_by_score(vocabulary: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, best result first: SentencePiece merges by the score of the result."""
    found: list[tuple[float, tuple[str, str]]] = []
    for token, number in vocabulary.items():
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found.extend((scores[number], pair) for pair in known)
    found.sort(key=lambda entry: -entry[0])
    return [pair for _, pair in found]


def _add_specials(tokenizer: tokenizers.Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Tokens that text is never merged across: control tokens vanish in decoding, a user's stay."""
    for token, kind in zip(tokens, kinds, strict=False):
        if kind in (_CONTROL, _UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _USER:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
