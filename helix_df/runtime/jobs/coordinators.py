"""A coordinator with the launchers of its job: the place where who starts workers meets who needs them.

A new launcher is one file in ``launchers`` and one line here.
"""

from __future__ import annotations

from pathlib import Path

from helix_df.plan.plan import Plan
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.coordinator.ways import serving_nodes
from helix_df.runtime.jobs.launchers.embedded import EmbeddedLauncher
from helix_df.runtime.jobs.launchers.external import ExternalLauncher
from helix_df.runtime.jobs.launchers.local import LocalLauncher
from helix_df.runtime.launcher import Launcher
from helix_df.runtime.worker.shell import EngineBuilder


def new_coordinator(
    plan: Plan,
    *,
    log_dir: Path | None = None,
    embedded: bool = False,
    token: str | None = None,
    build_engine: EngineBuilder | None = None,
) -> Coordinator:
    """A coordinator that runs ``plan`` once it is started.

    Args:
        plan: what to run.
        log_dir: where local workers write their logs, and every machine its events; nowhere if None.
        embedded: workers are threads of this process and messages stay in it: no socket, no port.
        token: the job's secret, which every message carries; a fresh one if None.
        build_engine: what workers of an embedded job compute with; the real engine if None.
    """
    if embedded:
        launcher = EmbeddedLauncher(build_engine or _real_engine())
        return Coordinator(plan, lambda _node: launcher, log_dir=log_dir, embedded=True, token=token)
    started_by = {node: plan.job.nodes[node].started_by for node in serving_nodes(plan)}
    local = sum(by == "local" for by in started_by.values())
    launchers: dict[str, Launcher] = {"local": LocalLauncher(local), "external": ExternalLauncher()}
    return Coordinator(plan, lambda node: launchers[started_by[node]], log_dir=log_dir, token=token)


def _real_engine() -> EngineBuilder:
    from helix_df.runtime.worker.build import build_engine

    return build_engine
