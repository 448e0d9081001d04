"""What the draws of a batch take beside its logits: edits, the tokens that constraints allow, and what is kept.

Owns what is known of requests whose draws depend on their tokens, from their first step here to their release. Plain
requests cost nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax import Array

from helix_df.models.tokenizer import Tokenizer
from helix_df.runtime.requests import History
from helix_df.runtime.worker.edits import Edits, Shaped, edits_of
from helix_df.runtime.worker.matching import Matches
from helix_df.runtime.worker.sampler import SamplerRows, edit, keep_allowed, pick_greedily, sample, sampler_rows
from helix_df.runtime.worker.steps import Step

_EVERYTHING = -1
"""32 tokens that may all come."""

_NOTHING_YET = History((), 0)


@dataclass(frozen=True, slots=True, eq=False)
class Adjusted:
    """How the logits of a batch are changed before tokens are drawn from them, each None where nothing is.

    ``allowed`` is int32 [B, V / 32], one bit a token; ``min_p`` float32 [B]. Of ``stuck`` requests no draw counts.
    """

    edits: Edits | None = None
    allowed: np.ndarray | None = None
    min_p: np.ndarray | None = None
    stuck: frozenset[str] = frozenset()


PLAIN = Adjusted()


class Draws:
    """The requests on one worker whose draws aren't plain.

    Args:
        vocab_size: of the model.
        tokenizer: gives the model's tokenizer, for constraints; without one none can be kept to.
    """

    def __init__(self, vocab_size: int, tokenizer: Callable[[], Tokenizer] | None) -> None:
        self._vocab_size = vocab_size
        self._matches = None if tokenizer is None else Matches(tokenizer, vocab_size)
        self._shaped: dict[str, Shaped] = {}

    def begin(self, step: Step) -> None:
        """Let what a request's draws take be found while its layers run."""
        if step.constraint is not None and self._matches is not None:
            self._matches.begin(step.request, step.constraint, (step.history or _NOTHING_YET).answer)

    def adjust(self, steps: Sequence[Step], rows: int) -> Adjusted:
        """What changes about a batch padded to ``rows``."""
        drawn = [step.sampling for step in steps]
        if all(params is None or params.is_plain for params in drawn):
            return PLAIN
        shaped = [self._shaped_of(step) for step in steps]
        allowed, stuck = self._allowed(steps, rows)
        edits = None
        if any(one is not None and one.shaping.edits for one in shaped):
            edits = edits_of([self._row(one, allowed, at) for at, one in enumerate(shaped)], rows, self._vocab_size)
        min_p = np.zeros(rows, np.float32)
        min_p[: len(shaped)] = [0 if one is None else one.shaping.min_p for one in shaped]
        return Adjusted(edits, allowed, min_p if min_p.any() else None, stuck)

    def drawn(self, tokens: Mapping[str, int]) -> None:
        """Tokens that were drawn, by request."""
        if self._matches is not None:
            self._matches.drawn(tokens)
        if self._shaped:
            for request, token in tokens.items():
                if request in self._shaped:
                    self._shaped[request].draw(token)

    def forget(self, request: str) -> None:
        """A request is over here."""
        self._shaped.pop(request, None)
        if self._matches is not None:
            self._matches.forget(request)

    def _shaped_of(self, step: Step) -> Shaped | None:
        if step.sampling is None or step.sampling.shaping is None:
            return None
        if step.request not in self._shaped:
            self._shaped[step.request] = Shaped(step.sampling.shaping, step.history or _NOTHING_YET)
        return self._shaped[step.request]

    def _row(self, shaped: Shaped | None, allowed: np.ndarray | None, row: int) -> tuple[np.ndarray, ...] | None:
        if shaped is None or not shaped.shaping.edits:
            return None
        banned = shaped.banned()
        # A constraint that leaves nothing else wins: an answer that is whole ends.
        return shaped.row(() if allowed is not None and not _leaves_any(allowed[row], banned) else banned)

    def _allowed(self, steps: Sequence[Step], rows: int) -> tuple[np.ndarray | None, frozenset[str]]:
        """The tokens that may come next, int32 [rows, V / 32], and the requests for which there is none."""
        params = ((at, step, step.sampling) for at, step in enumerate(steps))
        constrained = {at: step for at, step, one in params if one is not None and one.constraint is not None}
        if not constrained:
            return None, frozenset()
        allowed = np.full((rows, -(-self._vocab_size // 32)), _EVERYTHING, np.int32)
        stuck = set()
        for row, step in constrained.items():
            mask = None if self._matches is None else self._matches.mask(step.request)
            if mask is None:
                stuck.add(step.request)
            else:
                allowed[row] = mask
        return allowed, frozenset(stuck)


def _leaves_any(allowed: np.ndarray, banned: set[int]) -> bool:
    """Whether anything is left of what is allowed: int32 [V / 32], one bit a token."""
    if not banned:
        return True
    left = allowed.copy()
    for token in banned:
        left.view(np.uint32)[token // 32] &= ~np.uint32(1 << token % 32)
    return bool(left.any())


def compile_draws(logits: jax.ShapeDtypeStruct) -> None:
    """Compile the draws of plain requests from logits that look like these, in any thread."""
    pick_greedily.lower(logits).compile()
    sample.lower(logits, sampler_rows([], [], logits.shape[0])).compile()


def draw(logits: Array | np.ndarray, rows: SamplerRows, adjusted: Adjusted = PLAIN) -> Array:
    """One token a row: float32 [B, V] → int32 [B]; see ``sample``."""
    greedy = not np.any(rows.temperature)
    if adjusted is PLAIN:
        plain: Array = pick_greedily(logits) if greedy else sample(logits, rows)
        return plain
    changed = logits if adjusted.edits is None else edit(logits, adjusted.edits)
    changed = changed if adjusted.allowed is None else keep_allowed(changed, adjusted.allowed)
    rows = rows._replace(min_p=adjusted.min_p)
    tokens: Array = pick_greedily(changed, logits) if greedy else sample(changed, rows, logits)
    return tokens
