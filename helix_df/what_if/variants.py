"""What a comparison simulates: every plan, each with the changes that were asked for, each step of a sweep.

Owns which variants there are and what they are called. Doesn't know where plans come from, nor traces and simulator
options: the caller makes a ``Variant`` of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helix_df.errors import SpecError
from helix_df.plan.plan import Plan
from helix_df.rules.schedulers.registry import get_scheduler
from helix_df.solvers.choice import keeps_latency
from helix_df.solvers.registry import get_solver
from helix_df.spec.job import Job
from helix_df.what_if.changes import Change, SetRate, changed
from helix_df.what_if.compare import Variant
from helix_df.what_if.read_changes import read_changes, read_sweep
from helix_df.what_if.replan import keep_placement
from helix_df.what_if.replan import replan as replan_job

Settings = dict[str, Any]
"""Values of a sweep for ``rate``, ``seed``, ``scheduler`` or ``in_flight``."""

Replan = Callable[[Plan, Job], Plan]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The questions, in the notation of ``read_changes``.

    ``keep``: no layer moves. ``time_limit_s``: of each planning, instead of the job's. ``rate``: requests/s at which a
    plan for goodput is judged anew.
    """

    added: Sequence[str] = ()
    removed: Sequence[str] = ()
    links: Sequence[str] = ()
    keep: bool = False
    sweep: str | None = None
    time_limit_s: float | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class _NamedPlan:
    """A plan under a name; ``changes`` are those of the job that led to it."""

    name: str
    plan: Plan
    changes: list[Change] = field(default_factory=list)


def find_variants(
    plans: Mapping[str, Plan],
    what_if: WhatIf,
    make: Callable[[str, Plan, Settings], Variant],
    replan: Replan = replan_job,
) -> list[Variant]:
    """Every variant, with all planning done.

    Args:
        plans: where each comparison starts, by name.
        what_if: what is changed.
        make: adds trace and options to a variant's name, plan and settings.
        replan: plans a changed job anew, from the plan that there is.

    Raises:
        SpecError, Infeasible, SolverError: as ``read_changes``, ``read_sweep``, ``changed`` and ``replan``.
    """
    return [
        make(*variant)
        for name, plan in plans.items()
        for variant in _variants(_NamedPlan(name, plan), what_if, len(plans) == 1, replan)
    ]


def _variants(start: _NamedPlan, what_if: WhatIf, only: bool, replan: Replan) -> Iterator[tuple[str, Plan, Settings]]:
    """``only``: there is no other plan to tell this one's variants from."""
    changes = read_changes(what_if.added, what_if.removed, what_if.links, start.plan.job)
    steps = read_sweep(what_if.sweep, start.plan.job) if what_if.sweep is not None else ()
    plans = [start]
    if changes:
        plans.append(_changed(start, start, changes, what_if, only, replan))
    last = plans[-1]
    plans += [_changed(start, last, [step.change], what_if, only, replan) for step in steps if step.change is not None]
    settings = [(step.name, step.setting) for step in steps if step.setting is not None]
    for plan in plans:
        if not settings:
            yield plan.name, plan.plan, {}
        for name, setting in settings:
            whole = name if only and len(plans) == 1 else f"{plan.name}, {name}"
            yield whole, plan.plan, _read_setting(*setting)


def _changed(
    start: _NamedPlan, base: _NamedPlan, changes: list[Change], what_if: WhatIf, only: bool, replan: Replan
) -> _NamedPlan:
    every = [*base.changes, *changes]
    words = ", ".join(map(str, every))
    name = words if only else f"{start.name}, {words}"
    job = start.plan.job
    judged = what_if.rate is not None and keeps_latency(get_solver(job.solver.name))
    job = changed(job, [*every, *([SetRate(what_if.rate)] if judged and what_if.rate else [])])
    if what_if.time_limit_s is not None:
        job = job.with_solver(time_limit=what_if.time_limit_s)
    plan = keep_placement(start.plan, job) if what_if.keep else replan(start.plan, job)
    return _NamedPlan(name, plan, every)


def _read_setting(subject: str, text: str) -> Settings:
    if subject == "scheduler":
        get_scheduler(text)
        return {"scheduler": text}
    try:
        value = float(text) if subject == "rate" else int(text)
    except ValueError:
        value = -1
    least = 0 if subject == "seed" else 1
    good = 0 < value < float("inf") if subject == "rate" else value >= least
    if not good:
        expected = "numbers above zero" if subject == "rate" else f"whole numbers from {least}"
        raise SpecError(f"{subject} can't be this", where="--sweep", found=repr(text), expected=expected)
    return {subject.replace("-", "_"): value}
