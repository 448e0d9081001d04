"""Workers as pods of a Kubernetes cluster: a StatefulSet for each GPU type, whose pods the cluster keeps running.

Each pod reads in a ConfigMap which worker it is. Pods outlive the coordinator, and all objects are found again by their
names and labels. The kubelet starts a worker again that has ended, and the cluster a pod that is gone; the launcher
sees both, says so, and brings logs back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from helix_df.errors import DeploymentError, HelixError, SpecError
from helix_df.pods.objects import (
    CONFIG,
    INSTANCE,
    KEYS,
    READY,
    Json,
    budget,
    configuration,
    keys,
    label,
    members,
    set_name,
    workers,
)
from helix_df.pods.options import LAUNCHER, KubernetesOptions
from helix_df.pods.seats import Seats
from helix_df.pods.views import PodView, view
from helix_df.runtime.jobs.attended import job_mark
from helix_df.runtime.jobs.job_keys import worker_key_line
from helix_df.runtime.jobs.launchers.kind import LauncherKind, LaunchSite
from helix_df.runtime.jobs.launchers.kubernetes_api import (
    WHERE,
    ApiRefusal,
    ApiRight,
    ApiSilence,
    ClusterApi,
    connect,
    contexts,
    in_pod,
    in_words,
    kubeconfigs,
)
from helix_df.runtime.jobs.launchers.kubernetes_log import FIRST_PAUSE_S, LAST_PAUSE_S, follow
from helix_df.runtime.jobs.launchers.local import last_words, worker_arguments
from helix_df.runtime.jobs.launchers.needs import missing, require_known, require_placed
from helix_df.runtime.jobs.launchers.remote import LAST_S, RemoteLauncher
from helix_df.runtime.launcher import Exit, WorkerOrder
from helix_df.runtime.wire.keys import without_key
from helix_df.spec.nodes import Node

log = logging.getLogger(__name__)

DRAIN_S = 2.0
"""So long the log of a container that has ended may still come."""

NEEDED = (
    *(ApiRight(verb, kind) for kind in ("ConfigMap", "Secret", "Service", "StatefulSet") for verb in ("get", "create")),
    *(ApiRight("patch", kind) for kind in ("ConfigMap", "Secret", "StatefulSet")),
    *(ApiRight("delete", kind) for kind in ("ConfigMap", "Secret", "Service", "StatefulSet", "Pod")),
    *(ApiRight("list", kind) for kind in ("StatefulSet", "Pod")),
    ApiRight("watch", "Pod"),
    ApiRight("get", "Pod", "log"),
)
NEEDED_FOR_BUDGETS = tuple(ApiRight(verb, "PodDisruptionBudget") for verb in ("get", "create", "patch", "delete"))
"""What the launcher does in its namespace."""


class KubernetesLauncher(RemoteLauncher):
    """Stays with each worker by watching its pod."""

    def __init__(self, site: LaunchSite, options: KubernetesOptions) -> None:
        super().__init__()
        self._options = options
        self._name = f"helix-df-{job_mark(site.keys)}"
        self._key = worker_key_line(site.keys)
        self._begun: asyncio.Task[ClusterApi] | None = None
        self._seats = Seats()
        self._gpus: dict[str, str] = {}  # by the name of their set
        self._written: dict[str, str] = {}  # orders that pods find
        self._sets: dict[str, int] = {}  # pods of each set in the cluster
        self._current: set[str] = set()  # sets that are as the job says
        self._writing = asyncio.Lock()
        self._asked = self._served = 0
        self._pods: dict[str, PodView] = {}
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._watch: asyncio.Task[None] | None = None
        self._sent_away: set[str] = set()  # pods by their uid
        self._codes: dict[str, int] = {}  # with which containers ended; a pod knows no more than two of them
        self._told: dict[str, str] = {}  # the container whose end was the last to be told of a worker
        self._all_are_asked_for = False

    async def stay_with(self, order: WorkerOrder) -> str:
        """See ``RemoteLauncher``."""
        if self._begun is None or (self._begun.done() and self._begun.exception() is not None):
            self._begun = asyncio.create_task(self._begin())
        api = await asyncio.shield(self._begun)
        of = set_name(self._name, label(order.gpu))
        if self._gpus.setdefault(of, order.gpu) != order.gpu:
            raise _same_name(self._gpus[of], order.gpu)
        worker = worker_arguments(replace(order, coordinator=without_key(order.coordinator)))
        seat = self._seats.take(order.node, of, worker)
        await self._write(api)
        code = await self._attend(api, order, seat.pod)
        if code == 0:  # it was told to; the kubelet would start it again
            self._seats.leave(order.node)
            await self._write(api)
        words = last_words(code, order.log_file)
        return words if code is not None else words.replace("ended", f"its pod {seat.pod} is gone", 1)

    async def end(self, node: str, *, force: bool) -> None:
        """See ``RemoteLauncher``: all were asked to with their sets."""
        api, pod = self._api, self._seats.pod_of(node)
        if force and api is not None and pod is not None:
            with suppress(ApiRefusal, ApiSilence):
                await api.delete("Pod", pod, grace_s=0)

    def exits(self) -> list[Exit]:
        """See ``Launcher``; all are asked for by now that are to be, and what else is left is nobody's."""
        if not self._all_are_asked_for and self._loop is not None:
            self._all_are_asked_for = True
            self._submit(self._forget_others(tuple(self._tasks)))
        return super().exits()

    async def close(self) -> None:
        """See ``RemoteLauncher``: no object of the job is left."""
        api = self._api
        if self._begun is not None and api is None:
            self._begun.cancel()
            await asyncio.wait([self._begun], timeout=LAST_S)
        if api is None:
            return
        try:
            await self._remove(api)
        except (ApiRefusal, ApiSilence) as error:
            kinds = "statefulset,pod,service,configmap,secret,pdb"
            remedy = f"kubectl -n {api.namespace} delete {kinds} -l {INSTANCE}={self._name}"
            log.error("objects of this job may be left in the cluster: %s; `%s` removes them", error, remedy)
        finally:
            if self._watch is not None:
                self._watch.cancel()
            await api.close()

    async def _stop(self, grace_s: float) -> None:
        self._stopping = True
        if self._api is not None:  # before workers go, or they would be started again
            with suppress(ApiRefusal, ApiSilence):
                await asyncio.gather(*(self._api.delete("StatefulSet", of) for of in self._sets))
        await super()._stop(grace_s)

    @property
    def _api(self) -> ClusterApi | None:
        """The cluster, once all is there that is needed."""
        begun = self._begun
        return begun.result() if begun is not None and begun.done() and begun.exception() is None else None

    # ------------------------------------------------------------------ objects

    async def _begin(self) -> ClusterApi:
        """The cluster, once all is there that is needed.

        Raises:
            DeploymentError: that says what isn't.
        """
        api = await connect(self._options)
        made: list[Json] = []
        try:
            await self._check(api)
            await self._adopt(api)
            for wanted in (
                keys(self._name, self._key),
                members(self._name, f"{self._name}-workers", "worker"),
                configuration(self._name, self._written),
            ):
                if await self._ensure(api, wanted):
                    made.append(wanted)
            since = await self._look(api)
        except BaseException as error:
            with suppress(ApiRefusal, ApiSilence):
                for one in made:
                    await api.delete(one["kind"], one["metadata"]["name"])
            await api.close()
            if isinstance(error, (ApiRefusal, ApiSilence)):
                raise in_words(error, "the job's first objects", api) from error
            raise
        self._watch = asyncio.create_task(self._keep_watching(api, since))
        return api

    async def _check(self, api: ClusterApi) -> None:
        await api.call("GET", "/version")
        needed = NEEDED + (() if self._options.max_unavailable is None else NEEDED_FOR_BUDGETS)
        may = await asyncio.gather(*(api.may(access) for access in needed))
        lacking = [str(access) for access, allowed in zip(needed, may, strict=True) if not allowed]
        if lacking:
            raise DeploymentError(
                "this user may not do all that the launcher kubernetes does",
                where=WHERE,
                found=f"no right to {', '.join(lacking)} in the namespace {api.namespace}",
                hint="docs/fleets.md has the role that is needed; launchers.kubernetes.context chooses another user",
            )
        if self._options.max_unavailable is not None and not await api.serves("policy/v1"):
            raise DeploymentError(
                "the cluster knows no PodDisruptionBudget of policy/v1",
                where=f"{WHERE}.max_unavailable",
                found=str(self._options.max_unavailable),
                expected="null, or a cluster of Kubernetes 1.21 or later",
            )

    async def _adopt(self, api: ClusterApi) -> None:
        """Find what a coordinator before this one has left."""
        found = await api.get("ConfigMap", f"{self._name}-job")
        self._written = dict((found or {}).get("data") or {})
        self._seats = Seats.read(self._written)
        for one in (await api.list("StatefulSet", self._selector))["items"]:
            self._sets[one["metadata"]["name"]] = int(one["spec"]["replicas"])
            log.info("the set %s of %d pods is there", one["metadata"]["name"], one["spec"]["replicas"])

    async def _forget_others(self, asked_for: Collection[str]) -> None:
        with suppress(HelixError):
            if self._begun is not None:
                api = await asyncio.shield(self._begun)
                self._seats.keep(asked_for)
                await self._write(api)

    async def _ensure(self, api: ClusterApi, wanted: Json) -> bool:
        """Make an object, or change the one that is there; whether it was made.

        Raises:
            DeploymentError: when somebody else has one of this name.
        """
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        there = await api.get(kind, name)
        if there is None:
            await api.create(wanted)
            return True
        if (there["metadata"].get("labels") or {}).get(INSTANCE) != self._name:
            raise DeploymentError(
                "an object of this name is there, which isn't this job's",
                where=WHERE,
                found=f"{kind} {name} in the namespace {api.namespace}",
                hint="another namespace under launchers.kubernetes.namespace, or remove it",
            )
        if kind != "Service":  # all of it stays as it is
            await api.patch(kind, name, {key: wanted[key] for key in ("spec", "data", "stringData") if key in wanted})
        return False

    async def _write(self, api: ClusterApi) -> None:
        """Bring the cluster to what the seats are; those who ask meanwhile are served together.

        Raises:
            DeploymentError: in the cluster's words.
        """
        self._asked += 1
        mine = self._asked
        async with self._writing:
            if self._served >= mine or self._stopping:
                return
            upto = self._asked
            try:
                await self._write_orders(api)
                await self._write_sets(api)
            except (ApiRefusal, ApiSilence) as error:
                raise in_words(error, "the workers' objects", api) from error
            self._served = upto

    async def _write_orders(self, api: ClusterApi) -> None:
        files = self._seats.files
        change = {pod: files.get(pod) for pod in files.keys() | self._written.keys()}
        change = {pod: text for pod, text in change.items() if text != self._written.get(pod)}
        if not change:
            return
        await api.patch("ConfigMap", f"{self._name}-job", {"data": change})
        self._written = files
        # A pod reads its order when it starts, and what is mounted in it lags behind.
        others = {pod: self._pods[pod].uid for pod, text in change.items() if text is not None and pod in self._pods}
        self._sent_away |= set(others.values())
        await asyncio.gather(*(api.delete("Pod", pod) for pod in others))

    async def _write_sets(self, api: ClusterApi) -> None:
        needed = self._seats.sets
        for of in [of for of in self._sets if of not in needed]:
            await api.delete("StatefulSet", of)
            await self._remove_budget(api, of)
            del self._sets[of]
            self._current.discard(of)
        for of, pods in needed.items():
            gpu = self._gpus.get(of)
            if gpu is None or (self._sets.get(of) == pods and of in self._current):
                continue
            if of not in self._current and self._options.max_unavailable is not None:
                await self._ensure(api, budget(self._name, label(gpu), self._options.max_unavailable))
            self._sets.setdefault(of, 0)
            await self._ensure(api, workers(self._name, label(gpu), pods, self._run, self._options, gpu))
            self._sets[of] = pods
            self._current.add(of)

    @property
    def _run(self) -> str:
        """What pods run: a worker by the order that bears the pod's name, once there is one."""
        return (
            f"set -f; until set -- $(cat {CONFIG}/$HOSTNAME 2> /dev/null) && [ $# -gt 0 ]; do sleep 1; done; "
            f'exec {self._options.command} "$@" --key-file {KEYS}/worker.key --ready-file {READY}'
        )

    async def _remove(self, api: ClusterApi) -> None:
        for of in self._sets:
            await api.delete("StatefulSet", of)
            await self._remove_budget(api, of)
        await api.delete("Service", f"{self._name}-workers")
        await api.delete("ConfigMap", f"{self._name}-job")
        await api.delete("Secret", f"{self._name}-keys")
        late_s = time.monotonic() + LAST_S
        while left := [one["metadata"]["name"] for one in (await api.list("Pod", self._selector))["items"]]:
            late = time.monotonic() > late_s
            await asyncio.gather(*(api.delete("Pod", pod, grace_s=0 if late else None) for pod in left))
            if time.monotonic() > late_s + LAST_S:
                log.error("pods of this job are left in the namespace %s: %s", api.namespace, ", ".join(left))
                return
            await asyncio.sleep(FIRST_PAUSE_S)

    async def _remove_budget(self, api: ClusterApi, of: str) -> None:
        if self._options.max_unavailable is not None:
            await api.delete("PodDisruptionBudget", of)

    @property
    def _selector(self) -> str:
        return f"{INSTANCE}={self._name}"

    # ------------------------------------------------------------------ pods

    async def _look(self, api: ClusterApi) -> str:
        """Know of all pods that are there; the version from which on to watch."""
        listed = await api.list("Pod", self._selector)
        now = {one["metadata"]["name"]: view(one) for one in listed["items"]}
        for pod in self._pods.keys() | now.keys():
            self._saw(pod, now.get(pod))
        return str(listed["metadata"]["resourceVersion"])

    async def _keep_watching(self, api: ClusterApi, since: str) -> None:
        """Know of all pods, whatever happens to the API."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async for kind, one in api.watch("Pod", self._selector, since):
                    pause_s = FIRST_PAUSE_S
                    if kind != "BOOKMARK":
                        self._saw(one["metadata"]["name"], None if kind == "DELETED" else view(one))
                since = await self._look(api)
            except Exception as error:  # whatever a server says, the next answer may be better
                log.warning("the cluster's API: %s", error or type(error).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
                with suppress(ApiRefusal, ApiSilence):
                    since = await self._look(api)

    def _saw(self, pod: str, now: PodView | None) -> None:
        if now == self._pods.get(pod):
            return
        if now is None:
            del self._pods[pod]
        else:
            self._pods[pod] = now
            self._codes.update(now.ended)
        self._news[pod].set()

    async def _hear(self, pod: str, seconds: float) -> None:
        """Wait for news of a pod."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news[pod].wait(), max(0.0, seconds))
        self._news[pod].clear()

    async def _attend(self, api: ClusterApi, order: WorkerOrder, pod: str) -> int | None:
        """Follow the worker in a pod until it has ended: its exit code, or ``None`` if the pod is gone."""
        uid, container = await self._started(api, order, pod)
        log.info("worker %s: pod %s in the namespace %s", order.node, pod, api.namespace)

        def runs() -> bool:
            now = self._pods.get(pod)
            return now is not None and now.uid == uid and now.running == container

        following = asyncio.create_task(follow(api, pod, order.log_file, runs))
        try:
            while runs():
                await self._hear(pod, LAST_PAUSE_S)
            await asyncio.wait([following], timeout=DRAIN_S)
        finally:
            following.cancel()
        self._told[order.node] = container
        return self._codes.get(container)

    async def _started(self, api: ClusterApi, order: WorkerOrder, pod: str) -> tuple[str, str]:
        """A pod, by its uid, and the container in it that runs or has run, of whose end nobody has heard yet.

        Raises:
            DeploymentError: when it doesn't come, in the cluster's words.
        """
        deadline = time.monotonic() + self._options.wait
        while True:
            now = self._pods.get(pod)
            if now is not None and not now.leaving and now.uid not in self._sent_away:
                if now.newest and now.newest != self._told.get(order.node):
                    return now.uid, now.newest
                if now.is_hopeless:
                    raise _not_started(order, pod, f"{now.waits}: {now.words}")
            if time.monotonic() > deadline:
                said = await _last_event(api, pod) if now is None else f"{now.waits}: {now.words}"
                raise _not_started(order, pod, said)
            await self._hear(pod, deadline - time.monotonic() + 0.1)


def _not_started(order: WorkerOrder, pod: str, said: str) -> DeploymentError:
    return DeploymentError(
        "a worker's pod doesn't start",
        where=f"nodes.{order.job_node}",
        found=f"{pod}: {said.strip(': ') or 'no word of it'}",
        hint=f"`kubectl describe pod {pod}`; launchers.kubernetes says which image, hosts and resources, and how long "
        "it may wait",
    )


async def _last_event(api: ClusterApi, pod: str) -> str:
    """Why a set makes no pod, as far as this user may know."""
    of = pod.rpartition("-")[0]
    with suppress(ApiRefusal, ApiSilence):
        events = (await api.list("Event", fields=f"involvedObject.name={of}"))["items"]
        return str(events[-1].get("message") or "") if events else ""
    return ""


def _same_name(one: str, other: str) -> SpecError:
    return SpecError(
        "two GPU types are one to Kubernetes, which knows small letters, digits and dashes",
        where="gpus",
        found=f"{one} and {other}",
        expected="another name for one of them",
    )


def _check(nodes: Mapping[str, Node], options: KubernetesOptions) -> None:
    types = dict.fromkeys(node.gpu for node in nodes.values())
    if not nodes:
        return
    if find_spec("kubernetes") is None:
        raise missing(
            LAUNCHER, "a package that isn't installed", "kubernetes", "pip install 'helix-df[kubernetes]'", nodes
        )
    require_placed(LAUNCHER, nodes)
    require_known(LAUNCHER, "place", options.place, {*types, "default"})
    by_label: dict[str, str] = {}
    for gpu in types:
        if (other := by_label.setdefault(label(gpu), gpu)) != gpu:
            raise _same_name(other, gpu)
    if options.kubeconfig is not None and not options.kubeconfig.expanduser().is_file():
        raise SpecError("there is no such file", where=f"{WHERE}.kubeconfig", found=str(options.kubeconfig))
    _check_context(options, kubeconfigs(options))


def _check_context(options: KubernetesOptions, files: Sequence[Path]) -> None:
    if not files and not in_pod():
        raise SpecError(
            "nothing says how the cluster is reached",
            where=f"{WHERE}.kubeconfig",
            found="no file ~/.kube/config, none of KUBECONFIG, and this is no pod",
            hint="`kubectl config view` shows what there is",
        )
    known, _ = contexts(files)
    if options.context is not None and options.context not in known:
        raise SpecError(
            "no context has this name",
            where=f"{WHERE}.context",
            found=options.context,
            expected=f"one of {', '.join(sorted(known)) or 'none'}, as `kubectl config get-contexts` has them",
        )


KUBERNETES = LauncherKind(make=KubernetesLauncher, options=KubernetesOptions, check=_check)
