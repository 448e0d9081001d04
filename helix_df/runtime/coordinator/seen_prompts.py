"""With which beginnings prompts have come so far, whether or not anything of them is still in a KV cache.

Where two prompts part, others will part from them, too: there it is worth keeping what layers with a window see. Knows
a beginning by a digest of its pages, so that none takes more memory than another. Doesn't know routes nor caches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

MOST_PAGES = 1 << 16
"""Beginnings that are remembered, one a page; those that came least recently are forgotten. Some 10 MB."""

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a prompt parts from others: the tokens of its whole pages that one of them began with, and their digest."""

    tokens: int
    digest: bytes


@dataclass(slots=True)
class SeenPrompts:
    """The whole pages of the last prompts."""

    page_tokens: int
    most: int = MOST_PAGES
    _seen: dict[bytes, None] = field(default_factory=dict)

    def note(self, tokens: Sequence[int]) -> Parting:
        """Remember a prompt; says where it parts from all that came before."""
        pages = tuple(self._digests(tokens))
        known = sum(1 for _ in takewhile(self._seen.__contains__, pages))
        # The first page last, since without it nobody finds those behind it.
        for page in reversed(pages):
            self._seen.pop(page, None)
            self._seen[page] = None
        while len(self._seen) > self.most:
            del self._seen[next(iter(self._seen))]
        return Parting(known * self.page_tokens, pages[known - 1] if known else b"")

    def _digests(self, tokens: Sequence[int]) -> Iterator[bytes]:
        """Of each whole page and all before it."""
        whole, digest = np.asarray(tokens, dtype=np.int32), b""
        for start in range(0, len(whole) - self.page_tokens + 1, self.page_tokens):
            page = whole[start : start + self.page_tokens].tobytes()
            digest = hashlib.blake2b(digest + page, digest_size=_DIGEST_BYTES).digest()
            yield digest
