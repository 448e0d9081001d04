"""Workers that a person, or another system, starts on other hosts."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from helix_df.runtime.jobs.job_keys import JobKeys, write_worker_key
from helix_df.runtime.jobs.launchers.kind import LauncherKind
from helix_df.runtime.jobs.launchers.local import worker_arguments
from helix_df.runtime.launcher import Exit, WorkerOrder
from helix_df.runtime.wire.keys import without_key


class ExternalLauncher:
    """Starts nothing: says which command to run where, and the coordinator waits for the worker to join.

    The command has no secret in it, since commands are seen, kept and passed on: it names the file of the worker's key,
    ``key_file``, or one that lasts as long as this launcher.
    """

    def __init__(self, keys: JobKeys, key_file: Path | None = None) -> None:
        self._keys = keys
        self._key_file = key_file
        self._scratch: Path | None = None

    def start(self, order: WorkerOrder) -> None:
        """See ``Launcher``."""
        if self._key_file is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="helix-df-key-"))
            self._key_file = self._scratch / "worker.key"
            write_worker_key(self._keys, self._key_file)

    def exits(self) -> list[Exit]:
        """See ``Launcher``: a lost connection is noticed by its silence."""
        return []

    def command(self, order: WorkerOrder) -> str | None:
        """See ``Launcher``."""
        command = [*worker_arguments(replace(order, coordinator=without_key(order.coordinator)))]
        return f"helix-df {shlex.join([*command, '--key-file', str(self._key_file)])}"

    def stop(self, grace_s: float) -> None:
        """See ``Launcher``: the coordinator's stop message is all an external worker gets."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


EXTERNAL = LauncherKind(make=lambda site, _: ExternalLauncher(site.keys, site.key_file))
