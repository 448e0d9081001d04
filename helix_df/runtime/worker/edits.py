"""What a request's tokens so far, and its wishes, change about the logits of its next token.

Owns the counts of a request's tokens, derived from those alone, and the edits of a batch as arrays: a few tokens a row
instead of the whole vocabulary. Doesn't know grammars, or how tokens are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from helix_df.runtime.requests import History
from helix_df.runtime.sampling import Shaping

_LEAST = 64
"""Edits of a row in an array, which doubles from here on, so that there are few shapes."""

NEVER = -np.inf
"""Added to what must not be drawn."""


class Edits(NamedTuple):
    """Changes of logits by row, each [B, K]: at ``ids`` (the vocabulary's size where there is none) ``bias`` is added;
    what is positive then is divided by ``repetition``, what isn't is multiplied by it; ``penalty`` is taken off."""

    ids: np.ndarray
    bias: np.ndarray
    repetition: np.ndarray
    penalty: np.ndarray


class Shaped:
    """One request's tokens so far, as far as its next one depends on them.

    Args:
        shaping: what it asks for.
        history: the tokens that it has already.
    """

    def __init__(self, shaping: Shaping, history: History) -> None:
        self.shaping = shaping
        self._answer = list(history.answer)
        self._at: dict[int, int] = {}
        self._ids = np.zeros(_LEAST, np.int32)
        self._counts = np.zeros(_LEAST, np.int32)
        self._seen = np.zeros(_LEAST, bool)
        self._bias = np.zeros(_LEAST, np.float32)
        for token, bias in shaping.logit_bias:
            at = self._index(token)  # which may make the arrays anew
            self._bias[at] = bias
        if shaping.repetition_penalty != 1:
            for token in history.tokens[: history.prompt]:
                at = self._index(token)
                self._seen[at] = True
        for token in self._answer:
            self._count(token)

    def draw(self, token: int) -> None:
        """One token more."""
        self._answer.append(token)
        self._count(token)

    def banned(self) -> set[int]:
        """Tokens that must not come next: a word's last one, and those that would end the answer too early."""
        found = set(self.shaping.held_back) if len(self._answer) < self.shaping.min_tokens else set[int]()
        for *before, last in self.shaping.bad_words:
            if self._answer[len(self._answer) - len(before) :] == before:
                found.add(last)
        return found

    def row(self, banned: Iterable[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The ids to edit, each once, with bias, repetition and penalty of each, float32 [K]."""
        out = [self._index(token) for token in banned]
        used, shaping = len(self._at), self.shaping
        bias, counts = self._bias[:used].copy(), self._counts[:used]
        bias[out] = NEVER
        repetition = np.where(self._seen[:used], np.float32(shaping.repetition_penalty), np.float32(1))
        penalty = np.float32(shaping.frequency_penalty) * counts.astype(np.float32)
        penalty += np.float32(shaping.presence_penalty) * (counts > 0).astype(np.float32)
        return self._ids[:used], bias, repetition, penalty

    def _count(self, token: int) -> None:
        if self.shaping.counts:
            at = self._index(token)
            self._counts[at] += 1
            self._seen[at] = True

    def _index(self, token: int) -> int:
        """Where a token is in the arrays, which grow as it has to."""
        at = self._at.get(token)
        if at is None:
            at = self._at[token] = len(self._at)
            if at == len(self._ids):
                self._ids, self._counts, self._seen, self._bias = (
                    np.concatenate((array, np.zeros_like(array)))
                    for array in (self._ids, self._counts, self._seen, self._bias)
                )
            self._ids[at] = token
        return at


def edits_of(rows: Sequence[tuple[np.ndarray, ...] | None], count: int, vocab_size: int) -> Edits:
    """The edits of a batch of ``count`` rows; None and what is missing at the end have none."""
    width = _LEAST
    while width < max((len(row[0]) for row in rows if row is not None), default=0):
        width *= 2
    edits = Edits(
        np.full((count, width), vocab_size, np.int32),
        np.zeros((count, width), np.float32),
        np.ones((count, width), np.float32),
        np.zeros((count, width), np.float32),
    )
    for at, row in enumerate(rows):
        if row is not None:
            for array, values in zip(edits, row, strict=True):
                array[at, : len(values)] = values
    return edits
