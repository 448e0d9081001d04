"""Plans that a process of its own makes while this one serves, and who lets them take over.

Owns how long such a process may take, and what is made of its last word. Doesn't know why another plan is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from helix_df.paths import package_environment
from helix_df.plan.plan import Plan, read_plan
from helix_df.spec.job import Job

_GRACE_S = 120.0
"""Seconds that a planner gets beside those of its searches."""

_SEARCHES = 4
"""Most of them for one plan."""


class Changer(Protocol):
    """Who lets plans take over, and writes down that they have."""

    @property
    def busy(self) -> bool:
        """Whether one is about to."""
        ...

    async def replace_plan(self, plan: Plan, without: frozenset[str]) -> None:
        """Let a plan take over that does without some nodes.

        Raises:
            DeploymentError: when it can't, or was given up.
        """
        ...


async def planned_aside(command: Sequence[str], out: Path, job: Job) -> tuple[Plan | None, str]:
    """The plan that a command writes to ``out``, and what it changes; or none, and why.

    Args:
        command: one of ``what_if`` that ends with ``write_if_found``.
        out: a file of this process, which is gone afterwards.
        job: that runs: it says how long a search may take, and how many bytes of weights workers may load.
    """
    most = job.runtime.replan_bytes
    bounded = [*command, *([] if most is None else ["--most-bytes", str(int(most))])]
    try:
        document = await _said(bounded, _SEARCHES * job.solver.time_limit + _GRACE_S)
        return (read_plan(out), document["found"]) if "found" in document else (None, document["why"])
    finally:
        out.unlink(missing_ok=True)


async def _said(command: Sequence[str], limit_s: float) -> dict[str, str]:
    """The last line that a process prints, a document; it ends with whoever waits for it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=package_environment(),
    )
    try:
        printed, complaints = await asyncio.wait_for(process.communicate(), limit_s)
    except TimeoutError:
        return {"why": f"its planner took more than {limit_s:g} s"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    lines = printed.decode().splitlines()
    if process.returncode != 0 or not lines:
        last = complaints.decode(errors="replace").strip().rpartition("\n")[2]
        return {"why": f"its planner failed: {last or f'exit code {process.returncode}'}"}
    document: dict[str, str] = json.loads(lines[-1])
    return document
