"""Learn small vocabularies, and record the ids that transformers gives the corpus. Needs the oracle extra.

``python -m tests.oracle.make_token_recordings`` writes ``vocabularies.json.gz`` and ``token_ids.npz`` in ``recorded``.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import generate_merges

from tests.oracle.cases import RECORDED
from tests.oracle.family_tokenizers import FAMILIES, splitter, write_hf_tokenizer
from tests.oracle.token_corpus import corpus
from tests.oracle.token_digests import digest, digests

LEARNT = 700
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def learnt(name: str) -> dict[str, Any]:
    """A vocabulary that the library's trainer learns from the corpus, split as the family splits."""
    family = FAMILIES[name]
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if family.pre is None:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", split=True)
        # Few characters, so that the others fall back to bytes.
        trainer = trainers.BpeTrainer(vocab_size=LEARNT, limit_alphabet=150, show_progress=False)
    else:
        tokenizer.pre_tokenizer = splitter(family)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=LEARNT, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    found = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(found["vocab"], key=found["vocab"].__getitem__)
    if family.pre is not None:
        return {"tokens": [*pieces, *family.specials], "merges": found["merges"]}
    tokens = ["<unk>", *family.specials, *_BYTES, *pieces]
    scores = [0.0] * (len(tokens) - len(pieces)) + [-float(at) for at in range(len(pieces))]
    by_piece = {token: at for at, token in enumerate(tokens)}
    pairs = generate_merges(by_piece, {token: scores[at] for token, at in by_piece.items() if token in set(pieces)})
    return {"tokens": tokens, "merges": [list(pair) for pair in pairs], "scores": scores}


def main() -> None:
    document = json.dumps({name: learnt(name) for name in FAMILIES}, ensure_ascii=False).encode()
    (RECORDED / "vocabularies.json.gz").write_bytes(gzip.compress(document, 9, mtime=0))
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in FAMILIES:
            tokenizer = transformers.AutoTokenizer.from_pretrained(write_hf_tokenizer(Path(folder), name))
            ids = [tokenizer.encode(text, add_special_tokens=True) for text in corpus()]
            arrays[f"{name}.each"], arrays[f"{name}.all"] = digests(ids), digest(ids)
            options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
            arrays[f"{name}.decoded"] = digest([tokenizer.decode(one, **options).encode() for one in ids])
    np.savez_compressed(RECORDED / "token_ids.npz", **arrays)  # type: ignore[arg-type]  # its flag is no array of ours


if __name__ == "__main__":
    main()
