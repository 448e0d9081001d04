"""Token ids of more than 2,000 texts, family by family, from the hub's files and from GGUF: those of transformers."""

from __future__ import annotations

import numpy as np
import pytest

from helix_df.models.tokenizer import load_tokenizer
from helix_df.spec.source import ModelSource
from tests.oracle.cases import RECORDED
from tests.oracle.family_tokenizers import FAMILIES, write_gguf_tokenizer, write_hf_tokenizer
from tests.oracle.token_corpus import RANGES, SPECIAL, corpus
from tests.oracle.token_digests import digest, digests

WRITERS = {"hf": write_hf_tokenizer, "gguf": write_gguf_tokenizer}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_ids_and_texts_are_those_of_transformers(tmp_path, name, kind):
    recorded, texts = np.load(RECORDED / "token_ids.npz"), corpus()
    tokenizer = load_tokenizer(ModelSource(kind, str(WRITERS[kind](tmp_path, name))))
    ids = [tokenizer.encode(text) for text in texts]
    differ = np.flatnonzero(digests(ids) != recorded[f"{name}.each"])
    assert not len(differ), [(texts[at], ids[at]) for at in differ[:5]]
    assert np.array_equal(digest(ids), recorded[f"{name}.all"])
    decoded = digest([tokenizer.decode(one).encode() for one in ids])
    assert np.array_equal(decoded, recorded[f"{name}.decoded"])


def test_the_corpus_has_what_it_should():
    texts = corpus()
    assert len(texts) == len(set(texts)) >= 2000
    for first, last in RANGES.values():
        assert sum(any(first <= ord(character) < last for character in text) for text in texts) >= 10
    for special in SPECIAL:
        assert sum(special in text and text != special for text in texts) >= 4
