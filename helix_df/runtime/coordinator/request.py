"""One request as the coordinator sees it: its states, what it has, and what it may come to.

Doesn't know queues, pipelines' choice or workers: what moves a request is ``requests_state``'s to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from helix_df.rules.admission import expected_answer, expected_kv
from helix_df.rules.routing import Pipeline
from helix_df.runtime.coordinator.drafting import RequestDrafts
from helix_df.runtime.requests import GenerationRequest, ScoredToken
from helix_df.runtime.transitions import TransitionTable
from helix_df.spec.job import Job

RequestState = Literal["new", "waiting", "backing_off", "stranded", "running", "leaving", "over"]
"""``stranded``: no path of nodes that are up holds it. ``leaving``: cancelled, with a step still under way, so that its
KV cache can't be freed yet."""

RequestEvent = Literal[
    "submit", "start", "token", "last_token", "cancel", "no_prefix", "kv_full", "give_up", "due", "lost", "abort",
    "no_way", "way_back",
    "token_out_of_turn", "not_finite", "stuck", "malformed", "lost_step",
]  # fmt: skip

REQUEST: TransitionTable[RequestState, RequestEvent] = TransitionTable(
    "request",
    "new",
    {
        "new": {"submit": "waiting"},
        "waiting": {"start": "running", "no_way": "stranded", "cancel": "over", "abort": "over"},
        "backing_off": {"due": "waiting", "no_way": "stranded", "cancel": "over", "abort": "over"},
        "stranded": {"way_back": "waiting", "cancel": "over", "abort": "over"},
        "running": {
            "token": "running",
            "last_token": "over",
            "cancel": "leaving",
            "no_prefix": "waiting",
            "lost": "waiting",
            "lost_step": "waiting",
            "kv_full": "backing_off",
            "malformed": "backing_off",
            "give_up": "over",
            "not_finite": "over",
            "stuck": "over",
            "abort": "over",
        },
        "leaving": {
            "cancel": "leaving",
            "token": "over",
            "no_prefix": "over",
            "lost": "over",
            "lost_step": "over",
            "kv_full": "over",
            "malformed": "over",
            "not_finite": "over",
            "stuck": "over",
            "abort": "over",
        },
        "over": {"cancel": "over"},
    },
)
"""What happens to a request. Messages of an earlier attempt are nobody's and never get here."""


@dataclass(slots=True)
class ServedRequest:
    """A request and, while it runs, its pipeline.

    ``attempt`` tells late messages of an earlier try apart, and one request from another whose id was used again.
    ``cautious`` ones reserve all that they may need, ``alone`` ones begin with nobody's KV cache; both have been
    rejected once. ``rejections`` are those for want of KV cache or for a message that was refused; after one it waits
    until ``due_s``, and a stranded one is given up then. ``lost_steps`` never came home since its last token.
    ``deadline_s`` is when whoever asked wants no answer any more; times are in seconds of any monotonic clock.
    ``cached`` tokens it didn't have to compute in this attempt. ``scores`` are those of the prompt that have come home,
    ``pooled`` its sums of hidden states, which reach up to token ``pooled_to``. ``drafts`` are those of this attempt,
    if any; a ``plain`` one gets none, since a step with drafts has failed.
    """

    asked: GenerationRequest
    tokens: list[int]
    state: RequestState = "new"
    attempt: int = 0
    pipeline: Pipeline | None = None
    cautious: bool = False
    alone: bool = False
    cached: int = 0
    scores: list[ScoredToken] = field(default_factory=list)
    pooled: list[bytes | memoryview] = field(default_factory=list)
    pooled_to: int = 0
    rejections: int = 0
    lost_steps: int = 0
    due_s: float = math.inf
    deadline_s: float = math.inf
    drafts: RequestDrafts | None = None
    plain: bool = False

    @property
    def key(self) -> str:
        """The name of its present attempt."""
        return f"{self.asked.id}/{self.attempt}"

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.asked.prompt)

    @property
    def most(self) -> int:
        """Tokens of KV cache it may come to."""
        return len(self.asked.prompt) + self.asked.max_tokens

    @property
    def wants_scores(self) -> bool:
        """Whether the prompt's tokens are still to be scored: they are told with the first of the answer."""
        return self.asked.sampling.prompt_logprobs is not None and not self.generated

    @property
    def lacks_scores(self) -> bool:
        """Whether some of them haven't come home."""
        return self.wants_scores and len(self.scores) < len(self.asked.prompt) - 1

    @property
    def lacks_pooled(self) -> bool:
        """Whether sums of hidden states that are asked for haven't come home."""
        return self.asked.sampling.pooling is not None and self.pooled_to < len(self.asked.prompt)

    @property
    def has_drafts(self) -> bool:
        """Whether the step under way carries drafts."""
        return self.drafts is not None and bool(self.drafts.sent)

    def computes_anew(self) -> None:
        """What a former attempt has brought home of the prompt counts no more."""
        self.scores.clear()
        self.pooled.clear()
        self.pooled_to = len(self.asked.prompt) - 1 if self.asked.sampling.pooling == "last" else 0

    def expected(self, job: Job) -> int:
        """Tokens of KV cache it is expected to come to; see ``rules.admission``."""
        answer = expected_answer(self.asked.max_tokens, job.runtime.expected_output, job.workload.output_length)
        return expected_kv(len(self.tokens), len(self.asked.prompt), answer, self.most, self.cautious)

    def move(self, event: RequestEvent) -> RequestState:
        """Take an event, and say what it makes of the request.

        Raises:
            IllegalEvent: when it can't happen in this state.
        """
        self.state = REQUEST.after(self.state, event, self.asked.id)
        return self.state
