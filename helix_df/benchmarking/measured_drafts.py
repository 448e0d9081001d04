"""What became of drafted tokens while a benchmark ran: the acceptance and coverage that a prediction takes.

Owns these figures and how they follow from what a job counts. Doesn't know who drafts.
"""

from __future__ import annotations

from dataclasses import dataclass

from helix_df.rules.speculation import expected_tokens
from helix_df.runtime.requests import JobStatus

_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class MeasuredDrafts:
    """Of ``steps`` decode steps, for how many there were drafts (``found``), and how many carried some (``sent``);
    ``drafted`` tokens in all, of which ``accepted`` were drawn."""

    steps: int
    found: int
    sent: int
    drafted: int
    accepted: int

    @property
    def coverage(self) -> float:
        """Share of the steps for which there were drafts."""
        return self.found / self.steps if self.steps else 0.0

    @property
    def acceptance(self) -> float:
        """Probability that a drafted token is right, given that those before it are, with which steps of as many drafts
        give as many right ones on average; 0 where none was sent.

        ``a + a² + … + aᵏ`` right ones are expected of ``k`` drafts. Requests whose drafts are right more often than
        others' count so with what they give.
        """
        if self.sent == 0:
            return 0.0
        low, high, wanted = 0.0, 1.0, 1 + self.accepted / self.sent
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self._given(middle) < wanted:
                low = middle
            else:
                high = middle
        return high

    def _given(self, acceptance: float) -> float:
        """Tokens that a step gives on average; numbers of drafts between two whole ones are some of both."""
        mean = self.drafted / self.sent
        fewer, more = (expected_tokens(int(mean) + one, acceptance) for one in (0, 1))
        return fewer + (mean - int(mean)) * (more - fewer)


def drafts_between(before: JobStatus, after: JobStatus) -> MeasuredDrafts | None:
    """What a job counted between two moments; ``None`` where it took no steps for which drafts were sought."""
    steps = after.decode_steps - before.decode_steps
    if steps <= 0:
        return None
    return MeasuredDrafts(
        steps,
        after.draftable_steps - before.draftable_steps,
        after.drafted_steps - before.drafted_steps,
        after.drafted_tokens - before.drafted_tokens,
        after.accepted_tokens - before.accepted_tokens,
    )
