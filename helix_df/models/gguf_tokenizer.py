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
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS, _REST = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|", r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _END


def _by_case(contractions: str, digits: str) -> str:
    """Words end where lower case does."""
    before, upper = r"[^\r\n\p{L}\p{N}]?", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
    lower = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    words = f"{before}{upper}*{lower}+{contractions}|{before}{upper}+{lower}*{contractions}|"
    return words + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _END


_THREE_DIGITS = (_WORDS + r"\p{N}{1,3}" + _REST,)
_ONE_DIGIT = (_WORDS + r"\p{N}" + _REST,)
_PATTERNS = MappingProxyType(
    {
        "llama-bpe": _THREE_DIGITS,
        "llama3": _THREE_DIGITS,
        "llama-v3": _THREE_DIGITS,
        "dbrx": _THREE_DIGITS,
        "smaug-bpe": _THREE_DIGITS,
        "qwen2": _ONE_DIGIT,
        "deepseek-r1-qwen": _ONE_DIGIT,
        "gpt-4o": (_by_case(_CONTRACTIONS + "?", r"\p{N}{1,3}"),),
        "tekken": (_by_case("", r"\p{N}"),),
        "deepseek-v3": (
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            r"| ?[\p{P}\p{S}]+[\r\n]*|" + _END,
        ),
    }
)
"""What text is split by, one pattern after the other, by ``tokenizer.ggml.pre``."""

_LLAMA_3_NAMES = ("llama-bpe", "llama3", "llama-v3")
_WHOLE_WORDS = (*_LLAMA_3_NAMES, "tekken")
"""These look a whole word up before they merge, and add bos where the file says nothing."""

_COMPOSED = ("qwen2", "deepseek-r1-qwen")
"""Characters are composed (NFC) before, which a GGUF file doesn't say."""

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
    strips = header.metadata.get("general.architecture") == "phi3" and kind == "llama"
    _add_specials(tokenizer, tokens, entries.get("token_type", ()), strips=strips)
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
        add_bos=bool(entries.get("add_bos_token", kind == "llama" or entries.get("pre") in _WHOLE_WORDS)),
        chat_template=template,
    )


def _byte_level(entries: dict[str, Any], where: str) -> tokenizers.Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in entries.get("merges", ())]
    vocabulary = {token: number for number, token in enumerate(entries["tokens"])}
    name = entries.get("pre", "default")
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name in _WHOLE_WORDS)
    tokenizer = tokenizers.Tokenizer(model)
    if name in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _splitter(name, where)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _splitter(name: str, where: str) -> Any:
    if name in _GPT2_NAMES:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _DIGIT_NAMES:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if name in _PATTERNS:
        splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in _PATTERNS[name]]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
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


def _add_specials(
    tokenizer: tokenizers.Tokenizer, tokens: Sequence[str], kinds: Sequence[int], *, strips: bool
) -> None:
    """Tokens that text is never merged across: control tokens vanish in decoding, a user's stay.

    ``strips``: those of Phi 3 that mark roles take the space behind them, which a GGUF file doesn't say.
    """
    for token, kind in zip(tokens, kinds, strict=False):
        if kind in (_CONTROL, _UNKNOWN):
            role = strips and token.startswith("<|") and token != "<|endoftext|>"
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False, rstrip=role)])
        elif kind == _USER:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
