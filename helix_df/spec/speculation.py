"""The section ``runtime.speculation``: who drafts tokens, how many at most, and what is expected of drafts.

Owns its fields. Doesn't know which drafters there are, nor what their options mean.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from helix_df.rules.speculation import MOST_DRAFTS
from helix_df.spec.section import Count, Name, Number, Section


class Speculation(Section):
    """Steps carry drafted tokens, of which those are kept that would have been drawn: answers stay what they are."""

    drafter: Name = Field(
        default="lookup",
        description="Who drafts: `lookup` takes what followed the last tokens where they stood before in the prompt or "
        "the answer, and needs no model; or the name of another package's drafter.",
    )
    drafts: Count = Field(
        default=7,
        ge=1,
        le=MOST_DRAFTS,
        description="Most tokens drafted for a step; fewer where more would slow the others down.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the drafter; of `lookup`: `shortest` and `longest`, how many last tokens must have "
        "stood there before (2 and 4).",
        examples=[{"shortest": 3, "longest": 5}],
    )
    acceptance: Number = Field(
        default=0.6,
        ge=0,
        le=1,
        description="Probability that a drafted token is right, given that those before it were: what planning, "
        "simulation and the first steps of requests expect. `/metrics` tells what it was.",
    )
    coverage: Number = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the steps for which there are drafts: what planning and simulation expect.",
    )


def speculation_shorthand(value: object) -> object:
    """``NAME`` as ``{drafter: NAME}``; what else is written stays."""
    return {"drafter": value} if isinstance(value, str) else value
