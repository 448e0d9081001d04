"""How commands that look at plans find them: a plan file, a job file that is planned first, or a running job's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from helix_df.plan.plan import Plan

SOURCE_HELP = "A plan file (.json), a job file, or the name of a job that runs or ran here."


def find_plan(source: str, progress: Console) -> Plan:
    """The plan that ``source`` names, checked; a job file is planned with its own solver under somebody's eyes.

    Raises:
        PlanError: when there is no such plan, or it doesn't fit its job.
        SpecError, Infeasible, SolverError: as ``load_job`` and ``make_plan``.
    """
    path = Path(source)
    if path.suffix == ".json":
        return _checked(path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return _planned(path, progress)
    return _of_job(source)


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


def _checked(path: Path) -> Plan:
    from helix_df.plan.plan import read_plan
    from helix_df.plan.violations import require_valid

    return require_valid(read_plan(path), str(path))


def _planned(path: Path, progress: Console) -> Plan:
    from helix_df.cli.search import watched
    from helix_df.load import load_job
    from helix_df.planning import make_plan

    job = load_job(path)
    return watched(lambda watch: make_plan(job, watch=watch), progress)


def _of_job(name: str) -> Plan:
    from helix_df.errors import PlanError
    from helix_df.runtime.jobs.directory import list_jobs

    jobs = {job.name: job for job in list_jobs()}
    if name not in jobs:
        raise PlanError(
            f"there is no plan or job called {name!r}",
            expected="a plan file (.json), a job file (.yaml)"
            + (f", or one of the jobs {', '.join(jobs)}" if jobs else ", or a job that runs here"),
        )
    return _checked(jobs[name].plan_path)
