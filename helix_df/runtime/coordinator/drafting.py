"""How many tokens each step of a request carries, and what became of them.

Owns what is known of each request's drafts, and the estimates. Who drafts is a ``Drafter``, how many are worth it a
rule (``rules.speculation``). Doesn't know messages, or what a request is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from helix_df.rules.speculation import draft_tokens, learned_acceptance
from helix_df.runtime.coordinator.drafters.kind import Drafter
from helix_df.runtime.coordinator.drafters.registry import get_drafter, options_of
from helix_df.spec.speculation import Speculation


@dataclass(frozen=True, slots=True)
class RoundCosts:
    """Seconds of a decode step once around a pipeline: of one request, and of each token more, in whichever request.

    Requests of the pipeline go around in ``shares``.
    """

    step_s: float
    token_s: float
    shares: int = 1

    def base_s(self, rows: float) -> float:
        """Of a step of so many requests without drafts."""
        return self.step_s + (rows - 1) * self.token_s


@dataclass(slots=True)
class RequestDrafts:
    """One attempt at a request: who drafts for it, and what its step under way carries.

    ``sent`` are the drafts of that step; ``expected`` are what was drafted for it, whether sent or not. ``acceptance``
    is the estimate of this request's, ``known`` how many of its tokens the drafter was told.
    """

    drafter: Drafter
    costs: RoundCosts
    acceptance: float
    known: int = 0
    sent: tuple[int, ...] = ()
    expected: tuple[int, ...] = ()

    def next(self, tokens: Sequence[int], requests: int, most: int) -> tuple[int, ...]:
        """The drafts of the next step.

        Args:
            tokens: of the request, those of its prompt too.
            requests: that run on its pipeline.
            most: drafts that the request and the job allow.
        """
        self.drafter.extend(tokens[self.known :])
        self.known = len(tokens)
        found = self.drafter.draft(most)
        rows = max(1.0, requests / self.costs.shares)
        count = draft_tokens(self.acceptance, rows, self.costs.base_s(rows), self.costs.token_s, len(found))
        self.sent, self.expected = found[:count], found[: max(1, count)]
        return self.sent

    def verified(self, drawn: Sequence[int]) -> tuple[int, int]:
        """What was drawn behind the step under way: how many of its drafts were verified by that, and were right.

        Where none was sent, the first that might have been is compared, so that drafting begins again with a text that
        repeats.
        """
        compared = list(zip(self.expected, drawn, strict=False))
        right = next((at for at, (draft, token) in enumerate(compared) if draft != token), len(compared))
        count = min(right + 1, len(compared))
        if count:
            self.acceptance = learned_acceptance(self.acceptance, count, right)
        sent, self.sent, self.expected = len(self.sent), (), ()
        return (count, right) if sent else (0, 0)


@dataclass(slots=True)
class Drafting:
    """A job's drafts. ``drafted`` tokens were sent with steps so far, and ``accepted`` of them were right. Drafts were
    sought for ``steps``, some ``found`` for so many, and ``sent`` with so many.

    Requests begin with the job's estimate, which all of them move.
    """

    said: Speculation | None = None
    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    found: int = 0
    sent: int = 0
    _acceptance: float = field(init=False)

    def __post_init__(self) -> None:
        self.go_by(self.said)

    def go_by(self, said: Speculation | None) -> None:
        """What the job says from now on."""
        self.said = said
        self._acceptance = 0.0 if said is None else said.acceptance

    def begin(self, costs: RoundCosts) -> RequestDrafts | None:
        """For an attempt at a request; None where nothing is drafted."""
        if self.said is None:
            return None
        kind = get_drafter(self.said.drafter)
        return RequestDrafts(kind.make(options_of(self.said, kind)), costs, self._acceptance)

    def next(self, drafts: RequestDrafts, tokens: Sequence[int], requests: int, most: int) -> tuple[int, ...]:
        """The drafts of a request's next step; see ``RequestDrafts.next``."""
        if self.said is None:
            return ()
        found = drafts.next(tokens, requests, min(most, self.said.drafts))
        self.steps += 1
        self.found += bool(drafts.expected)
        self.sent += bool(found)
        self.drafted += len(found)
        return found

    def verified(self, drafts: RequestDrafts, drawn: Sequence[int]) -> None:
        """Tokens that a request's step gave."""
        count, right = drafts.verified(drawn)
        self.accepted += right
        if count:
            self._acceptance = learned_acceptance(self._acceptance, count, right)
