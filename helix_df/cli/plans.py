"""How commands that look at plans find them, with progress while a job file is planned first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from helix_df.plan.plan import Plan
    from helix_df.spec.job import Job

SOURCE_HELP = "A plan file (.json), a job file, or the name of a job that runs or ran here."


def find_plan(source: str, progress: Console) -> Plan:
    """The plan that ``source`` names, checked; a job file is planned with progress and Ctrl-C.

    Raises:
        PlanError, SpecError, Infeasible, SolverError: as ``helix_df.find_plan``.
    """
    from helix_df import plans

    def make(job: Job) -> Plan:
        from helix_df.cli.search import watched
        from helix_df.planning import make_plan

        return watched(lambda watch: make_plan(job, watch=watch), progress)

    return plans.find_plan(source, make)


def named_plans(sources: Sequence[str], progress: Console) -> dict[str, Plan]:
    """Several plans by short names: files without folders and endings, where that tells them apart.

    Raises:
        PlanError, SpecError, Infeasible, SolverError: as ``find_plan``.
    """
    return {name: find_plan(source, progress) for name, source in zip(_names(sources), sources, strict=True)}


def _names(sources: Sequence[str]) -> list[str]:
    if len(sources) == 1:
        return ["as planned"]
    short = [Path(source).name.removesuffix(".json").removesuffix(".plan").removesuffix(".yaml") for source in sources]
    for names in (short, list(sources)):
        if len(set(names)) == len(names):
            return names
    return [f"{source} ({place})" for place, source in enumerate(sources, start=1)]
