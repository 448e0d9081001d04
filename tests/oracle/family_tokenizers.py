"""Small tokenizers of each family, with the pipeline that its published ``tokenizer.json`` has, and as GGUF files.

Their vocabularies were learnt from ``token_corpus`` when the recordings were made and are recorded with them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from tests.oracle.cases import RECORDED

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cl100k(digits: str) -> str:
    return rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}|{_OTHERS}{_END}"


def _o200k(contractions: str, digits: str) -> str:
    before = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{before}{_UPPER}*{_LOWER}+{contractions}|{before}{_UPPER}+{_LOWER}*{contractions}"
    return rf"{words}|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}"


_DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_END}",
)


class FamilyTokenizer(NamedTuple):
    """How a family's tokenizer works.

    Attributes:
        pre: its name in ``tokenizer.ggml.pre``; ``None`` for SentencePiece.
        specials: bos, eos, then others, all of them control tokens.
        patterns: that text is split by, one after the other; empty for GPT-2's own.
        digits: whether digits are split first, one by one.
        nfc: whether characters are composed first.
        whole_words: whether a word is looked up before it is merged.
        prefix: whether SentencePiece puts a space in front.
        strips: whether special tokens take the space behind them.
        published_as: ``tokenizer_class``, of those that read ``tokenizer.json`` as it is. ``LlamaTokenizer`` and
            ``GPT2Tokenizer`` of transformers 5 build a pipeline of their own from its vocabulary, which splits in
            another way than the one that the models were trained with.
        adds_bos: whether prompts begin with bos.
    """

    pre: str | None
    specials: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    digits: bool = False
    nfc: bool = False
    whole_words: bool = False
    prefix: bool = True
    strips: bool = False
    published_as: str = "PreTrainedTokenizerFast"
    adds_bos: bool = True


_CHATML = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
FAMILIES: dict[str, FamilyTokenizer] = {
    "llama-2": FamilyTokenizer(None, ("<s>", "</s>")),
    "phi-3": FamilyTokenizer(
        None,
        ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        strips=True,
        adds_bos=False,
    ),
    "gemma": FamilyTokenizer(
        None, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), prefix=False, published_as="GemmaTokenizer"
    ),
    "smollm": FamilyTokenizer("smollm", _CHATML, digits=True, adds_bos=False),
    "granite": FamilyTokenizer("refact", ("<|endoftext|>", "<|end_of_text|>"), digits=True, adds_bos=False),
    "llama-3": FamilyTokenizer(
        "llama-bpe",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        (_cl100k("{1,3}"),),
        whole_words=True,
    ),
    "qwen": FamilyTokenizer("qwen2", _CHATML, (_cl100k(""),), nfc=True, published_as="Qwen2Tokenizer", adds_bos=False),
    "olmo-2": FamilyTokenizer("dbrx", ("<|endoftext|>", "<|im_end|>"), (_cl100k("{1,3}"),), adds_bos=False),
    "gpt-oss": FamilyTokenizer(
        "gpt-4o",
        ("<|startoftext|>", "<|return|>", "<|start|>", "<|message|>", "<|channel|>", "<|end|>"),
        (_o200k(f"{_CONTRACTIONS}?", "{1,3}"),),
        adds_bos=False,
    ),
    "mistral-nemo": FamilyTokenizer(
        "tekken", ("<s>", "</s>", "[INST]", "[/INST]"), (_o200k("", ""),), whole_words=True
    ),
    "deepseek-v3": FamilyTokenizer(
        "deepseek-v3",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        _DEEPSEEK,
    ),
}


def vocabularies() -> dict[str, dict[str, Any]]:
    """By family: ``tokens`` in the order of ids, ``merges``, and of SentencePiece ``scores``."""
    recorded: dict[str, dict[str, Any]] = json.loads(gzip.decompress((RECORDED / "vocabularies.json.gz").read_bytes()))
    return recorded


def splitter(family: FamilyTokenizer) -> Any:
    """How text is split before it is merged; ``None`` where it isn't."""
    if family.pre is None:
        return None if family.prefix else pre_tokenizers.Split(" ", "merged_with_previous")
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if family.digits else []
    steps += [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in family.patterns]
    return pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not family.patterns)]
    )


def build(name: str, tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> tokenizers.Tokenizer:
    """The published pipeline over a vocabulary."""
    family = FAMILIES[name]
    pairs = [(one, other) for one, other in merges]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    if family.pre is None:
        model = models.BPE(vocab=vocabulary, merges=pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        tokenizer = tokenizers.Tokenizer(model)
        spaces = normalizers.Replace(" ", "▁")
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if family.prefix else spaces
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if family.prefix else steps)
    else:
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=family.whole_words))
        if family.nfc:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.decoder = decoders.ByteLevel()
    split = splitter(family)
    if split is not None:
        tokenizer.pre_tokenizer = split
    specials = family.specials if family.pre else ("<unk>", *family.specials)
    strips = {"<|user|>", "<|assistant|>", "<|system|>", "<|end|>"} if family.strips else set[str]()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False, rstrip=token in strips) for token in specials]
    )
    if family.adds_bos:
        bos = family.specials[0]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    return tokenizer


def write_hf_tokenizer(folder: Path, name: str) -> Path:
    """Write the family's tokenizer as the hub has it to ``folder / name``, and return that directory."""
    family, held, path = FAMILIES[name], vocabularies()[name], folder / name
    path.mkdir(parents=True, exist_ok=True)
    build(name, held["tokens"], held["merges"]).save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": family.published_as,
        "bos_token": family.specials[0],
        "eos_token": family.specials[1],
        "add_bos_token": family.adds_bos,
        **({"unk_token": "<unk>", "legacy": False} if family.pre is None else {}),
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return path


def write_gguf_tokenizer(folder: Path, name: str) -> Path:
    """Write the same as a GGUF file without tensors, with the keys that llama.cpp's converter writes."""
    family, held, path = FAMILIES[name], vocabularies()[name], folder / f"{name}.gguf"
    tokens, kinds = held["tokens"], gguf.TokenType
    writer = gguf.GGUFWriter(path, "phi3" if family.strips else "llama")
    writer.add_tokenizer_model("gpt2" if family.pre else "llama")
    writer.add_tokenizer_pre(family.pre or "default")
    writer.add_token_list(tokens)
    if family.pre:
        writer.add_token_merges([" ".join(pair) for pair in held["merges"]])
    else:
        writer.add_token_scores(held["scores"])
        writer.add_add_space_prefix(family.prefix)
    types = {"<unk>": kinds.UNKNOWN, **dict.fromkeys(family.specials, kinds.CONTROL)}
    writer.add_token_types(
        [
            kinds.BYTE if not family.pre and token.startswith("<0x") else types.get(token, kinds.NORMAL)
            for token in tokens
        ]
    )
    writer.add_bos_token_id(tokens.index(family.specials[0]))
    writer.add_eos_token_id(tokens.index(family.specials[1]))
    writer.add_add_bos_token(family.adds_bos)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
