"""Drafts what followed the last tokens where they stood before, in the prompt or in the answer.

Source: prompt lookup decoding (Saxena 2023) and n-gram speculation in general. Code that is edited, texts that are
quoted and lists repeat what is there already; other answers rarely do, and then little is drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from helix_df.runtime.coordinator.drafters.kind import DrafterKind
from helix_df.spec.mistakes import Refusal
from helix_df.spec.section import Count, Section

MOST_PLACES = 32
"""Earlier places that are compared for a draft, the last ones first: a text of one word alone has thousands."""

_NOWHERE = 0


class LookupOptions(Section):
    """How many of the last tokens must have stood there before: at least, and how many more are compared at most."""

    shortest: Count = Field(default=2, ge=1, le=16)
    longest: Count = Field(default=4, ge=1, le=64)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.longest < self.shortest:
            raise Refusal(f"longest is less than shortest, {self.shortest}", f"at least {self.shortest}")
        return self


class LookupDrafter:
    """The places of a request's n-grams of the shortest kind, each with the place of the same before it.

    A place is the number of tokens up to the end of the n-gram; it is known once a token follows.
    """

    def __init__(self, options: LookupOptions) -> None:
        self._shortest, self._longest = options.shortest, options.longest
        self._tokens: list[int] = []
        self._last: dict[tuple[int, ...], int] = {}
        self._before: list[int] = []

    def extend(self, tokens: Sequence[int]) -> None:
        """See ``Drafter``."""
        for token in tokens:
            place = len(self._tokens)
            if place >= self._shortest:
                gram = tuple(self._tokens[place - self._shortest :])
                self._before.append(self._last.get(gram, _NOWHERE))
                self._last[gram] = place
            self._tokens.append(token)

    def draft(self, most: int) -> tuple[int, ...]:
        """See ``Drafter``; by the longest match, and of equals by the last."""
        place, length = self._best()
        if not length or most < 1:
            return ()
        drafts = self._tokens[place : place + most]
        while len(drafts) < most:  # what is drafted goes on as the end of the text does
            drafts.append(drafts[len(drafts) - (len(self._tokens) - place)])
        return tuple(drafts)

    def _best(self) -> tuple[int, int]:
        """Where the last tokens stood before, and how many of them; 0 for nowhere."""
        found, length, looked = _NOWHERE, 0, 0
        place = self._last.get(tuple(self._tokens[-self._shortest :]), _NOWHERE)
        while place != _NOWHERE and length < self._longest and looked < MOST_PLACES:
            same = self._same(place)
            if same > length:
                found, length = place, same
            place, looked = self._before[place - self._shortest], looked + 1
        return found, length

    def _same(self, place: int) -> int:
        """How many tokens before ``place`` are the last ones, at most the longest."""
        tokens, end, same = self._tokens, len(self._tokens), self._shortest
        most = min(self._longest, place)
        while same < most and tokens[place - same - 1] == tokens[end - same - 1]:
            same += 1
        return same


LOOKUP = DrafterKind(LookupDrafter, LookupOptions)
