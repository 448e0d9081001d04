"""Takes nodes that come and go as they are needed, and lets them go: one job's ``scale``, carried out.

Owns when the rule is asked, and what is said of its steps. Plans of the sizes are made in a process of its own, which
may search; this one serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from helix_df.errors import HelixError
from helix_df.paths import package_environment
from helix_df.plan.plan import Plan, read_plan, write_plan
from helix_df.plan.sizes import size_of, whole
from helix_df.plan.takeover import TakenOver
from helix_df.rules.scaling import LOOK_S, Look, ScaleStep, Scaling
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.planner import Changer
from helix_df.runtime.requests import JobStatus
from helix_df.spec.job import Job

log = logging.getLogger("helix_df.daemon")

PLANNER = (sys.executable, "-m", "helix_df.what_if.sizes")


class Scalable(Protocol):
    """A coordinator whose plan can be replaced; ``scaled`` is shown in its status."""

    scaled: str

    def snapshot(self) -> JobStatus:
        """See ``TokenService``."""
        ...

    def running(self) -> TakenOver:
        """See ``Coordinator``."""
        ...


class Ladder:
    """Plans of a job by size, as a process makes them: ``serves`` are tokens/s of those that there are."""

    def __init__(self, plan: Path, folder: Path) -> None:
        self.serves: dict[int, float] = {}
        self._folder = folder
        self._task = asyncio.create_task(self._make(plan))

    def plan(self, size: int) -> Plan:
        """The plan of a size that there is."""
        return read_plan(self._folder / f"{size}.json")

    async def close(self) -> None:
        """End its process, if it still runs."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _make(self, plan: Path) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *PLANNER,
            str(plan),
            str(self._folder),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=package_environment(),
        )
        try:
            if process.stdout is None:
                raise AssertionError
            async for line in process.stdout:
                self._hear(json.loads(line))
            if await process.wait():
                log.warning("plans of other sizes can't be made: their planner ended with %d", process.returncode)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def _hear(self, said: dict[str, float | str]) -> None:
        if "serves" in said:
            self.serves[int(said["size"])] = float(said["serves"])
        else:
            which = f" with {said['size']} of the nodes that come and go" if "size" in said else ""
            log.warning("there is no plan%s: %s", which, said["why"])


class Scaler:
    """Looks after one job that runs in a folder; ``clock`` is in seconds."""

    def __init__(
        self,
        deployment: Scalable,
        job: JobDirectory,
        changer: Changer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deployment = deployment
        self._job = job
        self._changer = changer
        self._clock = clock
        self._ladder: Ladder | None = None
        self._of: Job | None = None
        self._scaling: Scaling | None = None

    async def run(self) -> None:
        """Look at the job until this is cancelled."""
        seen: TakenOver | None = None
        size = 0
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                if self._changer.busy:
                    continue
                running = self._deployment.running()
                if running != seen:
                    seen = running
                    size = await self._begin(read_plan(self._job.plan_path).job)
                step = self._look(running, size)
                if step is not None:
                    await self._take(step)
        finally:
            await self._end()

    async def _begin(self, job: Job) -> int:
        """Go by the plan that runs from now on; its size."""
        if job.scale is None:
            await self._end()
            return 0
        of = whole(job)
        if of != self._of:
            await self._end()
            self._of, self._scaling = of, Scaling(job.scale)
            self._ladder = Ladder(self._job.plan_path, self._job.sizes_path)
        if self._scaling is not None:
            self._scaling.begin_anew()
        return size_of(job)

    async def _end(self) -> None:
        if self._ladder is not None:
            await self._ladder.close()
        self._ladder = self._of = self._scaling = None

    def _look(self, running: TakenOver, size: int) -> ScaleStep | None:
        if self._scaling is None or self._ladder is None or size not in self._ladder.serves:
            return None
        status = self._deployment.snapshot()
        if status.state != "ready" or running.spares:
            self._scaling.begin_anew()  # what is lost is another's matter
            return None
        look = Look(self._clock(), status.asked_tokens, status.longest_wait_s)
        return self._scaling.look(look, size, self._ladder.serves)

    async def _take(self, step: ScaleStep) -> None:
        """Let the plan of another size take over."""
        if self._ladder is None or self._scaling is None:
            return
        self._say(f"about to take over: {step}")
        asked = self._job.asked_plan_path
        try:
            plan = self._ladder.plan(step.after)
            if not asked.exists():
                write_plan(read_plan(self._job.plan_path), asked)
            await self._changer.replace_plan(plan, frozenset())
        except (HelixError, OSError) as error:
            self._say(f"given up ({error}): {step}")
            self._scaling.begin_anew()
            return
        self._say(f"{step}")

    def _say(self, words: str) -> None:
        self._deployment.scaled = words
        log.info("scale: %s", words)
