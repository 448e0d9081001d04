"""helix-df: declarative LLM serving over whatever GPUs you have.

The names below are all that most programs need; each is imported when it is first used, so that planning never waits
for what only serving needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from helix_df.extras import explained_imports

if TYPE_CHECKING:
    from helix_df.benchmarking import bench
    from helix_df.check import check_job
    from helix_df.deployment import apply, change, connect, deploy, down, drain, status
    from helix_df.errors import (
        DeploymentError,
        HelixError,
        Infeasible,
        MissingExtra,
        ModelError,
        PlanError,
        RequestError,
        SolverError,
        SpecError,
    )
    from helix_df.explanation.explain import explain
    from helix_df.exporters.registry import export_plan
    from helix_df.load import load_job
    from helix_df.measuring.probing import probe_job
    from helix_df.measuring.profiling import profile_device
    from helix_df.pictures.plan_svg import plan_svg
    from helix_df.plan.diff import diff
    from helix_df.plan.plan import Plan, read_plan, write_plan
    from helix_df.planning import make_plan
    from helix_df.plans import find_plan
    from helix_df.runtime.api.client import Answer, RunningJob
    from helix_df.runtime.jobs.job_keys import make_keys
    from helix_df.sizing import size
    from helix_df.spec.job import Job
    from helix_df.spec.shipped import examples

__version__ = "0.1.0"
"""The one place where the version stands; the build reads it from here."""

__all__ = [
    "Answer",
    "DeploymentError",
    "HelixError",
    "Infeasible",
    "Job",
    "MissingExtra",
    "ModelError",
    "Plan",
    "PlanError",
    "RequestError",
    "RunningJob",
    "SolverError",
    "SpecError",
    "__version__",
    "apply",
    "bench",
    "change",
    "check_job",
    "connect",
    "deploy",
    "diff",
    "down",
    "drain",
    "examples",
    "explain",
    "export_plan",
    "find_plan",
    "load_job",
    "make_keys",
    "make_plan",
    "plan_svg",
    "probe_job",
    "profile_device",
    "read_plan",
    "size",
    "status",
    "write_plan",
]

_HOMES = {
    "Answer": "helix_df.runtime.api.client",
    "Job": "helix_df.spec.job",
    "Plan": "helix_df.plan.plan",
    "RunningJob": "helix_df.runtime.api.client",
    "apply": "helix_df.deployment",
    "bench": "helix_df.benchmarking",
    "change": "helix_df.deployment",
    "check_job": "helix_df.check",
    "connect": "helix_df.runtime.jobs.connecting",
    "deploy": "helix_df.deployment",
    "diff": "helix_df.plan.diff",
    "down": "helix_df.deployment",
    "drain": "helix_df.deployment",
    "examples": "helix_df.spec.shipped",
    "explain": "helix_df.explanation.explain",
    "export_plan": "helix_df.exporters.registry",
    "find_plan": "helix_df.plans",
    "load_job": "helix_df.load",
    "make_keys": "helix_df.runtime.jobs.job_keys",
    "make_plan": "helix_df.planning",
    "plan_svg": "helix_df.pictures.plan_svg",
    "probe_job": "helix_df.measuring.probing",
    "profile_device": "helix_df.measuring.profiling",
    "read_plan": "helix_df.plan.plan",
    "size": "helix_df.sizing",
    "status": "helix_df.deployment",
    "write_plan": "helix_df.plan.plan",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        with explained_imports():
            return getattr(import_module(_HOMES.get(name, "helix_df.errors")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
