"""What ``helix-df simulate`` compares: plans named on the line, each with its changes, each step of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from helix_df.plan.plan import Plan
    from helix_df.spec.job import Job
    from helix_df.what_if import Change, Variant

Settings = dict[str, Any]
"""Values of a sweep for ``rate``, ``seed``, ``scheduler`` or ``in_flight``."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The what-if options as they were written."""

    added: Sequence[str] = ()
    removed: Sequence[str] = ()
    links: Sequence[str] = ()
    keep: bool = False
    sweep: str | None = None
    time_limit: str | None = None
    rate: float | None = None


@dataclass(slots=True)
class _Named:
    """A plan under a name; ``changes`` are those of the job that led to it."""

    name: str
    plan: Plan
    changes: list[Change] = field(default_factory=list)


def find_variants(
    sources: Sequence[str], asked: Asked, make: Callable[[str, Plan, Settings], Variant], progress: Console
) -> list[Variant]:
    """Every variant, with all planning done; ``make`` adds trace and options.

    Raises:
        SpecError, Infeasible, SolverError, PlanError: as ``read_changes``, ``changed``, ``replan`` and ``find_plan``.
    """
    from helix_df.cli.plans import find_plan

    found = []
    for name, source in zip(_names(sources), sources, strict=True):
        plan = find_plan(source, progress)
        for one, settings in _variants(_Named(name, plan), asked, len(sources) == 1, progress):
            found.append(make(one, settings[0], settings[1]))
    return found


def _names(sources: Sequence[str]) -> list[str]:
    """Short names: files without folders and endings where that tells them apart."""
    from pathlib import Path

    if len(sources) == 1:
        return ["as planned"]
    short = [Path(source).name.removesuffix(".json").removesuffix(".plan").removesuffix(".yaml") for source in sources]
    return short if len(set(short)) == len(short) else list(sources)


def _variants(
    start: _Named, asked: Asked, alone: bool, progress: Console
) -> Iterator[tuple[str, tuple[Plan, Settings]]]:
    from helix_df.what_if.read_changes import read_changes, read_sweep

    changes = read_changes(asked.added, asked.removed, asked.links, start.plan.job)
    steps = read_sweep(asked.sweep, start.plan.job) if asked.sweep is not None else ()
    plans = [start]
    if changes:
        plans.append(_changed(start, start, changes, asked, alone, progress))
    last = plans[-1]
    plans += [_changed(start, last, [step.change], asked, alone, progress) for step in steps if step.change is not None]
    settings = [step for step in steps if step.setting is not None]
    for plan in plans:
        if not settings:
            yield plan.name, (plan.plan, {})
        for step in settings:
            assert step.setting is not None
            whole = step.name if alone and len(plans) == 1 else f"{plan.name}, {step.name}"
            yield whole, (plan.plan, _setting(*step.setting))


def _changed(
    start: _Named, base: _Named, changes: list[Change], asked: Asked, alone: bool, progress: Console
) -> _Named:
    from helix_df.cli.search import watched
    from helix_df.what_if import SetRate, changed, keep_placement, replan

    whole = [*base.changes, *changes]
    words = ", ".join(map(str, whole))
    name = words if alone else f"{start.name}, {words}"
    job = start.plan.job
    judged = asked.rate is not None and job.solver.objective == "goodput"
    job = _with_limit(changed(job, [*whole, *([SetRate(asked.rate)] if judged and asked.rate else [])]), asked)
    if asked.keep:
        return _Named(name, keep_placement(start.plan, job), whole)
    return _Named(name, watched(lambda watch: replan(start.plan, job, watch), progress), whole)


def _with_limit(job: Job, asked: Asked) -> Job:
    from helix_df.errors import SpecError
    from helix_df.spec.mistakes import Refusal
    from helix_df.spec.units import parse_duration

    if asked.time_limit is None:
        return job
    try:
        limit_s = parse_duration(asked.time_limit)
    except Refusal as error:
        raise SpecError(
            error.problem, where="--time-limit", found=repr(asked.time_limit), expected=error.expected
        ) from None
    if limit_s <= 0:
        raise SpecError("the time limit must be above zero", where="--time-limit", found=repr(asked.time_limit))
    return job.with_solver(time_limit=limit_s)


def _setting(subject: str, text: str) -> Settings:
    from helix_df.errors import SpecError
    from helix_df.rules.schedulers.registry import get_scheduler

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
