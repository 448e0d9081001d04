"""A worker process: greets the coordinator, loads its layers, and runs batches until told to stop.

A thin shell: ``WorkerState`` decides, the engine computes, the endpoint carries. It receives everything that waits,
runs one batch, sends the results, and begins again; the sockets' own threads work on while it computes.
"""

from __future__ import annotations

import logging
import math
import resource
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from helix_df.codecs import packed_bytes
from helix_df.errors import DeploymentError, ModelError
from helix_df.graph.compile import link_table
from helix_df.graph.problem import COORDINATOR, LinkTable
from helix_df.marks import mark
from helix_df.plan.takeover import OF_WORKERS
from helix_df.profiles.model_files import is_here
from helix_df.profiles.read_geometry import read_geometry
from helix_df.rules.measured_links import LinkSeen
from helix_df.rules.sending import goes_apart
from helix_df.runtime.checks import CHECKED
from helix_df.runtime.log_lines import fields
from helix_df.runtime.priority import Priority, as_ever
from helix_df.runtime.requests import EngineHealth, StageSpeed
from helix_df.runtime.tracing.clocks import ClockLead
from helix_df.runtime.transitions import IllegalEventSeen
from helix_df.runtime.wire.door import Door, Malformed
from helix_df.runtime.wire.emulation import EmulatedEndpoint
from helix_df.runtime.wire.fields import FrameError
from helix_df.runtime.wire.framing import Frames, bundles, encode, encode_bundle
from helix_df.runtime.wire.hosts import JobHosts
from helix_df.runtime.wire.keys import newly_connected, same_endpoint, without_key
from helix_df.runtime.wire.message_kinds import MOST_UNREACHABLE, MOST_WORDS
from helix_df.runtime.wire.messages import (
    HEARTBEAT_S,
    LOST_AFTER_S,
    Departed,
    Failed,
    FilePart,
    FileWanted,
    Forward,
    Heartbeat,
    Hello,
    JobChanged,
    Loading,
    Locate,
    Message,
    Probe,
    Ready,
    Release,
    Send,
    Stop,
    Welcome,
    heartbeat_s,
)
from helix_df.runtime.wire.timed import TimedEndpoint, TimedFrames
from helix_df.runtime.wire.transport import Endpoint, who_answers
from helix_df.runtime.worker.door import StageCheck, check_greeting
from helix_df.runtime.worker.fetched_model import MovedModel, fetch_model
from helix_df.runtime.worker.hop_recorder import HopRecorder
from helix_df.runtime.worker.leisure import Leisure
from helix_df.runtime.worker.link_times import Arrivals, Departures
from helix_df.runtime.worker.recorded import RecordedWorker
from helix_df.runtime.worker.stage_speed import time_stage
from helix_df.runtime.worker.state import Fork, Free, Trim, WorkerAction, WorkerState
from helix_df.runtime.worker.steps import Step, StepResult
from helix_df.spec.job import Job
from helix_df.spec.source import ModelSource

log = logging.getLogger(__name__)

GREET_EVERY_S = 1.0

GREET_AT_LEAST_EVERY_S = 4.0
"""A coordinator that a thousand workers greet at once answers some late, and the later the more often all greet."""

AT_ONCE_S = 0.0005
"""Who waited for so long, at least, for what came has noticed it at once."""

IDLE_S = 15.0
"""Seconds without a step after which a request has to make room for others, once KV cache is full. It is tried again,
unless nobody runs it, since its messages were not the coordinator's."""


FIRST_WORRY_S = 5.0
"""After so long without an answer a worker says so, later each time up to ``LAST_WORRY_S``."""

LAST_WORRY_S = 300.0


ASK_AGAIN_S = 60.0
"""So long a worker waits for a part of the model before it asks again; it may come over a slow link."""


class _UnwantedError(Exception):
    """Nobody wants this worker any more."""


class _RefusedError(DeploymentError):
    """The coordinator doesn't want this worker, or not as it is."""


class StepEngine(Protocol):
    """What a worker computes with."""

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV cache that requests can hold."""
        ...

    @property
    def health(self) -> EngineHealth:
        """How it is; asked by the thread that runs it."""
        ...

    def run(self, steps: Sequence[Step]) -> Sequence[StepResult]:
        """Run steps of different requests, each result in its step's place."""
        ...

    def release(self, request: str) -> None:
        """Free the KV cache of a request."""
        ...

    def fork(self, parent: str, child: str, tokens: int) -> None:
        """Let a request begin with the KV cache of another's first tokens, whole pages of them."""
        ...

    def trim(self, request: str, tokens: int) -> None:
        """Free the KV cache of a request but for that of its first tokens."""
        ...

    def warm_up(self) -> Iterator[object]:
        """Compile what is still cold, a program at a time."""
        ...

    def compile_next(self) -> None:
        """See ``ColdEngine``."""
        ...


Report = Callable[[str, float, str], None]
"""Called while an engine is built: state (``loading`` or ``compiling``), progress from 0 to 1, and with what."""

EngineBuilder = Callable[[Welcome, Report], StepEngine]


class Worker:
    """One node's worker on an endpoint.

    ``alive`` says whether whoever started it still wants it. The log of what its machine is told goes to the file
    ``events``; it is kept in memory if None. Where the model isn't on this host, which ``is_here`` says, the
    coordinator gives what its layers need. What no request waits for is done with the priority ``at_leisure``. The file
    ``ready_file`` is there once it serves, until it ends.
    """

    def __init__(
        self,
        node: str,
        endpoint: Endpoint,
        coordinator: str,
        token: str,
        build_engine: EngineBuilder,
        *,
        alive: Callable[[], bool] = lambda: True,
        events: Path | None = None,
        is_here: Callable[[ModelSource], bool] = is_here,
        at_leisure: Priority = as_ever,
        ready_file: Path | None = None,
    ) -> None:
        self._node = node
        self._endpoint = endpoint
        self._emulated: EmulatedEndpoint | None = None
        self._coordinator = coordinator
        self._token = token
        self._build_engine = build_engine
        self._alive = alive
        self._events = events
        self._is_here = is_here
        self._at_leisure = at_leisure
        self._ready_file = ready_file
        self._moved: MovedModel | None = None
        self._postponed: list[JobChanged] = []
        self._illegal_events = 0
        self._door = Door(token, lambda message: check_greeting(message, node))
        self._greeting: int | None = _new_life()
        self._life = 0
        self._last_step_s: dict[str, float] = {}
        self._health = EngineHealth()
        self._speed: StageSpeed | None = None
        self._silent_s = 0.0
        self._pause_s = HEARTBEAT_S
        self._patience_s = math.inf
        self._done = threading.Event()
        self._reconnected = False
        self._unheard: Ready | None = None
        self._hops: HopRecorder | None = None
        self._arrived_s = 0.0
        self._at_once = False
        self._bundle: Frames = []
        self._links_seen: tuple[LinkSeen, ...] = ()
        self._departures = Departures(node)
        self._arrivals = Arrivals()
        self._has_run = False
        self._clock_lead = ClockLead()

    def run(self) -> None:
        """Serve until the coordinator says stop or ``alive`` says no.

        Raises:
            DeploymentError: when the coordinator refuses this worker.
        """
        beating = threading.Thread(target=self._beat, name=f"heartbeat-{self._node}", daemon=True)
        try:
            welcome = self._greet()
            if welcome is None:
                return
            if not self._is_here(Job.model_validate(welcome.job).model.parsed_source):
                beating.start()
                fetched = self._fetch_model(welcome)
                if fetched is None:
                    return
                welcome = fetched
            job = Job.model_validate(welcome.job)
            self._pause_s = _pause_s(job)
            links = link_table(job)
            if job.runtime.emulate:
                self._emulate(links)
            if job.runtime.traces is not None:
                self._hops = HopRecorder(self._node)
                self._endpoint = TimedEndpoint(self._endpoint)
            if beating.ident is None:
                beating.start()
            engine = self._build_engine(welcome, self._report)
            self._speed = _speed(engine, welcome)
            mark("worker ready")
            self._health = engine.health
            self._say(self._heartbeat())
            self._say_ready(engine)
            state = _state(welcome, job, links, self._coordinator)
            geometry = read_geometry(job.model.parsed_source)
            self._patience_s = job.runtime.coordinator_timeout
            self._endpoint.watch(job.runtime.lost_after)
            self._stage = StageCheck(welcome, job, geometry, self._hosts(job), state.first_layer)
            self._door = Door(self._token, self._stage)
            self._serve(engine, RecordedWorker(state, time.monotonic, self._events, enabled=job.runtime.event_log))
        except _RefusedError:
            raise  # the node is another worker's, which has not failed
        except Exception as error:
            self._say(Failed(self._node, (str(error) or type(error).__name__)[:MOST_WORDS], self._life))
            raise
        finally:
            if self._ready_file is not None:
                self._ready_file.unlink(missing_ok=True)
            self._done.set()
            if beating.ident is not None:
                beating.join()
            self._endpoint.close()

    def _greet(self) -> Welcome | None:
        silent, wait_s = Silence(self._coordinator, time.monotonic()), GREET_EVERY_S
        while self._alive():
            self._greet_once()
            silent.tell(time.monotonic())
            for message in self._hear(wait_s):
                match message:
                    case Welcome() if self._is_answer(message):
                        return message
                    case Stop() if message.life == self._greeting:
                        return None
                    case Failed() if message.life == self._greeting:
                        raise self._refused(message)
            wait_s = min(2 * wait_s, GREET_AT_LEAST_EVERY_S)
        return None

    def _greet_once(self) -> None:
        self._greeting = self._greeting or _new_life()
        self._say(Hello(self._node, self._endpoint.address, self._greeting))

    def _fetch_model(self, welcome: Welcome) -> Welcome | None:
        """The same welcome to the model's mirror on this host, with what its layers need from the coordinator in it.

        ``None`` when the coordinator says stop, or nobody wants this worker any more.

        Raises:
            ModelError: when the coordinator can't give it.
        """
        self._stage_asked_for = welcome
        said = Job.model_validate(welcome.job).model.parsed_source
        try:
            local = fetch_model(said, welcome.layers, self._ask, self._report)
        except _UnwantedError:
            return None
        self._moved = MovedModel(str(welcome.job["model"]["source"]), str(local))
        return self._here(welcome)

    def _ask(self, name: str, start: int, stop: int) -> FilePart:
        """Bytes of a file of the model; asks again while no answer comes.

        Raises:
            ModelError: when the coordinator has said that it can't give them.
        """
        while self._alive():
            self._say(FileWanted(self._node, name, start, stop, self._life))
            asked_s, found = time.monotonic(), None
            while found is None and self._alive() and time.monotonic() - asked_s < ASK_AGAIN_S:
                for message in self._hear(GREET_EVERY_S):
                    match message:
                        case FilePart() if (message.name, message.start) == (name, start):
                            found = message
                        case Failed() if message.life == self._life:
                            raise ModelError("the coordinator can't give the model", found=message.reason)
                        case Failed() if message.life == self._greeting:
                            raise self._refused(message)
                        case Stop() if message.life == self._life:
                            raise _UnwantedError
                        case Welcome() if self._is_answer(message):
                            # Of a coordinator that took over, or had lost sight of us.
                            self._require_same_work(message, self._stage_asked_for)
                            asked_s = -math.inf
                        case JobChanged() if message.life == self._life:
                            self._postponed.append(message)
            if found is not None:
                return found
        raise _UnwantedError

    def _is_answer(self, message: Welcome) -> bool:
        """Whether a welcome answers the greeting that is open, which it closes."""
        if message.life != self._greeting:
            return False
        self._life, self._greeting = message.life, None
        return True

    def _emulate(self, links: LinkTable) -> None:
        self._endpoint = self._emulated = EmulatedEndpoint(self._endpoint, self._node, links)
        self._emulated.place(COORDINATOR, self._coordinator)

    def _serve(self, engine: StepEngine, machine: RecordedWorker) -> None:
        leisure = Leisure(engine, self._endpoint.wake)
        try:
            self._serve_on(engine, machine, leisure)
        finally:
            leisure.close()
            machine.events.close()

    def _serve_on(self, engine: StepEngine, machine: RecordedWorker, leisure: Leisure) -> None:
        state = machine.state
        self._take_postponed()
        while self._alive():
            if self._silent_s > self._patience_s:
                log.error("no coordinator has answered for %.0f s: this worker ends", self._silent_s)
                return
            self._health = engine.health
            self._links_seen = self._arrivals.seen(time.monotonic(), self._links_seen)
            at_leisure = not state.requests and self._health.cold_shapes > 0
            if state.idle:
                machine.events.flush()
            waits = state.idle and (leisure.is_busy or not at_leisure)
            for message in self._hear(self._pause_s if waits else 0.0):
                if isinstance(message, Stop) and message.life == self._life:
                    return
                self._take(message, engine, machine)
            steps = machine.next_batch()
            if steps:
                results = self._run(engine, steps)
                if not self._has_run:
                    self._has_run = True
                    mark("worker's first batch")
                actions = machine.on_results(steps, results)
                if self._hops is not None:
                    self._hops.leave(time.monotonic())
                self._act(engine, actions)
                if any(result.kv_full for result in results):
                    self._make_room(engine, machine)
            elif at_leisure and not state.requests:
                # Nobody is here: a good time to compile what later requests will need.
                leisure.use(self._at_leisure)
            if CHECKED:
                state.validate()

    def _run(self, engine: StepEngine, steps: Sequence[Step]) -> Sequence[StepResult]:
        if self._hops is None:
            return engine.run(steps)
        began_s = time.monotonic()
        results = engine.run(steps)
        self._hops.computed(steps, began_s, time.monotonic())
        return results

    def _hosts(self, job: Job) -> JobHosts:
        return JobHosts.of(job, self._coordinator, self._endpoint.address)

    def _take_postponed(self) -> None:
        """What came while the model was fetched, now that it can be checked."""
        for message in self._postponed:
            try:
                self._door.check(message)
            except FrameError as error:
                self._door.refusals.note(error)
            else:
                self._change_job(message.job)
        self._postponed.clear()

    def _require_same_work(self, welcome: Welcome, before: Welcome) -> None:
        """Make sure that what was loaded is what is wanted: the job may have been applied anew, with other plans.

        Raises:
            DeploymentError: when it isn't, so that whoever started this worker starts it anew.
        """
        if _work(self._here(welcome)) != _work(before):
            raise _RefusedError(
                "the job has changed, and this worker has loaded something else",
                where=self._node,
                found=f"{before.layers} of {Job.model_validate(before.job).model.source}",
                expected=f"{welcome.layers} of {Job.model_validate(welcome.job).model.source}, as planned now",
                hint="start it again",
            )

    def _here(self, welcome: Welcome) -> Welcome:
        return welcome if self._moved is None else self._moved.here(welcome)

    def _change_job(self, document: Mapping[str, Any]) -> None:
        """Requests may go to other nodes from now on."""
        job = Job.model_validate(document)
        self._pause_s = _pause_s(job)
        self._endpoint.watch(job.runtime.lost_after)
        if self._emulated is not None:
            self._emulated.become(link_table(job))
        self._stage = replace(self._stage, job=job, hosts=self._hosts(job))
        self._door.check = self._stage

    def _make_room(self, engine: StepEngine, machine: RecordedWorker) -> None:
        """Let those go that no step has come for in a long while, before somebody else has been tried often enough."""
        now = time.monotonic()
        for request in [name for name, last_s in self._last_step_s.items() if now - last_s > IDLE_S]:
            if machine.state.state_of(request) == "held":
                self._act(engine, machine.on_malformed(request))

    def _take(self, message: Message | Malformed, engine: StepEngine, machine: RecordedWorker) -> None:
        match message:
            case Forward():
                if self._emulated is not None and message.route is not None:
                    self._emulated.place_all(message.route)
                self._act(engine, machine.on_forward(message))
                if machine.state.first_layer(message.request) is not None:
                    self._last_step_s[message.request] = time.monotonic()
                    if self._hops is not None:
                        self._hops.came(message, self._arrived_s)
            case Release():
                self._act(engine, machine.on_release(message))
            case Locate():
                self._say(machine.state.located(message.request))
            case Malformed():
                self._act(engine, machine.on_malformed(message.request))
            case Probe() if message.path:
                self._endpoint.send(message.path[0], encode(replace(message, path=message.path[1:]), self._token))
            case JobChanged() if message.life == self._life:
                self._change_job(message.job)
            case Welcome() if self._is_answer(message):
                # The coordinator lost sight of us and has started our requests over elsewhere, or is a new one.
                self._require_same_work(message, self._stage.welcome)
                self._change_job(message.job)
                self._act(engine, machine.forget_all())
                self._say_ready(engine)
            case Welcome() if message.life == self._life:
                self._greet_once()  # the coordinator may have given us up, or this is somebody else's
            case Failed() if message.life == self._greeting:
                raise self._refused(message)
            case Welcome() | Failed() | Stop() | JobChanged():
                self._door.refusals.note(
                    FrameError("a message to another life than this", "unasked", where=message.TAG)
                )
            case Departed():
                self._arrivals.note(message, self._bundle, self._arrived_s, at_once=self._at_once)
            case Heartbeat() if message.life == self._life:
                self._unheard = None
                if self._at_once:
                    self._clock_lead.note(message.clock_s, self._arrived_s)
            case _:
                pass  # a heartbeat that says nothing, or a probe at its end

    def _act(self, engine: StepEngine, actions: Iterable[WorkerAction]) -> None:
        done = list(actions)
        for action in done:
            match action:
                case Free():
                    engine.release(action.request)
                    self._last_step_s.pop(action.request, None)
                case Fork():
                    engine.fork(action.parent, action.child, action.tokens)
                case Trim():
                    engine.trim(action.request, action.tokens)
                    self._last_step_s.pop(action.request, None)
                case IllegalEventSeen():
                    self._illegal_events += 1
                    if action.is_news:
                        log.warning(
                            "%s (the %d. time)", action.error, action.times, extra=fields(subject=action.error.subject)
                        )
        if self._hops is not None and self._hops.attempts:
            for told in self._hops.over(action.request for action in done if isinstance(action, Free | Trim)):
                self._say(told)
        for bundle in bundles(action for action in done if isinstance(action, Send)):
            frames = encode_bundle(bundle.messages, self._token)
            if same_endpoint(bundle.address) == same_endpoint(self._coordinator):
                self._endpoint.send(self._coordinator, frames, bulk=bundle.bulk)
                continue
            departed = self._departures.of(bundle.address, frames, time.monotonic())
            if departed is not None:
                frames += encode(departed, self._token)
            self._endpoint.send(bundle.address, frames, bulk=bundle.bulk)

    def _hear(self, timeout_s: float) -> Iterator[Message | Malformed]:
        # Counted in waits, not by a clock: while this process is stopped or busy nobody can be heard.
        self._silent_s += timeout_s
        asked_s = time.monotonic()
        arrived = self._endpoint.receive(timeout_s)
        noticed_s = time.monotonic()
        for frames in arrived:
            is_timed, self._bundle = isinstance(frames, TimedFrames), frames
            self._arrived_s = frames.arrived_s if isinstance(frames, TimedFrames) else noticed_s
            self._at_once = is_timed or noticed_s - asked_s >= AT_ONCE_S
            for message in self._door.open(frames):
                self._silent_s = 0.0
                yield message
        self._door.tell(time.monotonic())

    def _beat(self) -> None:
        while not self._done.wait(self._pause_s):
            if not self._alive():
                self._endpoint.wake()
            # A coordinator that doesn't answer may have given us up: greeting again makes it take us back.
            if self._silent_s > LOST_AFTER_S:
                if not self._reconnected:
                    # Or the link was cut; what there is of a connection would notice late that it is back.
                    self._coordinator = newly_connected(self._coordinator)
                    self._reconnected = True
                self._greet_once()
            else:
                self._reconnected = False
                if self._greeting is not None:
                    self._greet_once()  # it hasn't been answered
                self._say(self._heartbeat())
                if self._unheard is not None and self._greeting is None:
                    self._say(self._unheard)

    def _say_ready(self, engine: StepEngine) -> None:
        """Say it, and again until the coordinator knows."""
        if self._ready_file is not None:
            self._ready_file.touch()
        self._unheard = Ready(self._node, engine.kv_tokens, self._speed, self._life)
        self._say(self._unheard)

    def _heartbeat(self) -> Heartbeat:
        coordinator = same_endpoint(self._coordinator)
        away = sorted(it for it in self._endpoint.unreachable() if same_endpoint(it) != coordinator)
        return Heartbeat(
            self._node,
            self._health,
            _memory_bytes(),
            self._illegal_events,
            self._life,
            tuple(away[:MOST_UNREACHABLE]),
            time.monotonic(),
            self._clock_lead.least_s,
            self._links_seen,
        )

    def _say(self, message: Message) -> None:
        self._endpoint.send(self._coordinator, encode(message, self._token))

    def _report(self, state: str, progress: float, detail: str) -> None:
        log.info("%s %.0f%% %s", state, 100 * progress, detail)
        self._say(Loading(self._node, state, progress, detail))

    def _refused(self, message: Failed) -> _RefusedError:
        return _RefusedError("the coordinator refuses this worker", where=self._node, found=message.reason)


def _pause_s(job: Job) -> float:
    return heartbeat_s(len(job.nodes), job.runtime.lost_after)


def _work(welcome: Welcome) -> tuple[object, ...]:
    """All that a worker goes by from its start on."""
    job = Job.model_validate(welcome.job)
    rules = tuple(getattr(job.runtime, name) for name in OF_WORKERS)
    return welcome.layers, welcome.num_layers, welcome.kv_tokens, welcome.kv_window, job.model, rules


class Silence:
    """Says in the log that a coordinator doesn't answer, and what may be the reason: it doesn't answer strangers."""

    def __init__(self, coordinator: str, now: float) -> None:
        self._coordinator = coordinator
        self._wait_s = FIRST_WORRY_S
        self._since = now
        self._due_s = now + self._wait_s

    def tell(self, now: float) -> None:
        """Say it, if it is time for that."""
        if now < self._due_s:
            return
        self._wait_s = min(2 * self._wait_s, LAST_WORRY_S)
        self._due_s = now + self._wait_s
        where, why = without_key(self._coordinator), who_answers(self._coordinator)
        log.warning("no answer from the coordinator at %s for %.0f s: %s", where, now - self._since, why)


def _new_life() -> int:
    return 1 + secrets.randbelow(2**62)


_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of ``ru_maxrss``."""


def _memory_bytes() -> int:
    """What this process has in memory now; where the system doesn't tell, the most it ever had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * _MAXRSS_BYTES


def _speed(engine: StepEngine, welcome: Welcome) -> StageSpeed | None:
    geometry = read_geometry(Job.model_validate(welcome.job).model.parsed_source)
    return time_stage(engine.run, engine.release, welcome.layers, geometry, time.perf_counter)


def _state(welcome: Welcome, job: Job, links: LinkTable, coordinator: str) -> WorkerState:
    found = ((name, links.find(welcome.node, name)) for name in job.nodes if name != welcome.node)
    declared = {name: link for name, link in found if link is not None}
    hidden_size, prefill = read_geometry(job.model.parsed_source).hidden_size, job.runtime.max_prefill_tokens
    return WorkerState(
        node=welcome.node,
        coordinator=coordinator,
        num_layers=welcome.num_layers,
        max_batch=job.runtime.max_batch,
        max_prefill_tokens=job.runtime.max_prefill_tokens,
        kv_window=welcome.kv_window,
        codecs={name: link.codec for name, link in declared.items() if link.codec != "none"},
        apart=frozenset(
            name
            for name, link in declared.items()
            if goes_apart(prefill, packed_bytes(hidden_size, job.model.element_bytes, link.codec), link.bytes_per_s)
        ),
    )
