"""Workers as steps of one Slurm allocation, which has a component for each kind of host.

The allocation is a batch job that runs ``helix-df steps``; orders and ends pass through a folder that all hosts share
(``steps``). It outlives the coordinator and is found again by its name; Slurm puts it in the queue again when it loses
a host.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from helix_df.errors import DeploymentError
from helix_df.runtime.jobs.attended import job_mark
from helix_df.runtime.jobs.job_keys import write_worker_key
from helix_df.runtime.jobs.launchers.kind import LauncherKind, LaunchSite
from helix_df.runtime.jobs.launchers.local import last_words, worker_arguments
from helix_df.runtime.jobs.launchers.needs import missing, require_known, require_placed
from helix_df.runtime.jobs.launchers.remote import RemoteLauncher
from helix_df.runtime.jobs.steps import Exchange, StepEnd, StepOrder
from helix_df.runtime.launcher import WorkerOrder
from helix_df.runtime.wire.keys import without_key
from helix_df.spec.nodes import Node
from helix_df.spec.section import Section
from helix_df.spec.units import Duration

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.3
ASK_EVERY_S = 3.0
"""Between questions to Slurm, which answers all users' questions one after the other."""


_LIVING = "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED,REQUEUED"
"""Not those that end."""


class SlurmOptions(Section):
    """What is asked of Slurm, in the words of ``sbatch``."""

    sbatch: tuple[str, ...] = Field(
        default=(),
        description="Arguments of `sbatch` for the whole allocation.",
        examples=[["--partition=gpu", "--time=1-0", "--account=lab"]],
    )
    place: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Arguments of `sbatch` for the component of a GPU type, else of `default`.",
        examples=[{"L4": ["--constraint=l4", "--gpus-per-node=1", "--cpus-per-task=8"]}],
    )
    command: str = Field(
        default="helix-df",
        min_length=1,
        description="How helix-df is called on the hosts, as a shell reads it.",
        examples=["/shared/helix-df/bin/helix-df"],
    )
    folder: Path | None = Field(
        default=None,
        description="A folder on a file system that all hosts share; by default the job's own, under HELIX_DF_STATE.",
    )
    wait: Duration = Field(
        default=600.0, gt=0, description="How long the allocation may wait in the queue.", examples=["2h"]
    )

    def of(self, node: Node) -> tuple[str, ...]:
        """The arguments of a node's component."""
        return self.place.get(node.gpu, self.place.get("default", ()))


class SlurmLauncher(RemoteLauncher):
    """Stays with each worker by looking at what is written of it, and at the allocation now and then."""

    def __init__(self, site: LaunchSite, options: SlurmOptions) -> None:
        super().__init__()
        self._nodes = site.nodes
        self._keys = site.keys
        self._options = options
        self._mark = f"helix-df-{job_mark(site.keys)}"
        own = site.key_file.parent if site.key_file is not None else None
        folder = options.folder or own
        if folder is None:
            raise DeploymentError("Slurm needs a folder that hosts share", where="launchers.slurm.folder")
        self._exchange = Exchange(folder.expanduser().absolute() / self._mark)
        self._allocated: asyncio.Task[str] | None = None
        self._components = list(dict.fromkeys(options.of(node) for node in site.nodes.values()))

    async def stay_with(self, order: WorkerOrder) -> str:
        """See ``RemoteLauncher``."""
        if self._allocated is None or (self._allocated.done() and self._allocated.exception() is not None):
            self._allocated = asyncio.create_task(self._allocate())
        job = await asyncio.shield(self._allocated)
        wanted = self._step(order)
        asked_s = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            end = self._exchange.read("exits", order.node, StepEnd)
            if end is not None and end.serial == wanted.serial:
                return last_words(end.code, order.log_file)
            if time.monotonic() - asked_s > ASK_EVERY_S:
                asked_s = time.monotonic()
                if await self._state(job) is None:
                    self._allocated = None
                    return f"the Slurm job {job} is gone, which said: {self._said() or 'nothing'}"

    async def end(self, node: str, *, force: bool) -> None:
        """See ``RemoteLauncher``."""
        order = self._exchange.read("orders", node, StepOrder)
        if order is not None:
            self._exchange.write("ends", StepEnd(node, order.serial, force=force))

    async def close(self) -> None:
        """See ``RemoteLauncher``: no allocation is left, and no folder."""
        if self._allocated is not None:
            await _run("scancel", f"--name={self._mark}", f"--user={getpass.getuser()}")
        shutil.rmtree(self._exchange.folder, ignore_errors=True)

    def _step(self, order: WorkerOrder) -> StepOrder:
        """The order as it is written for the allocation: the one that is there, if that is what is wanted."""
        node, serves = order.node, order.job_node
        if serves not in self._nodes:
            raise DeploymentError(
                "the Slurm allocation has no host for this node",
                where=f"nodes.{serves}",
                hint="`helix-df down` and `apply` ask for one that has",
            )
        component = self._components.index(self._options.of(self._nodes[serves]))
        inside = [name for name, it in self._nodes.items() if self._components.index(self._options.of(it)) == component]
        worker = worker_arguments(replace(order, coordinator=without_key(order.coordinator)))
        log_file = str(order.log_file or self._exchange.folder / f"{node}.log")
        arguments = (*worker, "--key-file", str(self._exchange.folder / "worker.key"), "--log", log_file)
        wanted = StepOrder(node, time.time_ns(), component, inside.index(serves), arguments, log_file)
        there = self._exchange.read("orders", node, StepOrder)
        if there is not None and replace(there, serial=0) == replace(wanted, serial=0) and not self._has_ended(there):
            log.info("worker %s: its step is there", node)
            return there
        self._exchange.write("orders", wanted)
        return wanted

    def _has_ended(self, order: StepOrder) -> bool:
        end = self._exchange.read("exits", order.node, StepEnd)
        return end is not None and end.serial == order.serial

    async def _allocate(self) -> str:
        """The number of the allocation, once it runs.

        Raises:
            DeploymentError: when Slurm refuses it, or has no room for it in time.
        """
        self._exchange.prepare()
        write_worker_key(self._keys, self._exchange.folder / "worker.key")
        job = await self._find() or await self._submit_job()
        deadline = time.monotonic() + self._options.wait
        while True:
            state = await self._state(job)
            if state is None:
                raise DeploymentError("the Slurm job ended at once", where=job, found=self._said())
            word, _, reason = state.partition(" ")
            if word in ("RUNNING", "CONFIGURING"):
                log.info("the Slurm job %s runs", job)
                return job
            if "held" in reason.lower():  # nobody but a person lets it go on
                await _run("scancel", job)
                raise DeploymentError("Slurm holds the job", where="launchers.slurm", found=f"job {job}: {reason}")
            if time.monotonic() > deadline:
                await _run("scancel", job)
                raise DeploymentError(
                    "Slurm has no room for all workers",
                    where="launchers.slurm",
                    found=f"job {job} is {word}: {reason}",
                    expected="; ".join(self._component(i) for i in range(len(self._components))),
                    hint="launchers.slurm.wait lets it wait longer",
                )
            await asyncio.sleep(1.0)

    async def _find(self) -> str | None:
        """The allocation of the coordinator before this one."""
        listed = await _run(
            "squeue", "--noheader", "--format=%A", _LIVING, f"--name={self._mark}", f"--user={getpass.getuser()}"
        )
        numbers = sorted(int(word) for word in listed.split() if word.isdigit())
        return str(numbers[0]) if numbers else None

    async def _submit_job(self) -> str:
        arguments: list[str] = []
        for i in range(len(self._components)):
            arguments += [*([":"] if i else []), *shlex.split(self._component(i))]
        script = self._exchange.folder / "allocation.sh"
        steps = f"{self._options.command} steps {shlex.quote(str(self._exchange.folder))}"
        script.write_text(f"#!/bin/sh\nexec {steps} --command {shlex.quote(self._options.command)}\n", "utf-8")
        printed = await _run("sbatch", "--parsable", *arguments, str(script))
        return printed.strip().partition(";")[0]

    def _component(self, number: int) -> str:
        """The arguments of ``sbatch`` for one component."""
        place = self._components[number]
        count = sum(self._options.of(node) == place for node in self._nodes.values())
        said = [f"--job-name={self._mark}", "--requeue", f"--nodes={count}", "--ntasks-per-node=1"]
        output = [f"--output={self._exchange.folder / 'allocation.log'}", "--open-mode=append"]
        return shlex.join([*self._options.sbatch, *place, *said, *output])

    async def _state(self, job: str) -> str | None:
        """The allocation's state and reason; ``None`` once it isn't there any more."""
        try:
            listed = await _run("squeue", "--noheader", "--format=%T %r", _LIVING, f"--jobs={job}")
        except DeploymentError as error:
            return None if "Invalid job id" in str(error) else "UNKNOWN Slurm doesn't answer"
        lines = listed.strip().splitlines()
        return lines[0] if lines else None

    def _said(self) -> str:
        path = self._exchange.folder / "allocation.log"
        return path.read_text("utf-8", errors="replace")[-2000:].strip() if path.exists() else "nothing"


async def _run(*command: str) -> str:
    """What a command of Slurm prints.

    Raises:
        DeploymentError: when it fails.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, wrong = await process.communicate()
    if process.returncode:
        raise DeploymentError(
            f"{command[0]} failed", where="launchers.slurm", found=wrong.decode(errors="replace").strip()
        )
    return printed.decode(errors="replace")


def _check(nodes: Mapping[str, Node], options: SlurmOptions) -> None:
    if not nodes:
        return
    absent = [command for command in ("sbatch", "squeue", "scancel") if shutil.which(command) is None]
    if absent:
        hint = "run helix-df on a host from which jobs are submitted"
        raise missing("slurm", "Slurm's commands on this host", f"no {', '.join(absent)}", hint, nodes)
    require_placed("slurm", nodes)
    require_known("slurm", "place", options.place, {*(node.gpu for node in nodes.values()), "default"})


SLURM = LauncherKind(make=SlurmLauncher, options=SlurmOptions, check=_check)
