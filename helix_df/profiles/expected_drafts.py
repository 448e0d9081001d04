"""What steps with drafted tokens cost and give on average, as planning counts them.

Owns the arithmetic from what a job expects of its drafts. Doesn't know devices, nor when the runtime drafts how many.

A share ``q`` of the steps (``coverage``) carries ``k`` drafts each, and such a step gives ``E(k)`` tokens
(``rules.speculation.expected_tokens``). So a step brings ``1 + q·k`` tokens to every stage and link, and gives
``1 − q + q·E(k)``: never more than it brings.

* Compute and links: a token that is kept costs at least as much as without drafts, since those that aren't are
  computed and sent, too.
* Memory: the steps of ``b`` requests read the weights once for ``b·(1 + q·k)`` tokens, as the steps of so many requests
  do. Where that is what a batch takes, more tokens come of the same seconds; so throughputs, and with them the flow
  and its bound, count the best ``k`` of those that the job allows. They hold for the acceptance and coverage that the
  job expects; what is measured is in ``/metrics``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from helix_df.rules.speculation import expected_tokens


@dataclass(frozen=True, slots=True)
class DraftedSteps:
    """Steps of which a share brings drafted tokens: ``carried`` tokens a step on average, of which ``given`` stay."""

    carried: float = 1.0
    given: float = 1.0

    @property
    def carried_for_each(self) -> float:
        """Tokens that are computed and sent for each that stays, at least 1."""
        return self.carried / self.given


PLAIN_STEPS = DraftedSteps()


@dataclass(frozen=True, slots=True)
class ExpectedDrafts:
    """At most ``drafts`` a step, in a share ``coverage`` of steps, of which each is right with ``acceptance`` after
    those before it."""

    drafts: int = 0
    acceptance: float = 0.0
    coverage: float = 0.0

    def steps(self, drafts: int) -> DraftedSteps:
        """Steps that carry so many drafts where there are some."""
        given = 1.0 - self.coverage + self.coverage * expected_tokens(drafts, self.acceptance)
        return DraftedSteps(1.0 + self.coverage * drafts, given)

    def choices(self) -> Iterator[DraftedSteps]:
        """Steps with 0, 1, 2, … drafts, up to the most; plain ones alone where none can be right."""
        yield PLAIN_STEPS
        if self.acceptance > 0 and self.coverage > 0:
            yield from (self.steps(drafts) for drafts in range(1, self.drafts + 1))


NO_DRAFTS = ExpectedDrafts()
