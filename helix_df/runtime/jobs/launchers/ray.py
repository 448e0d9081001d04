"""Workers as actors of a Ray cluster, each where Ray finds what it asks for.

One detached actor a worker, in one placement group for all nodes of the job. Ray starts an actor again elsewhere when
its host is gone; the launcher, which follows each worker's log, then gives it the job's key and lets it begin. Actors
outlive the coordinator and are found again by their names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import Field

from helix_df.errors import DeploymentError
from helix_df.profiles.catalogue import device_count
from helix_df.release import release
from helix_df.runtime.jobs.attended import Greeting, job_mark
from helix_df.runtime.jobs.job_keys import JobKeys, worker_key_line
from helix_df.runtime.jobs.launchers.apart import ApartLauncher
from helix_df.runtime.jobs.launchers.kind import LauncherKind, LaunchSite
from helix_df.runtime.jobs.launchers.local import last_words, worker_arguments
from helix_df.runtime.jobs.launchers.needs import missing, require_known, require_placed
from helix_df.runtime.jobs.launchers.remote import RemoteLauncher
from helix_df.runtime.jobs.log_copy import LogCopy
from helix_df.runtime.launcher import WorkerOrder
from helix_df.runtime.wire.keys import without_key
from helix_df.spec.nodes import Node
from helix_df.spec.section import Number, Section
from helix_df.spec.units import Duration

if TYPE_CHECKING:
    from ray.actor import ActorHandle

log = logging.getLogger(__name__)

NAMESPACE = "helix-df"
"""Ray's, in which actors have their names."""

RETRY_S = 0.5
ABSENT_S = 600.0
"""So long an actor that Ray starts again may be nowhere, before its worker counts as ended."""


class RayPlace(Section):
    """What a worker needs of the Ray node that it is put on."""

    cpus: Number = Field(default=1, ge=0, description="Cores that Ray reserves (`num_cpus`).")
    gpus: Number | None = Field(
        default=None, ge=0, description="Devices (`num_gpus`); by default as many as the node's GPU type has."
    )
    resources: dict[str, Number] = Field(
        default_factory=dict, description="Custom resources.", examples=[{"accelerator_type:L4": 0.001}]
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="Labels of the Ray node.", examples=[{"ray.io/accelerator-type": "L4"}]
    )


class RayOptions(Section):
    """Which cluster, and what workers ask of it."""

    address: str = Field(
        default="auto", description="The cluster's: `auto` for the one that this host is a node of, or `host:6379`."
    )
    place: dict[str, RayPlace] = Field(
        default_factory=dict,
        description="What workers need, by the node's name, else by its GPU type, else under `default`.",
        examples=[{"L4": {"gpus": 1, "labels": {"ray.io/accelerator-type": "L4"}}}],
    )
    wait: Duration = Field(
        default=60.0, gt=0, description="How long the cluster has to find room for all workers.", examples=["10min"]
    )

    def of(self, name: str, node: Node) -> RayPlace:
        """What the worker of a node needs, its devices included."""
        place = self.place.get(name) or self.place.get(node.gpu) or self.place.get("default") or RayPlace()
        return place if place.gpus is not None else place.model_copy(update={"gpus": device_count(node.gpu)})


class RayLauncher(RemoteLauncher):
    """Stays with each worker by asking its actor for news. ``nodes`` are those of the plan."""

    def __init__(self, nodes: Mapping[str, Node], keys: JobKeys, options: RayOptions) -> None:
        super().__init__()
        self._nodes = nodes
        self._keys = keys
        self._options = options
        self._mark = job_mark(keys)
        self._actors: dict[str, ActorHandle[Any]] = {}
        self._group: asyncio.Task[Any] | None = None

    async def stay_with(self, order: WorkerOrder) -> str:
        """See ``RemoteLauncher``. While Ray starts an actor again its worker hasn't ended, it is away."""
        import ray

        if self._group is None:
            self._group = asyncio.create_task(asyncio.to_thread(self._find_room))
        group = await asyncio.shield(self._group)
        actor = self._actors[order.node] = self._actor(order, group)
        worker = worker_arguments(replace(order, coordinator=without_key(order.coordinator)))
        pid, away_s = 0, 0.0
        seen = 0
        with LogCopy(order.log_file) as copy:
            while True:
                try:
                    greeting, host = await actor.begin.remote(worker, worker_key_line(self._keys))
                    before, pid = pid, self._greeted(order.node, greeting, host)
                    seen = seen if pid == before else 0
                    away_s = 0.0
                    while True:
                        piece, seen, code = await actor.follow.remote(seen)
                        copy.write(piece)
                        if code is not None:
                            ray.kill(actor)
                            return last_words(code, order.log_file)
                except ray.exceptions.ActorUnavailableError as error:
                    away_s += RETRY_S
                    if away_s > ABSENT_S:
                        return f"its actor is nowhere: {error}"
                    log.warning("worker %s: its actor is away", order.node)
                except ray.exceptions.ActorDiedError as error:
                    return f"its actor is gone: {error}"
                await asyncio.sleep(RETRY_S)

    async def end(self, node: str, *, force: bool) -> None:
        """See ``RemoteLauncher``."""
        import ray

        actor = self._actors.get(node)
        if actor is None:
            return
        if force:
            ray.kill(actor)
        else:
            await actor.end.remote(False)

    async def close(self) -> None:
        """See ``RemoteLauncher``: no actor and no placement group is left."""
        import ray

        if self._group is None or not self._group.done() or self._group.exception() is not None:
            return
        for actor in self._actors.values():
            with suppress(ray.exceptions.RayError, ValueError):
                ray.kill(actor)
        await asyncio.to_thread(ray.util.remove_placement_group, self._group.result())
        await asyncio.to_thread(ray.shutdown)

    def _find_room(self) -> Any:
        """The placement group, of this coordinator or the one before it.

        Raises:
            DeploymentError: when there is no such cluster, or no room in it.
        """
        import ray

        try:
            ray.init(self._options.address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DeploymentError(
                "there is no such Ray cluster",
                where="launchers.ray.address",
                found=f"{self._options.address}: {error}",
                hint="`ray status` on this host says whether it is a node of one",
            ) from error
        with suppress(ValueError):
            return ray.util.get_placement_group(self._mark)
        places = [self._options.of(name, node) for name, node in self._nodes.items()]
        group = ray.util.placement_group(
            [_bundle(place) for place in places],
            strategy="SPREAD",
            name=self._mark,
            lifetime="detached",
            bundle_label_selector=[place.labels for place in places],
        )
        if not group.wait(self._options.wait):
            ray.util.remove_placement_group(group)
            raise DeploymentError(
                "the Ray cluster has no room for all workers",
                where="launchers.ray.place",
                found=f"free: {_words(ray.available_resources())}",
                expected="; ".join(
                    f"{name}: {_words(_bundle(place))}{f' on a node with {place.labels}' if place.labels else ''}"
                    for name, place in zip(self._nodes, places, strict=True)
                ),
                hint="`ray status` shows what nodes have; launchers.ray.wait lets an autoscaler have longer",
            )
        return group

    def _actor(self, order: WorkerOrder, group: Any) -> ActorHandle[Any]:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from helix_df.runtime.jobs.launchers.ray_actor import WorkerActor

        name, node = f"{self._mark}-{order.node}", order.job_node
        with suppress(ValueError):
            return ray.get_actor(name)
        # A node that came with a later plan isn't in the group, and a worker beside another has no place in it.
        place = self._options.of(node, self._nodes[node]) if node in self._nodes else RayPlace()
        bundle = {key: value for key, value in _bundle(place).items() if key not in ("CPU", "GPU")}
        inside = order.node in self._nodes
        options: dict[str, Any] = {
            "name": name,
            "lifetime": "detached",
            "max_restarts": -1,
            "num_cpus": place.cpus,
            "num_gpus": place.gpus or 0,
            "resources": bundle,
        }
        if inside:
            index = list(self._nodes).index(order.node)
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, index)
        elif place.labels:
            options["label_selector"] = place.labels
        return ray.remote(WorkerActor).options(**options).remote(self._mark)

    def _greeted(self, node: str, greeting: Greeting, host: str) -> int:
        if greeting.version != release():
            raise DeploymentError(
                "a Ray node has another version of helix-df", where=host, found=greeting.version, expected=release()
            )
        if not greeting.found:
            log.info("worker %s: process %d on %s", node, greeting.pid, host)
        return greeting.pid


def _bundle(place: RayPlace) -> dict[str, float]:
    """What Ray reserves for a worker."""
    asked = {"CPU": place.cpus, "GPU": place.gpus or 0, **place.resources}
    return {name: float(amount) for name, amount in asked.items() if amount}


def _words(resources: Mapping[str, float]) -> str:
    shown = {name: amount for name, amount in resources.items() if not name.startswith("node:")}
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(shown.items())) or "nothing"


def _check(nodes: Mapping[str, Node], options: RayOptions) -> None:
    if not nodes:
        return
    if find_spec("ray") is None:
        raise missing("ray", "a package that isn't installed", "ray", "pip install 'helix-df[ray]'", nodes)
    require_placed("ray", nodes)
    require_known("ray", "place", options.place, {*nodes, *(node.gpu for node in nodes.values()), "default"})


HERE = LauncherKind(make=lambda site, options: RayLauncher(site.nodes, site.keys, options), options=RayOptions)
"""Ray ends a process that can't reach its cluster for a minute, so that this one is made in a process of its own."""


def _apart(site: LaunchSite, options: RayOptions) -> ApartLauncher:
    return ApartLauncher("helix_df.runtime.jobs.launchers.ray:HERE", site, options)


RAY = LauncherKind(make=_apart, options=RayOptions, check=_check)
