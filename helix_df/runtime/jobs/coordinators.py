"""A coordinator with the launchers of its job: the place where who starts workers meets who needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from helix_df.plan.plan import Plan
from helix_df.plan.takeover import Spare
from helix_df.runtime.coordinator.journal import Journal
from helix_df.runtime.coordinator.journaled_answers import JournaledAnswers
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.coordinator.ways import serving_nodes
from helix_df.runtime.jobs.fork_server import ForkServer
from helix_df.runtime.jobs.job_keys import KeyFiles, new_keys
from helix_df.runtime.jobs.launchers.embedded import EmbeddedLauncher
from helix_df.runtime.jobs.launchers.kind import LaunchSite
from helix_df.runtime.jobs.launchers.registry import get_launcher, options_of
from helix_df.runtime.launcher import Launcher
from helix_df.runtime.wire.transport import endpoint_keys
from helix_df.runtime.worker.shell import EngineBuilder
from helix_df.spec.nodes import Node


def new_coordinator(
    plan: Plan,
    *,
    log_dir: Path | None = None,
    embedded: bool = False,
    token: str | None = None,
    build_engine: EngineBuilder | None = None,
    address: str | None = None,
    supervisor: int | None = None,
    journal: Journal | None = None,
    keys: KeyFiles | None = None,
    names: Mapping[str, str] | None = None,
    restarts: int = 0,
    last_restart: str = "",
    spares: Mapping[str, Spare] | None = None,
    forks: ForkServer | None = None,
) -> Coordinator:
    """A coordinator that runs ``plan`` once it is started.

    Args:
        plan: what to run.
        log_dir: where local workers write their logs, and every machine its events; nowhere if None.
        embedded: workers are threads of this process and messages stay in it: no socket, no port.
        token: the job's secret, which every message carries; that of the keys if None.
        build_engine: what workers of an embedded job compute with; the real engine if None.
        address: where to listen, as the coordinator before this one did; as the job says if None.
        supervisor: the process that gets the workers of a coordinator which dies, for the next one to take back.
        journal: what coordinators before this one have left, and where this one leaves the same.
        keys: those of the job, and the file that goes to other hosts; fresh ones if None.
        names: of the workers by the nodes that they serve, where the plan has taken over from another.
        restarts: coordinators before this one, each of which had ended by itself.
        last_restart: why the last of them did.
        spares: workers of nodes that the plan does without until they are back.
        forks: what the workers of this machine come of; they are started anew if None.
    """
    if embedded:
        in_here = EmbeddedLauncher(build_engine or _real_engine())
        return Coordinator(plan, lambda _declared: in_here, log_dir=log_dir, embedded=True, token=token)
    of_job = new_keys() if keys is None else keys.keys
    if token is not None:
        of_job = replace(of_job, token=token)
    site = LaunchSite({}, of_job, None if keys is None else keys.worker_key, supervisor, forks)
    coordinator = Coordinator(
        plan,
        _launchers(plan, names or {}, site),
        log_dir=log_dir,
        token=of_job.token,
        address=address,
        journal=journal,
        keys=endpoint_keys(of_job.coordinator, of_job.token) if plan.job.encrypts else None,
        names=names,
        restarts=restarts,
        last_restart=last_restart,
        spares=spares,
    )
    if journal is not None and plan.job.runtime.journal:
        coordinator.answers = JournaledAnswers(coordinator, journal)
    return coordinator


def _launchers(plan: Plan, names: Mapping[str, str], site: LaunchSite) -> Callable[[Node], Launcher]:
    """Who starts the worker of a node: one launcher of each name, made when it is first asked for."""
    job_node = {worker: node for node, worker in names.items()}
    serving = {job_node.get(worker, worker): plan.job.nodes[worker] for worker in serving_nodes(plan)}

    used = {declared.started_by for declared in serving.values()}
    if site.forks is not None and not any(get_launcher(name, "nodes").forks for name in used):
        site.forks.end()

    @cache
    def launcher(name: str) -> Launcher:
        kind = get_launcher(name, "nodes")
        nodes = {node: declared for node, declared in serving.items() if declared.started_by == name}
        return kind.make(replace(site, nodes=nodes), options_of(plan.job, name, kind))

    return lambda declared: launcher(declared.started_by)


def _real_engine() -> EngineBuilder:
    from helix_df.runtime.worker.build import build_engine

    return build_engine
