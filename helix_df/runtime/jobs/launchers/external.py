"""Workers that a person, or another system, starts on other hosts."""

from __future__ import annotations

import shlex

from helix_df.runtime.jobs.launchers.local import TOKEN_VARIABLE, worker_arguments
from helix_df.runtime.launcher import Exit, WorkerOrder


class ExternalLauncher:
    """Starts nothing: says which command to run where, and the coordinator waits for the worker to join."""

    def start(self, order: WorkerOrder) -> None:
        """See ``Launcher``."""

    def exits(self) -> list[Exit]:
        """See ``Launcher``: a lost connection is noticed by its silence."""
        return []

    def command(self, order: WorkerOrder) -> str | None:
        """See ``Launcher``."""
        return f"{TOKEN_VARIABLE}={order.token} helix-df {shlex.join(worker_arguments(order))}"

    def stop(self, grace_s: float) -> None:
        """See ``Launcher``: the coordinator's stop message is all an external worker gets."""
