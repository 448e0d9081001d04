"""A worker's unit of compute: some tokens of one request through some layers. Pure data, without jax."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from helix_df.layers import LayerRange
from helix_df.runtime.constraints import Constraint
from helix_df.runtime.requests import DrawnToken, History, ScoredToken, TopLogprobs
from helix_df.runtime.sampling import SamplingParams


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One request's share of a batch: some consecutive tokens through some of the held layers.

    Attributes:
        request: whose KV pages to use.
        layers: which of the held layers to run; may start after the first held one.
        position: position of the first of these tokens.
        tokens: int32 [T], when ``layers`` starts the model; else None.
        hidden: [T, hidden] otherwise; else None.
        sampling: set when ``layers`` ends the model and a token is wanted after the last of these.
        constraint: what the answer has to look like, on every step whose ``layers`` end the model.
        history: the request's tokens when it came here, where drawing takes them.
        targets: what follows each of these tokens in the prompt, where that is to be scored; there may be fewer.
        best: so many of the likeliest tokens are told beside a score.
        pooled: so many of the last of these tokens are summed up behind the final norm, where ``layers`` end the model.
        drafts: ids of all of these tokens but the first, of a decode step that carries drafted tokens. Such a step may
            be cut: what comes of it is of its first tokens then, of one at least.
    """

    request: str
    layers: LayerRange
    position: int
    tokens: np.ndarray | None = None
    hidden: np.ndarray | None = None
    sampling: SamplingParams | None = None
    constraint: Constraint | None = None
    history: History | None = None
    targets: tuple[int, ...] = ()
    best: int = 0
    pooled: int = 0
    drafts: tuple[int, ...] = ()

    @property
    def is_decode(self) -> bool:
        """Whether it goes on with an answer: one token, and what is drafted behind it."""
        return len(self.inputs) == 1 + len(self.drafts)

    def cut(self, drafts: int) -> Step:
        """The same without the drafts after the first ``drafts``."""
        if drafts >= len(self.drafts):
            return self
        kept = self.inputs[: 1 + drafts]
        if self.hidden is None:
            return replace(self, tokens=kept, drafts=self.drafts[:drafts])
        return replace(self, hidden=kept, drafts=self.drafts[:drafts])

    @property
    def inputs(self) -> np.ndarray:
        """Tokens or hidden states, whichever it has.

        Raises:
            ValueError: unless it has exactly the one that ``layers`` calls for, with at least one token.
        """
        wanted, other = (self.tokens, self.hidden) if self.layers.start == 0 else (self.hidden, self.tokens)
        if wanted is None or other is not None or not len(wanted):
            raise ValueError(f"layers {self.layers} take {'tokens' if self.layers.start == 0 else 'hidden states'}")
        return wanted


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What became of a step.

    Attributes:
        request: the step's request.
        hidden: [T, hidden] unless the step ended the model.
        token: the drawn token, when the step asked for one.
        logprobs: when the step's sampling asked for them.
        kv_full: nothing was computed, because the pages (or the engine's context) don't suffice.
        finite: whether all of the hidden states, or the logits, are finite numbers; without them there is nothing
            to go on with, and the other fields are None.
        scores: of the step's targets.
        pooled: float32 [hidden], the sum of the states that the step asks for.
        stuck: the request's constraint allows no token, or can't be followed; there is none to go on with.
        more: tokens drawn behind ``token``, each because the draft before it was drawn, too.
        computed: how many of the step's tokens were computed, where it was cut; None for all.
    """

    request: str
    hidden: np.ndarray | None = None
    token: int | None = None
    logprobs: TopLogprobs | None = None
    kv_full: bool = False
    finite: bool = True
    stuck: bool = False
    scores: tuple[ScoredToken, ...] = ()
    pooled: np.ndarray | None = None
    more: tuple[DrawnToken, ...] = ()
    computed: int | None = None

    @property
    def fault(self) -> Literal["kv_full", "not_finite", "stuck"] | None:
        """Why there is nothing to go on with; ``None`` where there is."""
        return "kv_full" if self.kv_full else "not_finite" if not self.finite else "stuck" if self.stuck else None
