"""Which tokens the constraints of requests allow next, found beside the steps.

A constraint's matcher follows from the tokens of the answer so far, so that any worker can take a request on. Once a
token is drawn its mask for the next is computed by a thread of its own, while the token travels home and the next step
travels here. Owns matchers and masks by request. Doesn't know logits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par

from helix_df.errors import HelixError
from helix_df.models.tokenizer import Tokenizer
from helix_df.runtime.constraints import Constraint
from helix_df.runtime.grammars import Grammars, follows

log = logging.getLogger(__name__)

COMPILERS = 2
"""Threads that compile constraints: one that takes long holds up nobody's masks."""


@dataclass(slots=True)
class _MatchState:
    """Where a request is in its grammar: its matcher, and the mask of its next token; neither where nothing follows."""

    matcher: LLMatcher | None
    mask: np.ndarray | None


@dataclass(frozen=True, slots=True)
class _Awaited:
    """The ``at``-th of some places that are being computed."""

    found: Future[list[_MatchState]]
    at: int

    def wait(self) -> _MatchState:
        return self.found.result()[self.at]


class Matches:
    """The matchers of the constrained requests on one worker.

    Args:
        load: gives the model's tokenizer.
        vocab_size: of the model, whose tokenizer may know fewer ids.
    """

    def __init__(self, load: Callable[[], Tokenizer], vocab_size: int) -> None:
        self._grammars = Grammars(load)
        self._words = -(-vocab_size // 32)
        self._of: dict[str, _Awaited] = {}
        self._several = LLExecutor()
        self._compiling = ThreadPoolExecutor(COMPILERS, "grammar")
        self._masking = ThreadPoolExecutor(1, "mask")

    def begin(self, request: str, constraint: Constraint, answer: Sequence[int]) -> None:
        """Get ready for a request whose answer has these tokens already; nothing happens if it is known."""
        if request not in self._of:
            self._of[request] = _Awaited(self._compiling.submit(self._first, constraint, tuple(answer)), 0)

    def mask(self, request: str) -> np.ndarray | None:
        """The tokens that may come next, one bit each in int32 [V / 32]; None if there is none that may.

        Waits for it, if it isn't there yet.
        """
        return self._of[request].wait().mask

    def drawn(self, tokens: Mapping[str, int]) -> None:
        """Tokens that were drawn, by request; those that aren't constrained are passed over."""
        known = [(request, self._of[request], token) for request, token in tokens.items() if request in self._of]
        if not known:
            return
        found = self._masking.submit(self._next, [(awaited.wait().matcher, token) for _, awaited, token in known])
        for at, (request, _, _) in enumerate(known):
            self._of[request] = _Awaited(found, at)

    def forget(self, request: str) -> None:
        """A request is over here."""
        self._of.pop(request, None)

    def _masked(self, matchers: list[LLMatcher | None]) -> list[_MatchState]:
        try:
            return self._places(matchers)
        except BaseException:  # what the library panics with is no Exception, and must not end the worker
            log.exception("masks of %d requests couldn't be computed", len(matchers))
            return [_MatchState(None, None)] * len(matchers)

    def _first(self, constraint: Constraint, answer: tuple[int, ...]) -> list[_MatchState]:
        try:
            matcher = self._grammars.matcher(constraint)
        except HelixError as error:
            # Whoever took the request in could compile it: a worker of another release, or of other files.
            log.warning("a constraint can't be compiled here: %s", error)
            return [_MatchState(None, None)]
        return self._masked([matcher if follows(matcher, answer) else None])

    def _next(self, drawn: list[tuple[LLMatcher | None, int]]) -> list[_MatchState]:
        return self._masked([m if m is not None and m.consume_token(token) else None for m, token in drawn])

    def _places(self, matchers: list[LLMatcher | None]) -> list[_MatchState]:
        if not any(matchers):
            return [_MatchState(None, None)] * len(matchers)
        width = -(-self._grammars.tokenizer.vocab_size // 32)
        masks = np.zeros((len(matchers), width), np.int32)
        rows = [(matcher, row) for row, matcher in enumerate(matchers) if matcher is not None]
        if len(rows) == 1:
            fill_next_token_bitmask(rows[0][0], masks, rows[0][1])
        else:
            fill_next_token_bitmask_par(self._several, rows, masks)
        padded = [self._padded(mask) if mask.any() else None for mask in masks]
        return [_MatchState(it, mask) for it, mask in zip(matchers, padded, strict=True)]

    def _padded(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the tokenizer's ids as one of the model's, which may be more, or fewer."""
        return np.resize(mask, self._words) if len(mask) >= self._words else np.pad(mask, (0, self._words - len(mask)))
