"""The coordinator: one job's brain with hands. Owns the job's endpoint, its workers' launchers and the open streams.

A thin shell around ``CoordinatorState``: it turns frames, exits and the clock into events, and actions into frames and
tokens on queues. Doesn't know HTTP, text or layers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from helix_df.errors import DeploymentError, HelixError, RequestError
from helix_df.graph.compile import link_table
from helix_df.graph.problem import COORDINATOR
from helix_df.plan.plan import Plan
from helix_df.plan.takeover import Spare, TakenOver
from helix_df.profiles.catalogue import device_count
from helix_df.rules.measured_links import Ends, LinkSeen, LinkSpeed
from helix_df.runtime.checks import CHECKED, OneThread
from helix_df.runtime.coordinator.actions import Abort, AttemptOver, CoordinatorAction, Deliver
from helix_df.runtime.coordinator.door import CoordinatorCheck
from helix_df.runtime.coordinator.journal import Journal, KeptNode
from helix_df.runtime.coordinator.model_server import ModelServer
from helix_df.runtime.coordinator.node_clock import NodeClock
from helix_df.runtime.coordinator.recorded import RecordedCoordinator
from helix_df.runtime.coordinator.request_traces import RequestTraces
from helix_df.runtime.coordinator.restarts import Restarts
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.coordinator.step_watch import StepWatch
from helix_df.runtime.kept_answers import AnswerKeeper, BrokenOff
from helix_df.runtime.launcher import Exit, Launcher, WorkerOrder
from helix_df.runtime.log_lines import fields
from helix_df.runtime.requests import GenerationRequest, HopStatus, JobStatus, TokenEvent, some
from helix_df.runtime.tracing.spans import TimedSpan
from helix_df.runtime.transitions import IllegalEventSeen
from helix_df.runtime.wire.door import Door, Malformed
from helix_df.runtime.wire.emulation import EmulatedEndpoint
from helix_df.runtime.wire.event_log import EventLog
from helix_df.runtime.wire.framing import Frames, bundles, encode, encode_bundle
from helix_df.runtime.wire.hosts import JobHosts
from helix_df.runtime.wire.keys import ENCRYPTED, PLAIN, EndpointKeys, same_endpoint
from helix_df.runtime.wire.message_kinds import MOST_HEAD_BYTES, MOST_WORDS, frame_limit
from helix_df.runtime.wire.messages import (
    Bundle,
    Failed,
    FilePart,
    FileWanted,
    Forward,
    Heartbeat,
    Hello,
    HopTimes,
    Located,
    Message,
    Sampled,
    Send,
)
from helix_df.runtime.wire.transport import MOST_PEERS, Endpoint, listen
from helix_df.spec.addresses import host_of, split_address
from helix_df.spec.nodes import Node

log = logging.getLogger(__name__)

TICK_S = 0.25
STOP_GRACE_S = 6.0

_LOTS_UNDER_WAY = 2
"""Lots of frames that may wait for the loop; more wait in their connections, and so in their senders."""


_PEERS_A_NODE = 4
"""Connections to the worker of a node: for files one of its own, and as many for one that comes beside it or is reached
anew."""

_MOST_GIVEN = 64
"""Parts of the model that are read at a time; workers ask again for others."""


class Coordinator:
    """Runs exactly one plan. Use from one asyncio loop: ``start``, ``wait_ready``, ``submit`` …, ``close``.

    Args:
        plan: what to run.
        launcher_of: who starts the worker of a node that the job declares so.
        log_dir: where the machines' events go (``coordinator.events``), and local workers' logs; nowhere if None.
        embedded: workers are in this process and messages stay in it: no socket, no port.
        token: the job's secret, which every message carries; a fresh one if None.
        address: where to listen; as the job says if None.
        journal: what coordinators before this one have left, their workers' addresses, say; kept up for the next one.
            Closed with this coordinator, and deleted then.
        keys: those of an encrypted endpoint; messages aren't encrypted if None.
        names: of the workers by the nodes that they serve, where the plan has taken over from another.
        spares: workers of nodes that the plan does without until they are back.

    ``answers`` are kept for clients that come back, where somebody has said how. ``replanned``, ``scaled`` and
    ``slower`` are shown in the status, and so is what links do, ``link_speeds``.
    ``trace_to`` says where the spans of traced requests go.
    """

    def __init__(
        self,
        plan: Plan,
        launcher_of: Callable[[Node], Launcher],
        *,
        log_dir: Path | None = None,
        embedded: bool = False,
        token: str | None = None,
        address: str | None = None,
        journal: Journal | None = None,
        keys: EndpointKeys | None = None,
        names: Mapping[str, str] | None = None,
        restarts: int = 0,
        last_restart: str = "",
        spares: Mapping[str, Spare] | None = None,
    ) -> None:
        self.plan = plan
        self._former = restarts
        self._last_restart = last_restart
        self._listen_at = address
        self._journal = journal
        self._launcher_of = launcher_of
        self._log_dir = log_dir
        self._embedded = embedded
        self.token = token or secrets.token_hex(16)
        self._keys = keys
        life = 1 + restarts if journal is None else journal.life
        self._owned = RecordedCoordinator(
            CoordinatorState(plan, context_of(plan), life=life, names=names or {}, spares=spares or {}),
            time.monotonic,
            log_dir and log_dir / "coordinator.events",
            enabled=plan.job.runtime.event_log,
        )
        self._loop_thread = OneThread()
        self._streams: dict[str, asyncio.Queue[TokenEvent | HelixError]] = {}
        self._asked_s: dict[str, float] = {}
        self._waited_s: dict[str, float] = {}
        self._orders: dict[str, WorkerOrder] = {}
        self._commands: dict[str, tuple[WorkerOrder, str | None]] = {}
        self._launcher_for: dict[str, Launcher] = {}
        self._changed = asyncio.Event()
        self._emulated: EmulatedEndpoint | None = None
        self._closing = False
        self._hears = True
        self._ticker: asyncio.Task[None] | None = None
        self._due_timer: asyncio.TimerHandle | None = None
        self._room = threading.Semaphore(_LOTS_UNDER_WAY - 1)
        self._restarts = Restarts()
        self._steps = StepWatch()
        self.answers: AnswerKeeper | None = None
        self._kept: set[str] = set()
        self._model = ModelServer(plan.job.model.parsed_source)
        self._giving: set[asyncio.Task[None]] = set()
        self.replanned = ""
        self.scaled = ""
        self.slower = ""
        self.link_speeds: Mapping[Ends, LinkSpeed] = {}
        self._traces: RequestTraces | None = None
        self._clocks: dict[str, NodeClock] = {}

    def trace_to(self, tell: Callable[[str, TimedSpan], None]) -> None:
        """From now on, hand on the span of each traced request, with the ``traceparent`` of what it is a part of."""
        self._traces = RequestTraces(self.plan.job.model.served_name, tell, self._clock_ahead)

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Listen, and start the workers; returns before they are up.

        Raises:
            DeploymentError: when the coordinator's address can't be listened on, or would have to be without encryption
                beyond this machine.
        """
        self._loop = asyncio.get_running_loop()
        self._loop_thread.bind()
        self._endpoint: Endpoint = self._listen()
        if self.plan.job.runtime.emulate:
            self._emulated = EmulatedEndpoint(self._endpoint, COORDINATOR, link_table(self.plan.job))
            self._endpoint = self._emulated
        self._check_of_door = self._check()
        self._door = Door(self.token, self._check_of_door)
        self._receiver = threading.Thread(target=self._receive, name="coordinator-inbox", daemon=True)
        self._receiver.start()
        self._take_back_workers()
        self._launch_all()
        self._ticker = asyncio.create_task(self._tick())

    def _take_back_workers(self) -> None:
        """Those that served a coordinator before this one, if they hold what they are to hold now."""
        if self._journal is None:
            return
        self._journal.start()
        for node in self._journal.nodes:
            if self._state.placement.get(node.name) == node.layers:
                if self._emulated is not None:
                    self._emulated.place(node.name, node.address)
                self._perform(self._machines.take_over(node.name, node.address, node.life))

    def _listen(self) -> Endpoint:
        job = self.plan.job
        if self._embedded:
            return listen("local://*")
        if job.beyond_loopback and self._keys is None and not job.runtime.trust_network:
            raise DeploymentError(
                "nothing is encrypted, and this job goes beyond this machine",
                where="runtime.encryption",
                found=", ".join(job.beyond_loopback[:4]),
                hint="`auto`; or, on a network that nobody else can reach, trust_network: true beside `never`",
            )
        at = self._listen_at or self._bind_address(job.coordinator.address)
        return listen(at, MOST_HEAD_BYTES, self._keys, max(MOST_PEERS, _PEERS_A_NODE * len(job.nodes)))

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until every worker serves.

        Raises:
            DeploymentError: with the last words of a worker that failed, or the states of those that are late.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._state.all_up:
                    if self._state.failure is not None:
                        raise DeploymentError("the job didn't start", found=self._state.failure)
                    await self.changed()
        except TimeoutError:
            late = [f"{node.name} ({node.state})" for node in self.snapshot().nodes if node.state != "ready"]
            raise DeploymentError(
                f"not ready after {timeout_s:.0f} s",
                found=f"still waiting for {', '.join(some(late))}",
                hint="a longer runtime.start_timeout, or the workers' logs",
            ) from None

    async def changed(self) -> None:
        """Wait until something has happened to the job."""
        self._changed.clear()
        await self._changed.wait()

    @property
    def _launchers(self) -> Collection[Launcher]:
        """Those who start workers of this job, each once."""
        return dict.fromkeys(self._launcher_for.values())

    def _declared(self, name: str) -> Node:
        """What the job says of a node, or that of a plan which is to take over."""
        return Node.model_validate(self._state.nodes_state.nodes[name].job["nodes"][name])

    @property
    def _state(self) -> CoordinatorState:
        """The machines; no thread but the event loop's may touch them."""
        return self._machines.state

    @property
    def _machines(self) -> RecordedCoordinator:
        """The same with their events taken down."""
        self._loop_thread.check()
        return self._owned

    @property
    def events(self) -> EventLog:
        """What the machines have been told so far; prompts are in it."""
        return self._machines.events

    @property
    def address(self) -> str:
        """Where workers reach this coordinator."""
        return self._endpoint.address

    async def close(self) -> None:
        """Abort what runs, stop the workers, give the ports back. Safe to call twice."""
        if self._closing or self._ticker is None:
            return
        self._closing = True
        self._ticker.cancel()
        self._perform(self._machines.stop())
        if self._traces is not None:
            self._traces.close(time.monotonic())
        self._hears = False  # from now on: whoever hears closes the sockets, and many workers have to be told to stop
        await asyncio.gather(*(asyncio.to_thread(launcher.stop, STOP_GRACE_S) for launcher in self._launchers))
        self._endpoint.wake()
        await asyncio.to_thread(self._receiver.join)
        self.events.close()
        if self._journal is not None:
            await asyncio.to_thread(self._journal.close, delete=True)

    # ------------------------------------------------------------------ requests

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """See ``TokenService``."""
        stream: asyncio.Queue[TokenEvent | HelixError] = asyncio.Queue()
        self._streams[request.id] = stream
        self._asked_s[request.id] = asked_s = time.monotonic()
        if self._traces is not None:
            self._traces.asked(request, asked_s)
        try:
            self._perform(self._machines.submit(request))
            while True:
                event = await stream.get()
                if isinstance(event, HelixError):
                    raise event
                yield event
                if event.finish is not None:
                    return
        except RequestError as error:
            if self._traces is not None:  # one that is refused at once
                self._trace_answer(self._traces, request.id, error)
            raise
        finally:
            del self._streams[request.id]
            self._asked_s.pop(request.id, None)
            self._waited_s.pop(request.id, None)
            if not self._closing:
                self._perform(self._machines.cancel(request.id))
                self._note_end(request.id, BrokenOff("cancelled"))
                if self._traces is not None:
                    self._traces.over(request.id, time.monotonic())

    def keep(self, requests: Iterable[str]) -> None:
        """Take down in the journal what becomes of requests."""
        self._kept.update(requests)

    # ------------------------------------------------------------------ what becomes of the job

    def begin_change(self, plan: Plan, without: Collection[str] = ()) -> None:
        """Let another plan of the same model take over; what runs goes on meanwhile.

        Workers of nodes whose layers or rules change are started beside those that serve, and switched to once they are
        ready. Until then nothing changes, so it does not if one of them fails. The workers of nodes that the plan does
        ``without`` for a while may come back.

        Raises:
            DeploymentError: when it can't take over.
            SpecError: when there is no such launcher as a node of it says.
        """
        for stage in plan.stages:
            self._launcher_of(plan.job.nodes[stage.node])  # raises, if at all, before anything begins
        self._perform(self._machines.begin_change(plan, without))
        self._check_of_door.hosts = JobHosts.of(self._state.change_job, self._endpoint.address)
        if self._emulated is not None:
            self._emulated.become(link_table(self._state.change_job))
        self._launch_all()

    async def until_changed(self) -> TakenOver:
        """Wait until the plan that was to take over has.

        Raises:
            DeploymentError: when it was given up, since a new worker failed.
        """
        while self._state.change is not None:
            await self.changed()
        # Whoever is started again does so in place of one that served, not beside it.
        left = {name: order for name, order in self._orders.items() if name in self._state.nodes}
        self._orders = {name: replace(order, gives_way=False) for name, order in left.items()}
        if self._state.change_failure is not None:
            raise DeploymentError("the plan that was to take over was given up", found=self._state.change_failure)
        self.plan = self._state.plan
        return self.running()

    def give_up_change(self, why: str) -> None:
        """Let no plan take over that was about to."""
        self._perform(self._machines.give_up_change(why))

    def running(self) -> TakenOver:
        """The plan that requests go by."""
        return TakenOver(self._state.plan, self._state.names, self._state.spares)

    async def until_done(self, grace_s: float) -> None:
        """Take no new requests, and wait until all there are have ended, ``grace_s`` seconds at most."""
        self._perform(self._machines.wind_down())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._state.requests_state.requests:
                    await self.changed()

    def drain(self, node: str, *, undo: bool = False) -> None:
        """Send no new requests to a node; those that run there go on. ``undo`` sends it some again.

        Raises:
            DeploymentError: when there is no such node, or nothing would be left that serves.
        """
        self._perform(self._machines.drain(node, not undo))

    # ------------------------------------------------------------------ the job at this moment

    def waiting(self, owner: str | None = None) -> int:
        """See ``TokenService``."""
        requests = self._state.requests_state
        return requests.waiting if owner is None else requests.waiting_of(owner)

    def snapshot(self) -> JobStatus:
        """See ``TokenService``."""
        status = self._state.snapshot()
        nodes = (
            replace(node, join_command=self._join_command(node.name), restarts=self._restarts.counts[node.name])
            for node in status.nodes
        )
        refused = {} if self._ticker is None else dict(self._door.refusals.counts)
        if self._ticker is not None and self._endpoint.refused_connections:
            refused["connection"] = self._endpoint.refused_connections
        return replace(
            status,
            nodes=tuple(nodes),
            refused_frames=refused,
            restarts=self._former,
            last_restart=self._last_restart,
            replanned=self.replanned,
            scaled=self.scaled,
            slower=self.slower,
            hops=tuple(self._measured(hop) for hop in status.hops),
            longest_wait_s=self._longest_wait_s(),
        )

    def _measured(self, hop: HopStatus) -> HopStatus:
        found = self.link_speeds.get((hop.tail, hop.head))
        return hop if found is None else replace(hop, bytes_per_s=found.bytes_per_s, latency_s=found.latency_s)

    def links_seen(self) -> dict[Ends, tuple[LinkSeen, float | None]]:
        """What workers have seen of the links to them, and by how much the clock of the link's head is ahead of its
        tail's, as far as that is known."""
        nodes = self._state.nodes_state.nodes
        found: dict[Ends, tuple[LinkSeen, float | None]] = {}
        for name, node in nodes.items():
            for link in node.links if node.state == "ready" else ():
                ours = self._clock_ahead(link.tail), self._clock_ahead(name)
                apart_s = None if ours[0] is None or ours[1] is None else ours[0] - ours[1]
                found[link.tail, name] = link, apart_s
        return found

    def _longest_wait_s(self) -> float:
        """Of those that have never been started; the first that was asked is the first here."""
        first_s = next(iter(self._asked_s.values()), None)
        return 0.0 if first_s is None else time.monotonic() - first_s

    # ------------------------------------------------------------------ events in, actions out

    def _check(self) -> CoordinatorCheck:
        return CoordinatorCheck(
            self._state.nodes_state.nodes,
            self._state.nodes_state.former,
            self.plan.geometry,
            context_of(self.plan),
            JobHosts.of(self.plan.job, self._endpoint.address),
            time.monotonic,
        )

    def _receive(self) -> None:
        """Runs in a thread of its own, so that the loop is woken once for everything that waits."""
        while self._hears:
            arrived = self._endpoint.receive(None)
            if arrived and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._on_frames, arrived, time.monotonic())
                while not self._room.acquire(timeout=TICK_S) and self._hears:
                    pass  # the loop is busy
        self._endpoint.close()

    def _on_frames(self, arrived: list[Frames], arrived_s: float) -> None:
        self._room.release()
        now = time.monotonic()
        opened = (one for frames in arrived for one in self._door.open(frames))
        self._perform([action for one in opened for action in self._on(one, now, arrived_s)])
        self._door.tell(now)

    def _on(self, message: Message | Malformed, now: float, arrived_s: float) -> list[CoordinatorAction]:
        if isinstance(message, Malformed):
            return self._machines.on_malformed(message.request, now)
        if isinstance(message, Heartbeat):
            self._set_clock(message, arrived_s)
        if self._traces is not None:
            self._trace(self._traces, message, arrived_s)
        if isinstance(message, HopTimes):
            return []
        if isinstance(message, FileWanted):
            self._give(message)
            return []
        if isinstance(message, Located):
            lost = self._steps.on_located(message, now)
            return self._machines.on_lost_step(message.request, now) if lost else []
        if self._emulated is not None and isinstance(message, Hello) and message.node in self._state.nodes_state.nodes:
            self._emulated.place(message.node, message.address)
        actions = self._machines.on_message(message, now)
        if isinstance(message, Hello) and self._journal is not None:
            self._note_worker(message, self._journal)
        return actions

    def _trace(self, traces: RequestTraces, message: Message, arrived_s: float) -> None:
        match message:
            case Sampled():
                traces.came(message.request, arrived_s)
            case HopTimes():
                traces.reported(message)

    def _set_clock(self, heartbeat: Heartbeat, arrived_s: float) -> None:
        clock = self._clocks.get(heartbeat.node)
        if clock is None or clock.life != heartbeat.life:
            clock = self._clocks[heartbeat.node] = NodeClock(heartbeat.life)
        clock.note(heartbeat, arrived_s)

    def _clock_ahead(self, node: str) -> float | None:
        clock = self._clocks.get(node)
        return None if clock is None else clock.ahead_s

    def _give(self, wanted: FileWanted) -> None:
        """Send a worker a part of the model, read by a thread: disks are slow."""
        node = self._state.nodes_state.nodes[wanted.node]
        if node.address is not None and len(self._giving) < _MOST_GIVEN:
            task = asyncio.create_task(self._read_and_send(wanted, node.address))
            self._giving.add(task)
            task.add_done_callback(self._giving.discard)

    async def _read_and_send(self, wanted: FileWanted, address: str) -> None:
        message: FilePart | Failed
        try:
            message = await asyncio.to_thread(self._model.part, wanted)
        except HelixError as error:
            message = Failed(wanted.node, str(error)[:MOST_WORDS], wanted.life)
        if not self._closing:
            self._endpoint.send(address, encode(message, self.token), bulk=True)

    def _note_worker(self, hello: Hello, journal: Journal) -> None:
        node = self._state.nodes_state.nodes.get(hello.node)
        served = node is not None and node.address is not None and same_endpoint(node.address) == hello.address
        if node is not None and served and node.life == hello.life:
            journal.node(KeptNode(hello.node, hello.address, hello.life, node.layers))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for launcher in self._launchers:
                for gone in launcher.exits():
                    self._on_exit(gone)
            for node in self._restarts.due(time.monotonic()):
                if node not in self._state.nodes:
                    continue
                log.info("starting worker %s again", node)
                try:
                    self._launch(node)
                except OSError as error:  # no process or descriptor left, or no room for its log: later, perhaps
                    self._on_exit(Exit(node, f"could not be started: {error}"))
            if not self._embedded:  # a thread of this process is as silent as the process is busy; its end is told
                now = time.monotonic()
                self._perform(self._machines.tick(now))
                self._perform(self._steps.look(self._state.requests_state.steps(), now))
            if self._traces is not None:
                self._traces.flush(time.monotonic())
            self._door.tell(time.monotonic())
            self.events.flush()

    def _on_exit(self, gone: Exit) -> None:
        """Whoever ends before the job was first up would end again; later ones are started again."""
        if gone.node not in self._state.nodes:
            return  # it was told to
        words = gone.words
        if self._state.was_ready:
            wait_s = self._restarts.ended(gone.node, time.monotonic())
            words = f"{words}\nstarted again in {wait_s:g} s, {self._restarts.counts[gone.node]} times so far"
        log.error("worker %s is gone: %s", gone.node, words)
        self._perform(self._machines.on_exit(gone.node, words))

    def _launch_all(self) -> None:
        """Start the workers that nobody has started yet."""
        for node in self._state.nodes:
            if node not in self._orders:
                declared = self._declared(node)
                self._launcher_for[node] = self._launcher_of(declared)
                self._orders[node] = self._order(node, declared)
                self._launch(node)

    def _launch(self, node: str) -> None:
        self._restarts.started(node, time.monotonic())
        self._launcher_for[node].start(self._orders[node])

    def _perform(self, actions: Iterable[CoordinatorAction]) -> None:
        sends: list[Send] = []
        for action in actions:
            match action:
                case Send():
                    if isinstance(action.message, Forward):
                        self._note_start(action.message.request)
                    sends.append(action)
                case Deliver():
                    self._hand_over(action.request, action.event)
                case Abort():
                    self._hand_over(action.request, action.error)
                case IllegalEventSeen():
                    if action.is_news:
                        log.warning(
                            "%s (the %d. time)", action.error, action.times, extra=fields(subject=action.error.subject)
                        )
                case AttemptOver():
                    if self._traces is not None:
                        self._traces.attempt_over(action.attempt, action.why, time.monotonic())
        for bundle in bundles(sends):
            if self._traces is not None:
                self._note_sent(self._traces, bundle)
            self._endpoint.send(bundle.address, encode_bundle(bundle.messages, self.token), bulk=bundle.bulk)
        self._changed.set()
        self._set_due_timer()
        if CHECKED:
            self._state.validate()

    def _note_sent(self, traces: RequestTraces, bundle: Bundle) -> None:
        """Before it is sent: nothing may arrive before it has left."""
        sent_s = time.monotonic()
        for message in bundle.messages:
            if isinstance(message, Forward):
                traces.sent(message, sent_s)

    def _note_start(self, attempt: str) -> None:
        """A request leaves the queue with the first step of its first attempt."""
        request = attempt.rpartition("/")[0]
        asked_s = self._asked_s.pop(request, None)
        if asked_s is not None:
            self._waited_s[request] = time.monotonic() - asked_s

    def _set_due_timer(self) -> None:
        if self._due_timer is not None:
            self._due_timer.cancel()
        due_s = self._state.next_due_s
        if due_s is None:
            self._due_timer = None
            return
        self._due_timer = self._loop.call_later(max(0.0, due_s - time.monotonic()), self._on_due)

    def _on_due(self) -> None:
        self._perform(self._machines.on_due(time.monotonic()))

    def _hand_over(self, request: str, event: TokenEvent | HelixError) -> None:
        if request in self._kept:
            if isinstance(event, HelixError):
                self._note_end(request, BrokenOff.by(event))
            elif self._journal is not None:
                self._journal.token(request, event)
                if event.finish is not None:
                    self._kept.discard(request)
        if self._traces is not None:
            self._trace_answer(self._traces, request, event)
        stream = self._streams.get(request)
        if stream is not None:
            waited_s = self._waited_s.pop(request, None)
            if waited_s is not None and isinstance(event, TokenEvent):
                event = replace(event, waited_s=waited_s)
            stream.put_nowait(event)

    def _trace_answer(self, traces: RequestTraces, request: str, event: TokenEvent | HelixError) -> None:
        if isinstance(event, TokenEvent):
            traces.delivered(request, event, time.monotonic())
        else:
            traces.over(request, time.monotonic(), error=getattr(event, "code", None) or event.problem)

    def _note_end(self, request: str, why: BrokenOff) -> None:
        if request in self._kept and self._journal is not None:
            self._kept.discard(request)
            self._journal.break_off(request, why)

    # ------------------------------------------------------------------ workers

    def _order(self, node: str, declared: Node) -> WorkerOrder:
        host = host_of(self.plan.job.coordinator.address)
        listen_on = "local://*" if self._embedded else self._bind_address(declared.address or host)
        log_file = self._log_dir / f"{node}.log" if self._log_dir is not None else None
        devices = 1 if self.plan.job.runtime.emulate else device_count(declared.gpu)
        change = self._state.change
        names = self._state.names if change is None else change.how.names
        serves = next((name for name, worker in names.items() if worker == node), node)
        return WorkerOrder(
            node,
            self._endpoint.address,
            listen_on,
            self.token,
            log_file,
            self._frame_limit,
            devices,
            gives_way=change is not None,
            serves=serves,
            log_format=self.plan.job.runtime.log_format,
            gpu=declared.gpu,
        )

    @property
    def _frame_limit(self) -> int:
        """Bytes of the largest frame that a worker takes: of the largest piece that this plan is served with."""
        return frame_limit(self.plan.geometry.hidden_size, self.plan.served.runtime.max_prefill_tokens)

    def _bind_address(self, address: str) -> str:
        """``host`` or ``host:port`` as an address to listen on, any free port without one."""
        host, port = split_address(address)
        return f"{PLAIN if self._keys is None else ENCRYPTED}://{host}:{port or '*'}"

    def _join_command(self, node: str) -> str | None:
        order = self._orders.get(node)
        if order is None:
            return None
        said = self._commands.get(node)
        if said is None or said[0] is not order:
            said = self._commands[node] = order, self._launcher_for[node].command(order)
        return said[1]


def context_of(plan: Plan) -> int:
    """Tokens that a request of this plan's job may use, prompt and answer together."""
    return plan.job.model.context or plan.geometry.context_length
