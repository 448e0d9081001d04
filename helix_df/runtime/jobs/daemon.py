"""The process behind ``helix-df apply``: one coordinator and its API, until somebody ends it.

Owns the order of starting and stopping, and what is written for others to see. Doesn't know routes or workers.
Run as ``python -m helix_df.runtime.jobs.daemon DIR``, where DIR is a job's folder with a plan in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import uvicorn

from helix_df.errors import DeploymentError, HelixError
from helix_df.extras import require_tracing
from helix_df.file_errors import explained_files
from helix_df.marks import mark
from helix_df.models.tokenizer import Tokenizer
from helix_df.plan.plan import Plan, plan_id, read_plan
from helix_df.runtime.api.answer_reading import formats_of
from helix_df.runtime.api.app import MAX_BODY_BYTES, create_app
from helix_df.runtime.api.connections import (
    FEWEST_CONNECTIONS,
    SPARE_DESCRIPTORS,
    ConnectionLimits,
    Crowd,
    bounded_protocol,
    raise_descriptor_limit,
)
from helix_df.runtime.api.control import Control
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.api.handshakes import after_handshake
from helix_df.runtime.api.keys import KeyRing
from helix_df.runtime.api.reconnect import Reconnects
from helix_df.runtime.api.tls import server_context
from helix_df.runtime.api.traced import Tracer
from helix_df.runtime.jobs.directory import DaemonRecord, Failure, JobDirectory, JobIdentity
from helix_df.runtime.jobs.replanner import Replannable, Replanner
from helix_df.runtime.jobs.scaler import Scalable, Scaler
from helix_df.runtime.jobs.speed_watch import SpeedWatch, SpeedWatched
from helix_df.runtime.jobs.standby import STANDBY, wait_for_turn
from helix_df.runtime.jobs.told import Changeable, Told
from helix_df.runtime.kept_answers import AnswerKeeper
from helix_df.runtime.log_files import BoundedLog, Seldom, is_standard_error, write_output_to
from helix_df.runtime.log_lines import add_log_format, formatter
from helix_df.runtime.requests import TokenService
from helix_df.runtime.threads import require_threads
from helix_df.runtime.tracing.spans import TimedSpan
from helix_df.spec.checks import lets_anyone_in
from helix_df.spec.job import Runtime

if TYPE_CHECKING:
    from helix_df.runtime.jobs.fork_server import ForkServer
    from helix_df.runtime.jobs.otlp import OtlpTraces

log = logging.getLogger("helix_df.daemon")  # not __name__, which is __main__ here

CRASHED = 70
"""Exit code of a daemon that has a bug; ``EX_SOFTWARE`` of BSD's ``sysexits.h``."""

THREADS = 16
"""That a coordinator may need."""

DRAIN_S = 3.0
"""Seconds that answers in flight get to finish when the job is stopped; what is left is told so."""


BACKLOG = 512
"""Connections that wait to be accepted."""

ACCEPTED_AT_ONCE = 16
"""Connections accepted before tokens and everything else has its turn."""

"""Connections that wait to be accepted, and most that are at a time."""

LIMITS = ConnectionLimits()

_DESCRIPTORS_A_WORKER = 3
"""A connection each way, and a socket of ZeroMQ."""


class Deployment(TokenService, Changeable, Replannable, Scalable, SpeedWatched, Protocol):
    """A token service with a life: the coordinator. ``token`` is the job's secret, ``address`` where workers send.

    ``answers`` are kept for clients that come back, if any are.
    """

    answers: AnswerKeeper | None

    @property
    def address(self) -> str:
        """Where workers reach it, once it has started."""
        ...

    async def start(self) -> None:
        """Start the workers; returns before they are up."""
        ...

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """Return once every worker is up.

        Raises:
            DeploymentError: when one failed, or after ``timeout_s``.
        """
        ...

    def trace_to(self, tell: Callable[[str, TimedSpan], None]) -> None:
        """Hand on the span of each traced request, with the ``traceparent`` of what it is a part of."""
        ...

    async def close(self) -> None:
        """Stop everything that was started."""
        ...


@dataclass(frozen=True, slots=True)
class Lineage:
    """Who watches over this daemon, if anybody does, and how many there were before it. ``identity`` is that of the one
    before, if it ended by itself, and ``last_restart`` why it did."""

    supervisor: int | None = None
    restarts: int = 0
    identity: JobIdentity | None = None
    last_restart: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a daemon is put together from; tests bring their own."""

    deployment: Callable[[Plan, JobDirectory, Lineage], Deployment]
    tokenizer: Callable[[Plan], Tokenizer]
    context: Callable[[Plan], int]


def real_parts(forks: ForkServer | None = None) -> Parts:
    """The coordinator, whose local workers come of ``forks`` if it is given, and the tokenizer of the plan's model."""
    from helix_df.models.tokenizer import load_tokenizer
    from helix_df.plan.takeover import read_spares
    from helix_df.runtime.coordinator.journal import open_journal
    from helix_df.runtime.coordinator.shell import context_of
    from helix_df.runtime.jobs.coordinators import new_coordinator
    from helix_df.runtime.jobs.job_keys import kept_keys

    def deployment(plan: Plan, job: JobDirectory, lineage: Lineage) -> Deployment:
        before = lineage.identity
        return new_coordinator(
            plan,
            log_dir=job.log_dir,
            token=None if before is None else before.token,
            address=None if before is None else before.address,
            supervisor=lineage.supervisor,
            keys=kept_keys(job),
            journal=open_journal(job.journal_path, run_of(plan, lineage), keep_s=plan.job.runtime.keep_answers),
            names=None if before is None else before.names,
            restarts=lineage.restarts,
            last_restart=lineage.last_restart,
            spares=None if before is None else read_spares(before.spares),
            forks=forks,
        )

    return Parts(
        deployment=deployment,
        tokenizer=lambda plan: load_tokenizer(plan.job.model.parsed_source),
        context=context_of,
    )


def main(arguments: Sequence[str] | None = None, parts: Callable[[], Parts] = real_parts) -> int:
    """Run the daemon; returns its exit code."""
    options = _options(arguments)
    job = JobDirectory(options.directory.absolute())
    if options.standby:
        parts()  # imports
        turn = wait_for_turn()
        if turn is None:
            return 0
        options.restarts = turn
        if not is_standard_error(job.log_path()):  # put aside while this waited
            write_output_to(job.log_path())
    handler = BoundedLog(job.log_path())
    handler.setFormatter(formatter(options.log_format, "coordinator"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    for chatty in ("uvicorn.error", "asyncio", "helix_df.runtime.api.app", "helix_df.runtime.api.stream"):
        logging.getLogger(chatty).addFilter(Seldom())  # what they tell, clients can cause
    mark("coordinator begins")
    lock = job.lock() if options.lock is None else options.lock
    record = _first_record(job, options.supervisor, options.restarts)
    try:
        with explained_files(job.path):
            require_threads(THREADS)
            _begin_record(job, record)
            before = job.identity() if options.restarts else None
            lineage = Lineage(options.supervisor, options.restarts, before, record.detail)
            asyncio.run(_until_signal(_Daemon(job, parts(), record, lineage, options.start_timeout)))
    except HelixError as error:
        log.error("the job ended: %s", error)
        _record_failure(job, error)
        return error.exit_code
    except Exception as error:
        log.exception("the job ended")
        _record_failure(
            job, DeploymentError("the coordinator crashed", found=repr(error), hint=f"see {job.log_path()}")
        )
        return 1
    finally:
        os.close(lock)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="helix_df.runtime.jobs.daemon", description="Runs the job in a folder.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--lock", type=int, help="an inherited file descriptor that holds the folder's lock")
    parser.add_argument("--start-timeout", type=float, help="seconds, instead of the plan's runtime.start_timeout")
    parser.add_argument("--supervisor", type=int, metavar="PID", help="the process that watches over this one")
    parser.add_argument("--restarts", type=int, default=0, help="how many daemons of this run have ended by themselves")
    add_log_format(parser)
    parser.add_argument(STANDBY, action="store_true", help="wait for a line with --restarts before anything else")
    return parser.parse_args(arguments)


class _Daemon:
    """One run of a job."""

    def __init__(
        self, job: JobDirectory, parts: Parts, record: DaemonRecord, lineage: Lineage, start_timeout_s: float | None
    ) -> None:
        self._job = job
        self._parts = parts
        self._record = record
        self._lineage = lineage
        self._start_timeout_s = start_timeout_s

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set.

        Raises:
            HelixError: when the job can't start.
        """
        before = self._lineage.identity
        has_changed = before is not None and before.names is not None
        plan = read_plan(self._job.live_plan_path if has_changed else self._job.plan_path)
        # The port first: it fails at once and for little reason, loading a model takes long.
        runtime = plan.job.runtime
        tls = _checked_entrance(runtime)
        port = runtime.port if before is None else before.port
        with bound_socket(runtime.host, port) as listener:
            tokenizer = await asyncio.to_thread(self._parts.tokenizer, plan)
            deployment = self._parts.deployment(plan, self._job, self._lineage)
            traces = _traces(plan)
            if traces is not None:
                deployment.trace_to(traces.tell)
            text = self._text_service(plan, deployment, tokenizer)
            reconnects = None if deployment.answers is None else Reconnects(text, deployment.answers)
            told = Told(deployment, self._job, stop, lambda: self._note_joins(deployment))
            keys = None if runtime.api_keys is None else KeyRing(Path(runtime.api_keys), deployment.token)
            server = api_server(
                text,
                int(runtime.max_body),
                _connection_limits(plan),
                reconnects,
                max_queue=runtime.max_queue,
                keys=keys,
                tls=tls,
                control=told,
                cors_origins=runtime.cors_origins,
                vllm_metrics=runtime.metrics_names == "vllm",
                tracer=traces,
                access_log=runtime.access_log,
            )
            answering = asyncio.create_task(asyncio.sleep(0))
            watching: list[asyncio.Task[None]] = []
            try:
                with explained_files(self._job.path):
                    await deployment.start()
                mark("coordinator listens")
                self._write_identity(plan, deployment, listener.getsockname()[1])
                if reconnects is not None:
                    reconnects.go_on()
                answering = asyncio.create_task(server.serve(sockets=[listener]))
                watchers = (Replanner, Scaler, SpeedWatch)
                watching = [asyncio.create_task(one(deployment, self._job, told).run()) for one in watchers]
                await self._serve(plan, deployment, url_of(listener, "http" if tls is None else "https"), stop)
            except Exception as error:
                if self._lineage.supervisor is not None and not isinstance(error, HelixError):
                    log.exception("the coordinator crashed")
                    os._exit(CRASHED)  # as if it were killed: what it has is for the next one
                raise
            finally:
                self._note(replace(self._record, state="stopped", url=None, join_commands={}, token=None))
                server.should_exit = True
                for one in watching:
                    one.cancel()
                await asyncio.wait((answering,), timeout=DRAIN_S)
                if reconnects is not None:
                    await reconnects.close()
                await deployment.close()  # tells whoever still waits for an answer
                await answering
                if traces is not None:
                    await traces.close()
        with contextlib.suppress(OSError):  # a folder that can't be written ends nothing
            self._job.forget_identity()

    def _text_service(self, plan: Plan, deployment: Deployment, tokenizer: Tokenizer) -> TextService:
        model = plan.job.model
        return TextService(
            deployment,
            tokenizer,
            model_name=model.served_name,
            context=self._parts.context(plan),
            formats=formats_of(tokenizer.chat.source, model.tool_parser, model.reasoning_parser),
        )

    def _write_identity(self, plan: Plan, deployment: Deployment, port: int) -> None:
        before, run = self._lineage.identity, run_of(plan, self._lineage)
        names, spares = (None, {}) if before is None else (before.names, before.spares)
        try:
            self._job.write_identity(JobIdentity(deployment.token, deployment.address, port, run, names, spares))
        except OSError as error:
            log.error("a coordinator after this one could not take its place: %s", error)

    async def _serve(self, plan: Plan, deployment: Deployment, url: str, stop: asyncio.Event) -> None:
        joins = _join_commands(deployment)
        tls = plan.job.runtime.tls
        certificate = None if tls is None else tls.certificate
        record = replace(self._record, state="serving", url=url, join_commands=joins, token=deployment.token)
        self._note(replace(record, certificate=certificate))
        log.info("API at %s", url)
        # A job that has served once is brought up again, however long that takes.
        timeout_s = None if self._lineage.restarts else self._start_timeout_s or start_timeout(plan)
        ready = asyncio.create_task(deployment.wait_ready(timeout_s))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((ready, stopped), return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                _check_start(ready, deployment)
                self._note(replace(self._record, state="ready"))
                await stopped
        finally:
            ready.cancel()
            stopped.cancel()
            await asyncio.gather(ready, stopped, return_exceptions=True)

    def _note_joins(self, deployment: Deployment) -> None:
        self._note(replace(self._record, join_commands=_join_commands(deployment)))

    def _note(self, record: DaemonRecord) -> None:
        self._record = record
        _write_record(self._job, record)


def _join_commands(deployment: Deployment) -> dict[str, str]:
    """What people have to run for workers, by node."""
    return {node.name: node.join_command for node in deployment.snapshot().nodes if node.join_command}


def _traces(plan: Plan) -> OtlpTraces | None:
    """What sends the spans of traced requests, if the job wants any.

    Raises:
        MissingExtra: when it isn't installed here; `validate` says it where the job is planned.
    """
    wanted = plan.job.runtime.traces
    if wanted is None:
        return None
    require_tracing("runtime.traces")
    from helix_df.runtime.jobs.otlp import OtlpTraces

    return OtlpTraces(plan.job.name, wanted.url, wanted.sample)


def run_of(plan: Plan, lineage: Lineage) -> str:
    """What tells this run of a job from others, whichever plan it goes by in the end: its first one."""
    before = lineage.identity
    return before.run if before is not None and before.run else plan_id(plan)


def start_timeout(plan: Plan) -> float | None:
    """Seconds that a plan's workers have to be up; no limit when people have to start some of them."""
    by_hand = any(plan.job.nodes[stage.node].started_by == "external" for stage in plan.stages)
    return None if by_hand else plan.job.runtime.start_timeout


def _checked_entrance(runtime: Runtime) -> ssl.SSLContext | None:
    """What the API speaks TLS with, if it does.

    Raises:
        DeploymentError: when the API would let in anyone though the job doesn't say so, or its certificate is wrong.
    """
    if lets_anyone_in(runtime):  # a plan of an earlier release, or made by hand: `validate` says it, too
        raise DeploymentError(
            "anyone who reaches this host could use the API",
            where="runtime.host",
            found=runtime.host,
            hint="runtime.api_keys; or `allow_anyone: true`, if that is meant",
        )
    return None if runtime.tls is None else server_context(runtime.tls.certificate, runtime.tls.key)


def _connection_limits(plan: Plan) -> ConnectionLimits:
    """As the job says, but no more than this process has file descriptors for beside those of its workers.

    Raises:
        DeploymentError: when there aren't enough for these.
    """
    descriptors, workers = raise_descriptor_limit(), _DESCRIPTORS_A_WORKER * len(plan.stages)
    # Those of few workers are among the spare ones: such a job starts with what it gets.
    if workers > SPARE_DESCRIPTORS and descriptors < workers + SPARE_DESCRIPTORS + FEWEST_CONNECTIONS:
        raise DeploymentError(
            "the system's limit of open files is too low for so many workers",
            found=f"{descriptors} files, {len(plan.stages)} workers",
            expected=f"at least {workers + SPARE_DESCRIPTORS + FEWEST_CONNECTIONS}",
            hint="a higher hard limit: `ulimit -Hn`, or LimitNOFILE= of a service",
        )
    wanted = ConnectionLimits(connections=plan.job.runtime.max_connections)
    limits = wanted.within(descriptors - workers)
    if limits != wanted:
        log.warning("the system's limit of open files allows %d connections of clients only", limits.connections)
    return limits


def _check_start(ready: asyncio.Task[None], deployment: Deployment) -> None:
    """A job that isn't complete in time goes on if it can serve, and ends if it can't."""
    error = ready.exception()
    if error is None:
        log.info("ready")
    elif isinstance(error, DeploymentError) and deployment.snapshot().ready:
        log.warning("serving, though not complete: %s", error)
    else:
        raise error


def api_server(
    text: TextService,
    max_body_bytes: int = MAX_BODY_BYTES,
    limits: ConnectionLimits = LIMITS,
    reconnects: Reconnects | None = None,
    *,
    max_queue: int | None = None,
    keys: KeyRing | None = None,
    tls: ssl.SSLContext | None = None,
    control: Control | None = None,
    cors_origins: tuple[str, ...] = (),
    vllm_metrics: bool = False,
    tracer: Tracer | None = None,
    access_log: bool = False,
) -> uvicorn.Server:
    """A server for the API, quiet and without signal handlers, whose connections are within ``limits``.

    ``max_queue``, ``keys``, ``cors_origins``, ``vllm_metrics``, ``tracer`` and ``access_log`` are as for
    ``create_app``; with ``tls`` it speaks HTTPS.
    """
    grace_s = int(DRAIN_S) + 2
    crowd = Crowd()
    app = create_app(
        text,
        max_body_bytes=max_body_bytes,
        crowd=crowd,
        reconnects=reconnects,
        max_queue=max_queue,
        keys=keys,
        control=control,
        cors_origins=cors_origins,
        vllm_metrics=vllm_metrics,
        tracer=tracer,
        access_log=access_log,
    )
    protocol = bounded_protocol(limits, crowd, app.state.quick)
    return _Server(
        uvicorn.Config(
            app,
            http=protocol if tls is None else after_handshake(protocol, tls, limits, crowd),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            backlog=ACCEPTED_AT_ONCE,
            timeout_keep_alive=limits.idle_s,
            timeout_graceful_shutdown=grace_s,
        )
    )


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the daemon decides when to stop."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. Asyncio accepts as many at once as may wait, which a flood makes use of."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on ``host:port``; port 0 is any free one.

    Raises:
        DeploymentError: when the port is taken or may not be used, or the host isn't this machine's.
    """
    try:
        # An IPv6 number may stand in brackets, as in every other address of a job.
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise DeploymentError("the API's host is unknown", where="runtime.host", found=host) from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            raise _cannot_listen(error, host, port) from error
        listener.setblocking(False)
        yield listener


def _cannot_listen(error: OSError, host: str, port: int) -> DeploymentError:
    if error.errno == errno.EADDRNOTAVAIL:
        return DeploymentError(
            "the API's host is not an address of this machine",
            where="runtime.host",
            found=host,
            hint="127.0.0.1, or 0.0.0.0 for every address",
        )
    taken = error.errno == errno.EADDRINUSE
    return DeploymentError(
        f"port {port} is taken" if taken else f"port {port} can't be used",
        where="runtime.port",
        found=f"{host}:{port} ({error.strerror})",
        hint="another port in the job, or `port: 0` for any free one",
    )


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Where a client on this machine reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _until_signal(daemon: _Daemon) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await daemon.run(stop)


def _first_record(job: JobDirectory, supervisor: int | None, restarts: int) -> DaemonRecord:
    last = job.record() if restarts else None
    record = last or DaemonRecord(os.getpid(), "starting", time.time())
    return replace(
        record, pid=supervisor or os.getpid(), coordinator=os.getpid(), restarts=restarts, url=None, failure=None
    )


def _begin_record(job: JobDirectory, record: DaemonRecord) -> None:
    """Whoever starts a job waits for its word; one that has served goes on without.

    Raises:
        OSError: when the first daemon of a run can't say anything.
    """
    if record.restarts:
        _write_record(job, record)
    else:
        job.write_record(record)


def _record_failure(job: JobDirectory, error: HelixError) -> None:
    failure = Failure(
        kind=type(error).__name__,
        problem=error.problem,
        where=error.where,
        found=None if error.found is None else str(error.found),
        expected=error.expected,
        hint=error.hint,
    )
    last = job.record() or DaemonRecord(os.getpid(), "failed", time.time())
    _write_record(job, replace(last, state="failed", failure=failure, url=None, join_commands={}, token=None))


def _write_record(job: JobDirectory, record: DaemonRecord) -> None:
    """What serves goes on serving when a disk fills up, though others hear of changes no more."""
    try:
        job.write_record(record)
    except OSError as error:
        log.error("the daemon's record can't be written: %s", error)


if __name__ == "__main__":
    sys.exit(main())
