"""Workers on hosts that are reached by SSH.

A session a worker runs ``helix-df attend`` there, which gets the job's key on standard input, sends the log back and
says how the worker ended. When the session breaks, the worker lives on, and the next session finds it, whether of this
coordinator or of the one that follows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from helix_df.errors import DeploymentError, SpecError
from helix_df.profiles.catalogue import device_count
from helix_df.release import release
from helix_df.runtime.jobs.attended import Ending, Greeting, job_mark
from helix_df.runtime.jobs.job_keys import JobKeys, worker_key_line
from helix_df.runtime.jobs.launchers.kind import LauncherKind, LaunchSite
from helix_df.runtime.jobs.launchers.local import last_words, worker_arguments
from helix_df.runtime.jobs.launchers.needs import missing, require_known
from helix_df.runtime.jobs.launchers.remote import RemoteLauncher
from helix_df.runtime.jobs.log_copy import LogCopy
from helix_df.runtime.launcher import WorkerOrder
from helix_df.runtime.wire.keys import split_endpoint, without_key
from helix_df.spec.addresses import host_of
from helix_df.spec.nodes import Node
from helix_df.spec.section import Count, Name, Section

if TYPE_CHECKING:
    import asyncssh

log = logging.getLogger(__name__)
logging.getLogger("asyncssh").setLevel(logging.WARNING)  # it tells of each step of each session

CONNECT_S = 15.0
KEEPALIVE_S = 5.0
"""A host that doesn't answer for three of these has been cut off."""

FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 30.0
"""Between attempts to reach a host again, which become rarer."""


_PIECE_BYTES = 65536
_MOST_WORDS = 2000


class SshOptions(Section):
    """How hosts are reached; what isn't said here goes by `~/.ssh/config`, `~/.ssh/known_hosts` and an agent."""

    command: str = Field(
        default="helix-df",
        min_length=1,
        description="How helix-df is called on the hosts, as a shell reads it.",
        examples=["/opt/helix-df/bin/helix-df", "env HELIX_DF_CACHE=/scratch/cache helix-df"],
    )
    user: str | None = Field(default=None, description="Who logs in there.", examples=["ubuntu"])
    port: Count | None = Field(default=None, ge=1, le=65535, description="Where their sshd listens.")
    key: Path | None = Field(default=None, description="File of the private key to log in with.")
    known_hosts: Path | None = Field(default=None, description="File of the hosts' public keys.")
    hosts: dict[Name, str] = Field(
        default_factory=dict,
        description="What SSH calls the host of a node, where that isn't the node's address.",
        examples=[{"lab1": "lab1.example"}],
    )


class SshLauncher(RemoteLauncher):
    """Stays with each worker by a session of its own. ``nodes`` are those of the plan, of which some share a host."""

    def __init__(self, nodes: Mapping[str, Node], keys: JobKeys, options: SshOptions) -> None:
        super().__init__()
        self._nodes = nodes
        self._keys = keys
        self._options = options
        self._sessions: dict[str, asyncssh.SSHClientProcess[bytes]] = {}
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def stay_with(self, order: WorkerOrder) -> str:
        """See ``RemoteLauncher``. A host that can't be reached any more is tried again, since its worker may live."""
        started, pause_s = False, FIRST_PAUSE_S
        while True:
            try:
                async with self._session(order) as session:
                    greeting = await _greeting(session, self._host(order))
                    log.info("worker %s: process %d on %s", order.node, greeting.pid, self._host(order))
                    started, pause_s = True, FIRST_PAUSE_S
                    with LogCopy(order.log_file) as copy:
                        while piece := await session.stdout.read(_PIECE_BYTES):
                            copy.write(piece)
                    ending = await _ending(session)
                if ending is not None:
                    return last_words(ending.code, order.log_file)
                log.warning("the session of worker %s has ended; it may live on", order.node)
            except DeploymentError as error:
                if not started:
                    raise
                log.warning("worker %s: %s", order.node, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def end(self, node: str, *, force: bool) -> None:
        """See ``RemoteLauncher``."""
        session = self._sessions.get(node)
        if session is not None:
            with suppress(OSError):
                session.stdin.write(b"kill\n" if force else b"end\n")

    @asynccontextmanager
    async def _session(self, order: WorkerOrder) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
        """A session that attends to a worker.

        Raises:
            DeploymentError: when there can't be one, or it breaks.
        """
        import asyncssh

        host, options = self._host(order), self._options
        said = {
            "username": options.user,
            "port": options.port,
            "client_keys": options.key and str(options.key.expanduser()),
            "known_hosts": options.known_hosts and str(options.known_hosts.expanduser()),
        }
        given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        try:
            # An sshd lets few in at a time that haven't said who they are.
            async with self._one_at_a_time[host]:
                connection = await asyncssh.connect(
                    host, **given, connect_timeout=CONNECT_S, login_timeout=CONNECT_S, keepalive_interval=KEEPALIVE_S
                )
            async with connection:
                session = await connection.create_process(self._attend(order), encoding=None)
                session.stdin.write(worker_key_line(self._keys).encode())
                self._sessions[order.node] = session
                yield session
        except (OSError, asyncssh.Error) as error:
            raise _unreachable(host, error) from error
        finally:
            self._sessions.pop(order.node, None)

    def _host(self, order: WorkerOrder) -> str:
        return self._options.hosts.get(order.job_node) or _listens_at(order)

    def _attend(self, order: WorkerOrder) -> str:
        at = _listens_at(order)
        here = [node for node, declared in self._nodes.items() if _host_of(declared) == at]
        before = here[: here.index(order.job_node)] if order.job_node in here else []
        share = [
            *("--workers", str(max(1, len(here)))),
            *("--first-device", str(sum(device_count(self._nodes[node].gpu) for node in before))),
            *("--devices", str(order.devices)),
        ]
        worker = worker_arguments(replace(order, coordinator=without_key(order.coordinator)))
        words = ["attend", *share, job_mark(self._keys), order.node, "--", *worker]
        return f"{self._options.command} {shlex.join(words)}"


async def _greeting(session: asyncssh.SSHClientProcess[bytes], host: str) -> Greeting:
    """What the other side says first.

    Raises:
        DeploymentError: when it is no helix-df, or another version.
    """
    line = await session.stdout.readline()
    try:
        document: Any = json.loads(line)
        greeting = Greeting(**document)
    except (ValueError, TypeError):
        said = (line + await session.stderr.read(_MOST_WORDS)).decode(errors="replace").strip()
        raise DeploymentError(
            "helix-df didn't start on a host",
            where=host,
            found=said or f"it ended with code {session.exit_status}",
            hint="install helix-df there, of this version, or say how it is called under launchers.ssh.command",
        ) from None
    if greeting.version != release():
        raise DeploymentError(
            "a host has another version of helix-df", where=host, found=greeting.version, expected=release()
        )
    return greeting


async def _ending(session: asyncssh.SSHClientProcess[bytes]) -> Ending | None:
    """How a worker ended, which the last line of the session's errors says; ``None`` if the session was cut off."""
    *_, line = (await session.stderr.read()).strip().split(b"\n")
    try:
        document: Any = json.loads(line)
        return Ending(**document)
    except (ValueError, TypeError):
        return None


def _listens_at(order: WorkerOrder) -> str:
    return host_of(split_endpoint(order.listen)[2]).strip("[]")


def _host_of(declared: Node) -> str | None:
    return None if declared.address is None else host_of(declared.address).strip("[]")


def _unreachable(host: str, error: Exception) -> DeploymentError:
    import asyncssh

    hint = "`ssh` to it from here, as the same user, and see what it says"
    match error:
        case asyncssh.HostKeyNotVerifiable():
            hint = "`ssh` to it once and say yes to its key, or name a file under launchers.ssh.known_hosts"
        case asyncssh.PermissionDenied():
            hint = "launchers.ssh.user and launchers.ssh.key say who logs in and with what; no password is asked for"
    return DeploymentError("a host can't be reached by SSH", where=host, found=str(error), hint=hint)


def _check(nodes: Mapping[str, Node], options: SshOptions) -> None:
    if not nodes:
        return
    if find_spec("asyncssh") is None:
        raise missing("ssh", "a package that isn't installed", "asyncssh", "pip install 'helix-df[ssh]'", nodes)
    for name, declared in nodes.items():
        if declared.address is None or declared.is_placed:
            raise SpecError(
                "a node that SSH starts needs an address",
                where=f"nodes.{name}",
                expected="where other nodes reach it; launchers.ssh.hosts may call it something else for SSH",
            )
    require_known("ssh", "hosts", options.hosts, nodes)
    for field in ("key", "known_hosts"):
        path: Path | None = getattr(options, field)
        if path is not None and not path.expanduser().is_file():
            raise SpecError("there is no such file", where=f"launchers.ssh.{field}", found=str(path))


def _make(site: LaunchSite, options: SshOptions) -> SshLauncher:
    return SshLauncher(site.nodes, site.keys, options)


SSH = LauncherKind(make=_make, options=SshOptions, check=_check)
