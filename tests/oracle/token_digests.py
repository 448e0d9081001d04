"""Digests of token ids, short enough to record for thousands of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def digests(ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Two bytes for each text, which tell what differs."""
    each = (hashlib.blake2b(np.array(list(one), "<u4").tobytes(), digest_size=2).digest() for one in ids)
    return np.frombuffer(b"".join(each), "<u2")


def digest(ids: Sequence[Sequence[int]]) -> np.ndarray:
    """32 bytes for all texts, which tell that nothing does."""
    whole = hashlib.sha256()
    for one in ids:
        whole.update(len(one).to_bytes(4, "little") + np.array(list(one), "<u4").tobytes())
    return np.frombuffer(whole.digest(), np.uint8)
