"""Whether the model on this machine is the one that a plan was made for.

Owns the comparison and what to do about a difference. ``violations`` looks at the numbers of a plan, which may all be
right for another model with the same shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

from helix_df.errors import PlanError
from helix_df.plan.plan import Plan
from helix_df.profiles.identity import differences, read_identity

OnNote = Callable[[str], None]


def warn(note: str) -> None:
    """Tell a note as a Python warning."""
    warnings.warn(note, stacklevel=2)


def require_same_model(plan: Plan, where: str = "plan", *, force: bool = False, on_note: OnNote = warn) -> Plan:
    """The plan itself, if the model that its job names is still the one that it was made for.

    A plan of version 1 doesn't say; that is told to ``on_note``. So is a difference with ``force``, and the plan that
    is returned then names the model that is here.

    Raises:
        PlanError: where the model is another, without ``force``.
        ModelError: when the model can't be read.
    """
    if plan.model is None:
        on_note(
            f"{where} doesn't say which model it was made for, as an earlier release wrote it; "
            "`helix-df plan` makes one that does"
        )
        return plan
    found = read_identity(plan.job.model.parsed_source)
    told = differences(plan.model, found)
    if told and not force:
        raise PlanError(
            "the model here is another than the plan was made for",
            where=f"{where}: {plan.job.model.source}",
            found="; ".join(told),
            expected="the model as it was when the plan was made",
            hint="make the plan again with `helix-df plan`, or run it as it is with --force (Python: force=True)",
        )
    if not told:
        return plan
    on_note(f"the model {plan.job.model.source} is another than {where} was made for: {'; '.join(told)}")
    return replace(plan, model=found)
