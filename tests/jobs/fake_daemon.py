"""A daemon without a coordinator: ``python -m tests.jobs.fake_daemon KIND DIR …``.

KIND says how it behaves: ``ok``, ``late`` (serves, but is never complete), ``fails`` (its worker dies), ``pauses``
(after three tokens, until it is closed) or ``stubborn`` (never ends by itself, and has a child).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace

from helix_df.errors import DeploymentError, RequestError
from helix_df.plan.plan import Plan
from helix_df.plan.takeover import TakenOver
from helix_df.rules.measured_links import Ends, LinkSeen, LinkSpeed
from helix_df.runtime.jobs.daemon import Parts, main
from helix_df.runtime.kept_answers import AnswerKeeper
from tests.api.fakes import READY, FakeService, byte_tokenizer

TINY_VOCABULARY = 320
"""Of ``random:tiny``, which the fake daemons' plans are for."""


class FakeDeployment(FakeService):
    token = "secret"
    answers: AnswerKeeper | None = None
    address = "tcp://127.0.0.1:1"

    def __init__(self, kind: str, plan: Plan) -> None:
        super().__init__("Hello from a daemon")
        self.taken = TakenOver(plan, {node: node for node in plan.job.nodes})
        self.kind = kind
        self.status = replace(READY, ready=kind != "fails")
        self.pause_after = 3 if kind == "pauses" else None

    async def start(self) -> None:
        if self.kind == "stubborn":
            subprocess.Popen(["sleep", "1000"])

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        if self.kind == "fails":
            raise DeploymentError("the job didn't start", found="worker a failed: out of luck")
        if self.kind == "late":
            raise DeploymentError(f"not ready after {timeout_s:.0f} s")
        if self.kind == "stubborn":
            await asyncio.Event().wait()

    replanned = ""
    scaled = ""
    slower = ""
    link_speeds: Mapping[Ends, LinkSpeed] = {}

    def links_seen(self) -> Mapping[Ends, tuple[LinkSeen, float | None]]:
        return {}

    def running(self) -> TakenOver:
        return self.taken

    def give_up_change(self, why: str) -> None:
        pass

    def begin_change(self, plan: Plan, without: Collection[str] = ()) -> None:
        if plan.job.name == "refused":
            raise DeploymentError("this plan can't take over", hint="try another")
        self.taken = TakenOver(plan, {node: node for node in plan.job.nodes})

    async def until_changed(self) -> TakenOver:
        return self.taken

    def drain(self, node: str, *, undo: bool = False) -> None:
        raise DeploymentError(f"there is no node {node}")

    async def until_done(self, grace_s: float) -> None:
        self.status = replace(self.status, state="stopping", ready=False)

    def trace_to(self, tell: object) -> None:
        pass

    async def close(self) -> None:
        if self.kind == "stubborn":
            await asyncio.Event().wait()
        self.error_after = (3, RequestError("the job is being stopped", status=503))
        self.go_on.set()


if __name__ == "__main__":
    fake = Parts(
        lambda plan, job, lineage: FakeDeployment(sys.argv[1], plan),
        lambda plan: byte_tokenizer(TINY_VOCABULARY),
        lambda plan: 200,
    )
    sys.exit(main(sys.argv[2:], lambda: fake))
