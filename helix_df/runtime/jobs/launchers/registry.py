"""Launchers by name: built-ins imported on demand, others through the entry point group ``helix_df.launchers``.

Owns the names, and the check of what a job says to its launchers. Imports none before somebody asks for it.
"""

from __future__ import annotations

from helix_df.errors import SpecError
from helix_df.plugins import Registry, instance_of
from helix_df.runtime.jobs.launchers.kind import LauncherKind
from helix_df.spec.job import Job
from helix_df.spec.plugin_options import read_options
from helix_df.spec.section import Section

BUILT_IN = {
    "local": "helix_df.runtime.jobs.launchers.local:LOCAL",
    "external": "helix_df.runtime.jobs.launchers.external:EXTERNAL",
    "ssh": "helix_df.runtime.jobs.launchers.ssh:SSH",
    "ray": "helix_df.runtime.jobs.launchers.ray:RAY",
    "slurm": "helix_df.runtime.jobs.launchers.slurm:SLURM",
    "kubernetes": "helix_df.runtime.jobs.launchers.kubernetes:KUBERNETES",
}
"""Where each built-in lives."""

_REGISTRY = Registry(
    what="launcher",
    group="helix_df.launchers",
    built_in=BUILT_IN,
    expected="a helix_df.runtime.jobs.launchers.kind.LauncherKind",
    made=instance_of(LauncherKind),
    error=SpecError,
)


def launcher_names() -> tuple[str, ...]:
    """All names that ``get_launcher`` knows: built-ins in the order of the registry, then the others by name."""
    return _REGISTRY.names()


def get_launcher(name: str, where: str) -> LauncherKind:
    """The launcher of that name, which the job has at the path ``where``.

    Raises:
        SpecError: for a name nobody knows, one that two packages claim, or an entry point that can't be used.
    """
    return _REGISTRY.get(name, where)


def options_of(job: Job, name: str, kind: LauncherKind) -> Section:
    """What the job says to a launcher under ``launchers``.

    Raises:
        SpecError: for a mistake in it, or several.
    """
    return read_options(job.launchers.get(name, {}), kind.options, ("launchers", name))


def check_launchers(job: Job) -> None:
    """Check that there are the launchers that a job names, that they take their options, and can start its nodes.

    Raises:
        SpecError: for a name nobody knows, a wrong option, or whatever a launcher says that it needs.
    """
    used = {node.started_by: f"nodes.{name}.launcher" for name, node in reversed(job.nodes.items())}
    for name, where in ({name: f"launchers.{name}" for name in job.launchers} | used).items():
        kind = get_launcher(name, where)
        nodes = {node: declared for node, declared in job.nodes.items() if declared.started_by == name}
        kind.check(nodes, options_of(job, name, kind))
