"""A whole job in virtual time: the real state machines, links that take as long as declared, engines that only count.

What the shells do is done here with a clock of numbers: a node hears what has arrived when its batch is over, and
what one decision sends leaves in bundles over emulated links. The reference that the simulator is held to.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from helix_df.errors import RequestError
from helix_df.graph.flow_graph import FlowGraph
from helix_df.graph.problem import COORDINATOR, LinkTable
from helix_df.plan.plan import Plan
from helix_df.profiles.timing import LayerTiming
from helix_df.rules.sending import goes_apart
from helix_df.runtime.coordinator.actions import Abort, CoordinatorAction, Deliver
from helix_df.runtime.coordinator.drafters.kind import DrafterKind
from helix_df.runtime.coordinator.drafters.registry import BUILT_IN
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.requests import DrawnToken, GenerationRequest, StageSpeed
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.transitions import IllegalEventSeen
from helix_df.runtime.wire.framing import bundles
from helix_df.runtime.wire.messages import Forward, Hello, Message, Ready, Release, Sampled, Send
from helix_df.runtime.wire.pacing import Lane, PacedQueue
from helix_df.runtime.worker.kv_pages import PagePool
from helix_df.runtime.worker.state import Free, Trim, WorkerAction, WorkerState
from helix_df.runtime.worker.steps import Step, StepResult
from helix_df.simulator.kernel.drafts import TIMED_TOKENS, has_drafts, is_right
from helix_df.simulator.trace import Trace, TraceRequest
from helix_df.spec.section import Section

SAME_S = 1e-9
"""Seconds within which rounding decides what comes first."""

STOP_TOKEN = 0
OTHER_TOKEN = 1
WRONG_TOKEN = 2
"""Which nobody draws."""

FIRST_PROMPT = 3
"""What the first request's prompt is made of; the next one's of the number after it."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes on the wire: of a token id, of one token's hidden state, and of a message beside its tensor."""

    token: float
    hidden: float
    message: float

    def of(self, message: Message) -> float:
        """Bytes of a message."""
        if isinstance(message, Forward):
            each = self.token if message.tensor.dtype == np.int32 else self.hidden
            return len(message.tensor) * each + self.message
        return self.message + ((1 + len(message.more)) * self.token if isinstance(message, Sampled) else 0.0)


@dataclass(slots=True)
class Told:
    """What became of one request: when each of its tokens came, and whether it was refused or given up."""

    arrived_s: float
    tokens_s: list[float] = field(default_factory=list)
    finished: bool = False
    rejected: bool = False


class DrawnDrafts(Section):
    """What decides of whom there are drafts, and which are right: as in ``kernel.drafts``."""

    seed: int
    acceptance: float
    coverage: float


class DrawnDrafter:
    """Drafts what comes, or what doesn't, as the simulator draws it. A request's prompt says its number."""

    def __init__(self, options: DrawnDrafts) -> None:
        self._options = options
        self._tokens: list[int] = []

    def extend(self, tokens: Sequence[int]) -> None:
        """See ``Drafter``."""
        self._tokens += tokens

    def draft(self, most: int) -> tuple[int, ...]:
        """See ``Drafter``."""
        it, prompt = self._options, self._tokens[0]
        generated = sum(token != prompt for token in self._tokens)
        if not has_drafts(it.seed, prompt - FIRST_PROMPT, generated, it.coverage):
            return ()
        places = range(generated, generated + most)
        right = (is_right(it.seed, prompt - FIRST_PROMPT, place, it.acceptance) for place in places)
        return tuple(OTHER_TOKEN if one else WRONG_TOKEN for one in right)


DRAWN_DRAFTER = DrafterKind(DrawnDrafter, DrawnDrafts)
BUILT_IN["drawn"] = f"{__name__}:DRAWN_DRAFTER"


@dataclass(slots=True)
class CountingEngine:
    """Pages of KV cache and seconds of batches, but no tensors."""

    pool: PagePool
    timing: LayerTiming
    wanted: dict[str, TraceRequest]

    def run(self, steps: Sequence[Step]) -> tuple[list[StepResult], float]:
        """Results, and how long the batch takes: what found no room takes no time."""
        fitting = [self._fitting(step) for step in steps]
        done = [step for step in fitting if step is not None]
        decodes = Counter(len(step.layers) for step in done if step.is_decode for _ in step.inputs)
        prompts = ((len(step.layers), len(step.inputs)) for step in done if not step.is_decode)
        results = [self._result(step, fit) for step, fit in zip(steps, fitting, strict=True)]
        return results, self.timing.batch_s(decodes, prompts)

    def _fitting(self, step: Step) -> Step | None:
        """The step, or without its drafts, as far as the cache has room."""
        kept = (each for each in dict.fromkeys((len(step.drafts), 0)) if self._reserve(step.cut(each)))
        drafts = next(kept, None)
        return None if drafts is None else step.cut(drafts)

    def _reserve(self, step: Step) -> bool:
        self.pool.slide(step.request, step.position)
        return self.pool.reserve(step.request, step.position + len(step.inputs))

    def _result(self, asked: Step, step: Step | None) -> StepResult:
        if step is None:
            return StepResult(asked.request, kv_full=True)
        computed = len(step.inputs) if len(step.inputs) < len(asked.inputs) else None
        if step.sampling is None:
            return StepResult(step.request, hidden=np.zeros(len(step.inputs), np.float32), computed=computed)
        wanted = self.wanted[step.request.partition("/")[0]]
        generated = step.position + len(step.inputs) - len(step.drafts) - wanted.input_tokens + 1
        drawn = [self._token(wanted, generated)]
        while step.drafts[len(drawn) - 1 : len(drawn)] == (drawn[-1],):
            drawn.append(self._token(wanted, generated + len(drawn)))
        return StepResult(step.request, token=drawn[0], more=tuple(map(DrawnToken, drawn[1:])), computed=computed)

    def _token(self, wanted: TraceRequest, generated: int) -> int:
        """The last of so many."""
        return STOP_TOKEN if generated == wanted.output_tokens < wanted.max_tokens else OTHER_TOKEN


@dataclass(slots=True)
class VirtualWorker:
    """A worker as its shell runs it. ``inbox`` is what has arrived since it last listened."""

    node: str
    address: str
    state: WorkerState
    engine: CountingEngine
    inbox: list[Message] = field(default_factory=list)
    busy: bool = False
    alive: bool = True


@dataclass
class VirtualJob:
    """A job in virtual time.

    Args:
        plan: what runs.
        links: between all nodes.
        timings: seconds of a layer, by node.
        sizes: of messages.
        page_tokens: tokens of KV cache a page.
        trace: what is asked; a saturating one has a next request wait at all times.
        events: (time, node, up) of workers that are killed or come back; first they are all there.
        end_s: when to stop.

    ``tie_s`` is when, for the first time, two things happened at one place at the same moment but for rounding, so that
    nobody can say which came first.
    """

    plan: Plan
    links: LinkTable
    timings: dict[str, LayerTiming]
    sizes: Sizes
    page_tokens: int
    trace: Trace
    events: Sequence[tuple[float, str, bool]] = ()
    end_s: float = 1e9
    now: float = 0.0
    tie_s: float = math.inf
    told: list[Told] = field(default_factory=list)
    ways: FlowGraph | None = None
    coordinator: CoordinatorState = field(init=False)
    workers: dict[str, VirtualWorker] = field(default_factory=dict)
    _lanes: dict[tuple[str, str], Lane] = field(default_factory=dict)
    _expected_s: float = math.inf
    _network: PacedQueue[tuple[str, Sequence[Message]]] = field(default_factory=PacedQueue)
    _wanted: dict[str, TraceRequest] = field(default_factory=dict)
    _heap: list[tuple[float, int, str, object]] = field(default_factory=list)
    _last: dict[str, tuple[float, str]] = field(default_factory=dict)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.coordinator = CoordinatorState(self.plan, 10**9, self.page_tokens, self.ways)
        self.coordinator.requests_state._links = self.links
        for node in self.coordinator.nodes:
            self._join(node)
        for time_s, node, up in self.events:
            self._at(time_s, "join" if up else "lose", node)
        if self.trace.saturating:
            self._at(0.0, "draw", None)
        else:
            for request in self.trace.requests:
                self._at(request.arrival_s, "arrive", request)

    def run(self) -> list[Told]:
        """Everything until ``end_s``, by request in the order of their arrival."""
        while self._heap and self._heap[0][0] <= self.end_s:
            self.now, _, kind, what = heapq.heappop(self._heap)
            if kind != "network":
                self._note_tie(kind, what)
            getattr(self, f"_on_{kind}")(what)
        return self.told

    def _note_tie(self, kind: str, what: object) -> None:
        place = COORDINATOR
        if isinstance(what, tuple):
            place = what[0] if isinstance(what[0], str) else what[0].address
        before_s, before = self._last.get(place, (-math.inf, kind))
        # Who backs off together comes back together, and a batch that finds no cache is over at once.
        expected = kind == before == "due" or (kind == "computed" and self.now == before_s)
        if self.now - before_s <= SAME_S and not expected:
            self.tie_s = min(self.tie_s, before_s)
        self._last[place] = self.now, kind

    def _at(self, time_s: float, kind: str, what: object) -> None:
        heapq.heappush(self._heap, (time_s, next(self._order), kind, what))

    # ------------------------------------------------------------------ nodes

    def _join(self, node: str) -> list[CoordinatorAction]:
        """A worker comes up, in no time."""
        (stage,) = (stage for stage in self.plan.stages if stage.node == node)
        runtime = self.plan.job.runtime
        state = WorkerState(
            node,
            COORDINATOR,
            self.plan.num_layers,
            runtime.max_batch,
            runtime.max_prefill_tokens,
            apart=frozenset(filter(self._apart_from(node), self.coordinator.nodes)),
            kv_window=stage.kv_window,
            page_tokens=self.page_tokens,
        )
        shape = stage.kv_shape
        windows = [shape.window] * shape.windowed + [0] * shape.whole
        pool = PagePool(stage.kv_tokens // self.page_tokens * len(windows), self.page_tokens, windows)
        engine = CountingEngine(pool, self.timings[node], self._wanted)
        address = f"{node}#{len(self.workers)}"
        self.workers[address] = VirtualWorker(node, address, state, engine)
        timing, layers = self.timings[node], len(stage.layers)
        speed = StageSpeed(TIMED_TOKENS, layers * timing.prefill_s(TIMED_TOKENS), layers * timing.decode_s(1))
        self.coordinator.on_message(Hello(node, address, len(self.workers)), self.now)
        ready = Ready(node, pool.num_pages // len(windows) * self.page_tokens, speed)
        return self.coordinator.on_message(ready, self.now)

    def _apart_from(self, node: str) -> Callable[[str], bool]:
        """Which nodes pieces of prompts go to apart from decode steps."""
        budget = self.plan.job.runtime.max_prefill_tokens

        def apart(other: str) -> bool:
            link = self.links.find(node, other) if other != node else None
            return link is not None and goes_apart(budget, self.sizes.hidden, link.bytes_per_s)

        return apart

    def _worker_of(self, node: str) -> VirtualWorker | None:
        """The worker that serves a node now."""
        return next((worker for worker in self.workers.values() if worker.node == node and worker.alive), None)

    def _on_lose(self, node: str) -> None:
        worker = self._worker_of(node)
        if worker is not None:
            worker.alive = False
            self._coordinate(self.coordinator.on_exit(node, "killed", self.now))

    def _on_join(self, node: str) -> None:
        if node in self.coordinator.nodes and self._worker_of(node) is None:
            self._coordinate(self._join(node))

    # ------------------------------------------------------------------ requests

    def _on_arrive(self, wanted: TraceRequest) -> None:
        self._submit(wanted)

    def _on_draw(self, _: None) -> None:
        self._draw()

    def _draw(self) -> None:
        """Where a next request waits at all times: have one wait."""
        wanted = self.trace.requests
        while self.trace.saturating and self.coordinator.ready and not self.coordinator.requests_state.queue:
            name = self._submit(wanted[len(self.told) % len(wanted)])
            requests = self.coordinator.requests_state
            away = self.told[-1].rejected or name in requests.stranded
            if away and len(self.told) > 2 * len(wanted):
                return

    def _submit(self, wanted: TraceRequest) -> str:
        name = f"r{len(self.told)}"
        self._wanted[name] = wanted
        self.told.append(Told(self.now))
        prompt = (int(name[1:]) + FIRST_PROMPT,) * wanted.input_tokens
        request = GenerationRequest(name, prompt, wanted.max_tokens, SamplingParams(), frozenset({STOP_TOKEN}))
        try:
            self._perform(self.coordinator.submit(request, self.now))
        except RequestError:
            self.told[-1].rejected = True
        return name

    # ------------------------------------------------------------------ the coordinator's shell

    def _coordinate(self, actions: Iterable[CoordinatorAction]) -> None:
        self._perform(actions)
        self._draw()

    def _perform(self, actions: Iterable[CoordinatorAction]) -> None:
        sends: list[Send] = []
        for action in actions:
            match action:
                case Send():
                    sends.append(action)
                case Deliver():
                    told = self.told[int(action.request[1:])]
                    told.tokens_s.append(self.now)
                    told.finished = action.event.finish is not None
                case Abort():
                    self.told[int(action.request[1:])].rejected = True
                case IllegalEventSeen():
                    raise AssertionError(action)
        self._send(COORDINATOR, sends)
        if self.coordinator.next_due_s is not None:
            self._at(self.coordinator.next_due_s, "due", None)

    def _on_due(self, _: None) -> None:
        if self.coordinator.next_due_s == self.now:
            self._coordinate(self.coordinator.on_due(self.now))

    # ------------------------------------------------------------------ the workers' shell

    def _on_listen(self, worker: VirtualWorker) -> None:
        """Hear what has arrived, and run a batch if something waits."""
        if not worker.alive:
            return
        inbox, worker.inbox = worker.inbox, []
        for message in inbox:
            if isinstance(message, Forward):
                self._act(worker, worker.state.on_forward(message))
            elif isinstance(message, Release):
                self._act(worker, worker.state.on_release(message))
        steps = worker.state.next_batch()
        worker.busy = bool(steps)
        if steps:
            results, seconds = worker.engine.run(steps)
            self._at(self.now + seconds, "computed", (worker, steps, results))

    def _on_computed(self, what: tuple[VirtualWorker, Sequence[Step], Sequence[StepResult]]) -> None:
        worker, steps, results = what
        if worker.alive:
            self._act(worker, worker.state.on_results(steps, results))
            self._on_listen(worker)

    def _act(self, worker: VirtualWorker, actions: Sequence[WorkerAction]) -> None:
        for action in actions:
            match action:
                case Free():
                    worker.engine.pool.release(action.request)
                case Trim():
                    worker.engine.pool.trim(action.request, action.tokens)
        self._send(worker.node, [action for action in actions if isinstance(action, Send)])

    # ------------------------------------------------------------------ the network

    def _send(self, sender: str, sends: Iterable[Send]) -> None:
        for bundle in bundles(sends):
            lane = self._lane(sender, bundle.address.partition("#")[0])
            self._note_race(lane)
            size = sum(map(self.sizes.of, bundle.messages))
            self._network.put(lane, size, (bundle.address, bundle.messages), self.now, bulk=bundle.bulk)  # type: ignore[arg-type]
        self._expect()

    def _note_race(self, lane: Lane) -> None:
        """Whether something that waits can still be passed is rounding's to say when the link is free just now."""
        if self._network.let_go(lane, self.now - SAME_S) and lane.free_s <= self.now + SAME_S:
            self.tie_s = min(self.tie_s, self.now)

    def _expect(self) -> None:
        due_s = self._network.next_s()
        if due_s is not None and due_s < self._expected_s:
            self._expected_s = due_s
            self._at(due_s, "network", None)

    def _on_network(self, _: None) -> None:
        if self.now >= self._expected_s:
            self._expected_s = math.inf
            for address, messages in self._network.arrived(self.now):
                self._at(self.now, "arrived", (address, messages))
            self._expect()

    def _lane(self, sender: str, receiver: str) -> Lane:
        lane = self._lanes.get((sender, receiver))
        if lane is None:
            link = self.links.find(sender, receiver)
            assert link is not None
            lane = self._lanes[sender, receiver] = Lane(link.bytes_per_s, link.latency_s)
        return lane

    def _on_arrived(self, what: tuple[str, Sequence[Message]]) -> None:
        address, messages = what
        if address == COORDINATOR:
            found = [action for message in messages for action in self.coordinator.on_message(message, self.now)]
            self._coordinate(found)
            return
        worker = self.workers[address]
        worker.inbox += messages
        if worker.alive and not worker.busy:
            self._on_listen(worker)
