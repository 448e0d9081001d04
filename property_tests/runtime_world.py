"""A whole job in one thread: the real state machines, a network whose order hypothesis chooses, and a toy model.

The toy engine keeps a real, paged KV cache of integers, so a layer that runs twice, out of order, on the wrong worker,
without its past or with somebody else's changes the tokens that come out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from helix_df.errors import DeploymentError, RequestError
from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.max_flow import solve_max_flow
from helix_df.graph.problem import COORDINATOR, Link, LinkTable, NodeProfile, Problem
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, SolverReport, assemble
from helix_df.profiles.geometry import AttentionOptions
from helix_df.profiles.kv_windows import held_tokens
from helix_df.rules.pages import pages_for
from helix_df.runtime.constraints import Constraint
from helix_df.runtime.coordinator.actions import Abort, CoordinatorAction, Deliver
from helix_df.runtime.coordinator.drafters.kind import DrafterKind
from helix_df.runtime.coordinator.drafters.registry import BUILT_IN
from helix_df.runtime.coordinator.recorded import RecordedCoordinator
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.coordinator.step_watch import StepWatch
from helix_df.runtime.replay import replay
from helix_df.runtime.requests import DrawnToken, GenerationRequest, ScoredToken, StageSpeed, TokenEvent
from helix_df.runtime.sampling import Pooling, SamplingParams
from helix_df.runtime.transitions import IllegalEventSeen
from helix_df.runtime.wire.framing import decode, encode
from helix_df.runtime.wire.keys import same_endpoint
from helix_df.runtime.wire.messages import (
    HEARTBEAT_S,
    Heartbeat,
    Hello,
    Locate,
    Located,
    Message,
    Ready,
    Rejected,
    Release,
    Send,
    Stop,
    Welcome,
)
from helix_df.runtime.worker.kv_pages import PagePool
from helix_df.runtime.worker.recorded import RecordedWorker
from helix_df.runtime.worker.state import Fork, Free, Trim, WorkerAction, WorkerState
from helix_df.runtime.worker.steps import Step, StepResult
from helix_df.spec.job import Job
from helix_df.spec.section import Section

PRIME = 1009
PAGE = 4
PIECE = 16
"""Tokens of the longest piece of a prompt, in all plans."""
STOP_TOKEN = 7
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def toy_layer(layer: int, hidden: list[int], past: list[int], windows: tuple[int, ...] = ()) -> list[int]:
    """One layer of the toy model: every output depends on all inputs up to its position, and on their order; of a layer
    with a window, on the last so many."""
    window = windows[layer] if windows else 0
    if window:
        values = past + hidden
        seen = ((values[max(0, at - window + 1) : at], values[at]) for at in range(len(past), len(values)))
        return [toy_layer(layer, [value], before)[0] for before, value in seen]
    total = 0
    for value in past:
        total = (7 * total + value) % PRIME
    outputs = []
    for value in hidden:
        total = (7 * total + value) % PRIME
        outputs.append((31 * value + 17 * layer + 3 * total + 1) % PRIME)
    return outputs


@lru_cache(maxsize=64)
def toy_answer(request: GenerationRequest, num_layers: int, windows: tuple[int, ...] = ()) -> list[TokenEvent]:
    """What the model says to a request, computed in one piece."""
    tokens = list(request.prompt)
    events: list[TokenEvent] = []
    if not request.max_tokens:
        return [TokenEvent(None, "length")]
    while True:
        hidden = tokens
        for layer in range(num_layers):
            hidden = toy_layer(layer, hidden, [], windows)
        token = hidden[-1] % 64
        if token in request.stop_ids:
            return [*events, TokenEvent(None, "stop")]
        tokens.append(token)
        last = len(tokens) - len(request.prompt) == request.max_tokens
        events.append(TokenEvent(token, "length" if last else None))
        if last:
            return events


@lru_cache(maxsize=256)
def toy_tokens(prompt: tuple[int, ...], num_layers: int, count: int, windows: tuple[int, ...] = ()) -> list[int]:
    """The first tokens of the model's answer to a prompt, as if it had no end."""
    tokens = list(prompt)
    for _ in range(count):
        hidden = tokens
        for layer in range(num_layers):
            hidden = toy_layer(layer, hidden, [], windows)
        tokens.append(hidden[-1] % 64)
    return tokens[len(prompt) :]


def toy_score(position: int, token: int) -> ScoredToken:
    """What the toy model thinks of a prompt's token in its place."""
    return ScoredToken(-float(position), 1 + token)


POOLINGS: tuple[Pooling | None, ...] = (None, "mean", "last")


class ToyDrafts(Section):
    """What a toy drafter knows of the model."""

    layers: int
    windows: tuple[int, ...] = ()


class ToyDrafter:
    """Drafts what the toy model says next, with a mistake in it now and then."""

    def __init__(self, options: ToyDrafts) -> None:
        self.options = options
        self.tokens: list[int] = []

    def extend(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens

    def draft(self, most: int) -> tuple[int, ...]:
        right = toy_tokens(tuple(self.tokens), self.options.layers, most, self.options.windows)
        places = range(len(self.tokens), len(self.tokens) + most)
        return tuple((token + (place % 5 == 0)) % 64 for place, token in zip(places, right, strict=True))


TOY_DRAFTER = DrafterKind(ToyDrafter, ToyDrafts)
BUILT_IN["toy"] = f"{__name__}:TOY_DRAFTER"

DRAFTING = StageSpeed(16, 0.0115, 0.01)
"""Of a stage on which further tokens of a step cost so little that all are drafted that may be."""


class ToyEngine:
    """A paged KV cache of one integer for each token and layer. What was in a page before it was freed stays there.

    ``windows`` are those of the model's layers; of ``layers``, those that have one free what ``kv_window`` tokens don't
    see.
    """

    def __init__(
        self, num_layers: int, kv_tokens: int, layers: LayerRange, kv_window: int = 0, windows: tuple[int, ...] = ()
    ) -> None:
        self.num_layers = num_layers
        self.layers = layers
        self.windows = windows or (0,) * num_layers
        own = [kv_window if window else 0 for window in self.windows[layers.start : layers.stop]]
        of_tables = own if len(set(own)) > 1 else own[:1]
        self.pool = PagePool(kv_tokens // PAGE * len(of_tables), PAGE, of_tables)
        self.lengths: dict[str, int] = {}
        self.cells: dict[tuple[int, int, int], int] = {}
        self.known: dict[str, list[int]] = {}
        self.furthest: dict[str, int] = {}
        self.drafted: dict[str, int] = {}

    @property
    def kv_tokens(self) -> int:
        return self.pool.num_pages // len(self.pool.windows) * PAGE

    def run(self, steps: tuple[Step, ...]) -> list[StepResult]:
        assert len({step.request for step in steps}) == len(steps)
        return [self._run(step) for step in steps]

    def release(self, request: str) -> None:
        self.pool.release(request)
        for known in (self.lengths, self.furthest, self.drafted):
            known.pop(request, None)

    def fork(self, parent: str, child: str, tokens: int) -> None:
        assert tokens % PAGE == 0
        assert self.lengths[parent] >= tokens, f"{parent} has {self.lengths[parent]} tokens, {child} wants {tokens}"
        self.pool.fork(parent, child, tokens)
        self.lengths[child] = tokens

    def trim(self, request: str, tokens: int) -> None:
        assert self.lengths[request] >= tokens
        self.pool.trim(request, tokens)
        self.lengths[request] = tokens

    def _run(self, step: Step) -> StepResult:
        held, cut = self.lengths.get(step.request, 0), None
        first = held - self.drafted.get(step.request, 0)
        assert first <= step.position <= held, f"{step.request} at {step.position}, the cache holds {first} to {held}"
        if step.drafts and (step.position + self.layers.start) % 7 == 0:  # an engine may leave drafts out
            cut = 1 + len(step.drafts) // 2
            step = step.cut(cut - 1)
        self.drafted[step.request] = len(step.drafts)
        held = step.position
        stop = held + len(step.inputs)
        self.pool.slide(step.request, held)
        if not self.pool.reserve(step.request, stop):
            return StepResult(step.request, kv_full=True)
        self._check_bound(step, stop)
        self.lengths[step.request] = stop
        hidden = [int(value) for value in step.inputs]
        for layer in range(step.layers.start, step.layers.stop):
            window = self.windows[layer]
            seen = max(0, held - window + 1) if window else 0
            past = [self.cells[cell] for cell in self._cells(step.request, layer, seen, held)]
            self.cells.update(zip(self._cells(step.request, layer, held, stop), hidden, strict=True))
            hidden = toy_layer(layer, hidden, past, self.windows)
        if step.layers.stop < self.num_layers:
            return StepResult(step.request, hidden=np.array(hidden, dtype=np.int32), computed=cut)
        if step.drafts:
            return self._verified(step, hidden, cut)
        scores = tuple(toy_score(step.position + 1 + at, target) for at, target in enumerate(step.targets))
        token = hidden[-1] % 64 if step.sampling else None
        if token is not None and step.sampling.needs_history:
            self._check_history(step, stop)
            self.known[step.request].append(token)
        pooled = np.array([sum(hidden[-step.pooled :])], np.float32) if step.pooled else None
        return StepResult(step.request, token=token, scores=scores, pooled=pooled, computed=cut)

    def _verified(self, step: Step, hidden: list[int], cut: int | None) -> StepResult:
        """A draw behind one token after the other, for as long as drafts are drawn."""
        assert step.sampling is not None
        drawn: list[int] = []
        for at, value in enumerate(hidden):
            drawn.append(value % 64)
            if step.sampling.needs_history:
                self._check_history(step, step.position + at + 1)
                self.known[step.request].append(drawn[-1])
            if step.drafts[at : at + 1] != (drawn[-1],):
                break
        more = tuple(map(DrawnToken, drawn[1:]))
        return StepResult(step.request, token=drawn[0], more=more, computed=cut)

    def _check_bound(self, step: Step, stop: int) -> None:
        """No request holds more pages than the ledger takes it for, whatever it has; those of drafts stay held."""
        furthest = self.furthest[step.request] = max(stop, self.furthest.get(step.request, 0))
        for window, table in zip(self.pool.windows, self.pool.tables(step.request), strict=True):
            held = sum(1 for page in table if page)
            most = held_tokens(furthest, window, PIECE, PAGE)
            assert held <= pages_for(most, PAGE), f"{step.request} holds {held} pages at {stop} tokens"

    def _check_history(self, step: Step, stop: int) -> None:
        """What draws take, the tokens so far, is known wherever a request is drawn, and is what it has."""
        tokens = self.known.setdefault(step.request, list(step.history.tokens))
        assert len(tokens) == stop, f"{step.request} draws at {stop}, {len(tokens)} tokens are known"
        prompt = step.history.tokens[: step.history.prompt]
        answer = toy_tokens(prompt, self.num_layers, len(tokens) - len(prompt), self.windows)
        assert tokens[step.history.prompt :] == answer, f"{step.request} has other tokens than it was told"

    def _cells(self, request: str, layer: int, start: int, stop: int) -> list[tuple[int, int, int]]:
        tables = self.pool.tables(request)
        table = tables[layer - self.layers.start if len(tables) > 1 else 0]
        assert all(table[start // PAGE : -(-stop // PAGE)]), f"{request} lacks a page between {start} and {stop}"
        return [(layer, table[position // PAGE], position % PAGE) for position in range(start, stop)]


Outcome = list[CoordinatorAction] | list[WorkerAction] | RequestError | DeploymentError
"""What a machine did about one event."""


def plain(outcome: Outcome, tensors: bool) -> object:
    """An outcome that can be compared; with the numbers of its ``tensors`` or without."""
    if isinstance(outcome, (RequestError, DeploymentError)):
        return str(outcome)
    return [_plain(action, tensors) for action in outcome]


def _plain(action: CoordinatorAction | WorkerAction, tensors: bool) -> object:
    match action:
        case Send():
            frames = encode(action.message, "secret")
            return action.address, [bytes(frame) for frame in (frames if tensors else frames[:1])]
        case Abort():
            return action.request, str(action.error)
        case IllegalEventSeen():
            return str(action.error), action.times
        case _:
            return action


Wire = tuple[str, str, bool]
"""From whom to whom, and whether it is the one for bulk: what is sent over one keeps its order."""


@dataclass
class ToyWorker:
    """A worker's state machine with its engine, as the shell would join them."""

    node: str
    address: str
    engine: ToyEngine | None = None
    state: WorkerState | None = None
    recorded: RecordedWorker | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    greeting: int | None = None
    life: int = 0


def toy_problem(placement: dict[str, LayerRange], num_layers: int, kv_tokens: int = 1000) -> Problem:
    """Equal nodes and links."""
    nodes = tuple(
        NodeProfile(name, "toy", "here", (100.0,) * num_layers, (kv_tokens,) * num_layers) for name in placement
    )
    regions = dict.fromkeys([*placement, COORDINATOR], "here")
    return Problem(num_layers, nodes, LinkTable(regions, Link(1e9, 0.0)), 2, 100)


def toy_plan(
    placement: dict[str, LayerRange],
    num_layers: int,
    kv_tokens: int,
    windows: tuple[int, ...] = (),
    **runtime: Any,
) -> Plan:
    """A plan of a placement on equal nodes and links, of a model whose layers have these windows."""
    problem = toy_problem(placement, num_layers, kv_tokens)
    job = Job.model_validate(
        {
            "model": {"source": "random:tiny"},
            "nodes": {name: {"gpu": "toy"} for name in placement},
            "runtime": runtime,
        }
    )
    flow = solve_max_flow(build_graph(problem, placement))
    plan = assemble(job, problem, placement, flow, SolverReport("hand", None, "finished", "", None, 0.0))
    options = AttentionOptions(windows=windows)
    freed = ((stage, *options.windowed(stage.layers)) for stage in plan.stages)
    stages = (replace(stage, windowed=windowed, kv_window=window) for stage, windowed, window in freed)
    return replace(plan, stages=tuple(stages))


@dataclass
class World:
    """Coordinator, workers, and the messages between them. Nothing moves unless a method is called.

    A ``lossy`` one has messages that are lost, come twice or out of order; the machines may then be told what they have
    no transition for.
    """

    plan: Plan
    context: int = 10_000
    windows: tuple[int, ...] = ()
    now: float = 0.0
    ways: FlowGraph | None = None
    lossy: bool = False
    steps: StepWatch = field(default_factory=StepWatch)
    coordinator: CoordinatorState = field(init=False)
    recorded: RecordedCoordinator = field(init=False)
    workers: dict[str, ToyWorker] = field(default_factory=dict)
    wires: dict[Wire, deque[list[bytes]]] = field(default_factory=dict)
    asked: dict[str, GenerationRequest] = field(default_factory=dict)
    answers: dict[str, list[TokenEvent]] = field(default_factory=dict)
    aborted: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    rejected: list[str] = field(default_factory=list)
    born: int = 0
    life: int = 1
    taken_in: dict[str, tuple[str, int]] = field(default_factory=dict)
    to_go_on: deque[str] = field(default_factory=deque)
    everyone: list[ToyWorker] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recorded = RecordedCoordinator(
            CoordinatorState(self.plan, self.context, PAGE, self.ways), lambda: self.now
        )
        self.coordinator = self.recorded.state
        for node in self.coordinator.nodes:
            self.join(node)
        self.settle()

    # what hypothesis (or a test) does

    def submit(self, prompt: tuple[int, ...], max_tokens: int, owner: str | None = None) -> str:
        constraint = Constraint.regex("") if len(self.asked) % 2 else None  # the toy model goes by none
        pooling = None if max_tokens else POOLINGS[len(self.asked) % len(POOLINGS)]
        scored = 0 if len(self.asked) % 3 == 0 else None
        sampling = SamplingParams(constraint=constraint, prompt_logprobs=scored, pooling=pooling)
        request = GenerationRequest(
            f"r{len(self.asked)}",
            prompt,
            max_tokens,
            sampling,
            frozenset({STOP_TOKEN}),
            owner=owner,
            traceparent=TRACEPARENT if len(self.asked) % 2 else None,
        )
        try:
            actions = self.recorded.submit(request)
        except RequestError as refused:
            self.outcomes.append(refused)
            raise
        self.asked[request.id] = request
        self.answers[request.id] = []
        self._coordinate(actions)
        return request.id

    def cancel(self, request: str) -> None:
        self.cancelled.add(request)
        self._coordinate(self.recorded.cancel(request))

    def join(self, node: str) -> None:
        self.born += 1
        worker = ToyWorker(node, f"toy://{node}/{self.born}", greeting=self.born)
        self.workers[worker.address] = worker
        self.everyone.append(worker)
        self._greet(worker)

    def _greet(self, worker: ToyWorker) -> None:
        if worker.greeting is None:
            self.born += 1
            worker.greeting = self.born
        self._send(worker.address, COORDINATOR, Hello(worker.node, worker.address, worker.greeting))

    def says(self, node: str, message: Message) -> None:
        """A worker sends something, which arrives at once."""
        self._coordinate(self.recorded.on_message(message, self.now))

    def life_of(self, node: str) -> int:
        """What tells the worker of a node from others."""
        return next(worker.life for worker in self.workers.values() if worker.node == node)

    def kill(self, node: str) -> None:
        """The process ends; what it sent may still arrive, what was sent to it does not."""
        self.workers = {address: worker for address, worker in self.workers.items() if worker.node != node}
        self._coordinate(self.recorded.on_exit(node, "killed"))

    def change(self, placement: dict[str, LayerRange], without: Collection[str] = (), **runtime: Any) -> None:
        """Let a plan with another placement take over, and start the workers that it needs beside those of now. It does
        ``without`` some nodes for a while."""
        kv_tokens = self.plan.stages[0].kv_tokens
        try:
            actions = self.recorded.begin_change(
                toy_plan(placement, self.plan.num_layers, kv_tokens, self.windows, **self.runtime | runtime), without
            )
        except DeploymentError as refused:
            self.outcomes.append(refused)
            raise
        self._coordinate(actions)
        known = {worker.node for worker in self.everyone}
        for node in self.coordinator.nodes:
            if node not in known:
                self.join(node)

    def give_up_change(self, why: str) -> None:
        """Let no plan take over that was about to."""
        self._coordinate(self.recorded.give_up_change(why))

    def drain(self, node: str, drained: bool) -> None:
        """Send no requests to a node any more, or do again."""
        try:
            actions = self.recorded.drain(node, drained)
        except DeploymentError as refused:
            self.outcomes.append(refused)
            raise
        self._coordinate(actions)

    @property
    def runtime(self) -> dict[str, Any]:
        """What the job says of its runtime."""
        return self.plan.job.runtime.model_dump(mode="json", exclude_unset=True)

    def restart_coordinator(self, unwritten: int, said_is_lost: bool) -> None:
        """It is killed, and another one takes its place, which knows what the journal has: all but the last few events
        of each request. What the former had said may be lost, too."""
        self._replay_coordinator()
        self.life += 1
        self.recorded = RecordedCoordinator(
            CoordinatorState(self.plan, self.context, PAGE, self.ways, self.life), lambda: self.now
        )
        self.coordinator = self.recorded.state
        self.outcomes, self.steps = [], StepWatch()
        if said_is_lost:
            self.wires = {wire: frames for wire, frames in self.wires.items() if wire[0] != COORDINATOR}
        for node, (address, life) in self.taken_in.items():
            self._coordinate(self.recorded.take_over(node, address, life))
        for name, events in self.answers.items():
            del events[max(0, len(events) - unwritten) :]
            is_over = bool(events) and events[-1].finish is not None
            if not is_over and name not in self.aborted and name not in self.cancelled and name not in self.to_go_on:
                self.to_go_on.append(name)
        self._let_go_on()

    def _let_go_on(self) -> bool:
        """Submit what a former coordinator had accepted, as far as there is room; whether any was."""
        done = False
        while self.to_go_on:
            name = self.to_go_on[0]
            tokens = tuple(event.token for event in self.answers[name] if event.token is not None)
            try:
                actions = self.recorded.submit(replace(self.asked[name], so_far=tokens))
            except RequestError as refused:
                self.outcomes.append(refused)
                if refused.status != 429:
                    raise
                return done
            self.to_go_on.popleft()
            self._coordinate(actions)
            done = True
        return done

    def _make_themselves_heard(self) -> bool:
        """Two seconds pass: workers that nobody has welcomed greet again, the others say that they are there, and who
        is dead is noticed. Whether that is of any use."""
        nodes = self.coordinator.nodes_state.nodes
        found = [worker for worker in self.workers.values() if worker.node in nodes]
        if all(nodes[worker.node].state == "ready" for worker in found):
            return False
        self.now += HEARTBEAT_S
        for worker in found:
            if worker.recorded is None:
                self._greet(worker)
            elif nodes[worker.node].state != "waiting":
                if worker.greeting is not None or not self._is_answered(worker):
                    self._greet(worker)
                self._send(worker.address, COORDINATOR, Heartbeat(worker.node, life=worker.life))
                if worker.engine is not None and worker.greeting is None:
                    self._say_ready(worker)
        return True

    def _say_ready(self, worker: ToyWorker) -> None:
        assert worker.engine is not None
        speed = None if self.plan.job.runtime.speculation is None else DRAFTING
        self._send(worker.address, COORDINATOR, Ready(worker.node, worker.engine.kv_tokens, speed, worker.life))

    def _is_answered(self, worker: ToyWorker) -> bool:
        """Whether what the coordinator sends to a worker's node reaches that worker: one that hears nothing greets."""
        address = self.coordinator.nodes_state.nodes[worker.node].address
        return address is None or same_endpoint(address) == worker.address

    def _look_for_steps(self) -> bool:
        """Some time passes, and workers are asked for steps that are late; whether there are any steps."""
        running = list(self.coordinator.requests_state.steps())
        self.now += self.plan.job.runtime.lost_after / 2
        for worker in self.workers.values():
            if worker.recorded is None:
                self._greet(worker)  # nobody has welcomed it, and it says nothing else until then
            else:
                self._send(worker.address, COORDINATOR, Heartbeat(worker.node, life=worker.life))
        for question in self.steps.look(running, self.now):
            self._send(COORDINATOR, question.address, question.message)
        return bool(running)

    def serving(self) -> list[str]:
        """Where the workers listen that serve and are known to."""
        nodes = self.coordinator.nodes_state.nodes
        return sorted(
            address
            for address, worker in self.workers.items()
            if worker.node in nodes and nodes[worker.node].state == "ready" and nodes[worker.node].life == worker.life
        )

    def reach_all_but(self, address: str, unreachable: tuple[str, ...] = ()) -> None:
        """A worker says whom it doesn't reach."""
        worker = self.workers[address]
        self._send(address, COORDINATOR, Heartbeat(worker.node, life=worker.life, unreachable=unreachable))

    def under_way(self) -> list[tuple[tuple[Wire, int], str]]:
        """Where each message is that hasn't arrived, and of which kind it is."""
        return [
            ((wire, at), decode(frames, "secret").TAG)
            for wire in self.busy_wires()
            for at, frames in enumerate(self.wires[wire])
        ]

    def lose(self, wire: Wire, at: int) -> None:
        """A message never arrives."""
        del self.wires[wire][at]

    def repeat(self, wire: Wire, at: int) -> None:
        """A message comes twice."""
        self.wires[wire].append(self.wires[wire][at])

    def hold_back(self, wire: Wire) -> None:
        """The message that is the next to arrive does so last."""
        self.wires[wire].rotate(-1)

    def busy_wires(self) -> list[Wire]:
        return sorted(wire for wire, frames in self.wires.items() if frames)

    def deliver(self, wire: Wire) -> None:
        frames = self.wires[wire].popleft()
        message = decode(frames, "secret")
        if wire[1] == COORDINATOR:
            if isinstance(message, Located):
                if self.steps.on_located(message, self.now):
                    self._coordinate(self.recorded.on_lost_step(message.request, self.now))
                return
            if isinstance(message, Rejected):
                self.rejected.append(message.reason)
            self._coordinate(self.recorded.on_message(message, self.now))
            if isinstance(message, Hello):
                node = self.coordinator.nodes_state.nodes.get(message.node)
                if node is not None and (node.address, node.life) == (message.address, message.life):
                    self.taken_in[message.node] = (message.address, message.life)
        elif (receiver := same_endpoint(wire[1])) in self.workers:
            self._hear(self.workers[receiver], message)

    def compute(self, address: str) -> bool:
        worker = self.workers[address]
        if worker.recorded is None or worker.engine is None:
            return False
        steps = worker.recorded.next_batch()
        if steps:
            worker.outcomes.append([])
            results = worker.engine.run(steps)
            self._work(worker, worker.recorded.on_results(steps, results))
            if (self.life > 1 or self.lossy) and any(result.kv_full for result in results):
                self._make_room(worker)
        return bool(steps)

    def _make_room(self, worker: ToyWorker) -> None:
        """Free what nobody runs any more, as a worker does with what has been idle for long."""
        wanted = {request.key for request in self.coordinator.requests_state.requests.values()}
        assert worker.recorded is not None
        assert worker.engine is not None
        for key in [key for key in worker.engine.lengths if key not in wanted]:
            if worker.recorded.state.state_of(key) == "held":
                self._work(worker, worker.recorded.on_malformed(key))

    def settle(self) -> None:
        """Let everything run to its end, in a fixed order."""
        moved, rounds = True, 0
        while moved:
            moved = False
            for wire in self.busy_wires():
                self.deliver(wire)
                moved = True
            for address in sorted(self.workers):
                moved = self.compute(address) or moved
            if not moved and (self.life > 1 or self.lossy):
                moved = self._let_go_on() or self._make_themselves_heard()
                if self.coordinator.nodes_state.silent(self.now):
                    self._coordinate(self.recorded.tick(self.now))
                    moved = True  # who is taken for lost is heard again before more time passes
                rounds += 1
                assert rounds < 200, f"nobody gets on: {self.coordinator.snapshot()}"
            if not moved and (due_s := self.coordinator.next_due_s) is not None:
                self.now = max(self.now, due_s)
                self._coordinate(self.recorded.on_due(self.now))
                moved = True
            if not moved and (self.life > 1 or self.lossy):
                moved = self._look_for_steps()

    def forget_prefix(self, address: str, request: str) -> None:
        """A worker loses what it was to keep, and nobody hears of it."""
        worker = self.workers[address]
        assert worker.recorded is not None
        self._work(worker, worker.recorded.on_release(Release(request)))

    def drop_prefixes(self) -> None:
        """Let go of all that is kept, as when every node were full."""
        for node in self.coordinator.nodes:
            self._act(self.coordinator.requests_state.drop_prefixes(node))
        self.settle()

    def pages(self) -> dict[str, int]:
        """Tokens of KV cache in use on every node that is up, by its worker's own account."""
        return {worker.node: worker.engine.pool.used_pages * PAGE for worker in self.workers.values() if worker.engine}

    def counted(self) -> dict[str, int]:
        """The same by the coordinator's account, when nothing runs."""
        ledger = self.coordinator.ledger
        return {node: ledger.used.get(node, 0) + ledger.kept.get(node, 0) for node in self.pages()}

    def leftovers(self) -> Mapping[str, object]:
        """What should be gone once every answer is and no prefix is kept: KV, requests in states, reservations."""
        engines = {a: w.engine.lengths for a, w in self.workers.items() if w.engine and w.engine.lengths}
        pools = {node: tokens for node, tokens in self.pages().items() if tokens}
        states = {a: w.state.requests for a, w in self.workers.items() if w.state and w.state.requests}
        ledger = self.coordinator.ledger
        counts = {
            f"{kind} {node}": tokens
            for kind, by_node in (("used", ledger.used), ("kept", ledger.kept), ("grown", ledger.grown))
            for node, tokens in by_node.items()
            if tokens
        }
        status = self.coordinator.snapshot()
        open_requests = {"waiting": status.waiting, "running": status.running}
        return engines | pools | states | counts | {name: count for name, count in open_requests.items() if count}

    def replay(self) -> None:
        """All machines that ever were do the same again, by their logs."""
        self._replay_coordinator()
        for worker in self.everyone:
            if worker.recorded is not None:
                steps: Any = replay(worker.recorded.events.read()).steps
                assert [plain(done, False) for _, done in steps] == [plain(done, False) for done in worker.outcomes]

    def _replay_coordinator(self) -> None:
        again: Any = replay(self.recorded.events.read())
        assert [plain(done, True) for _, done in again.steps] == [plain(done, True) for done in self.outcomes]
        assert again.state.snapshot() == self.coordinator.snapshot()

    # how it moves

    def _hear(self, worker: ToyWorker, message: Message) -> None:
        if isinstance(message, Welcome):
            if message.life != worker.greeting:
                if message.life == worker.life:  # to the life that it had: it is to greet again
                    self._greet(worker)
                return
            worker.life, worker.greeting = message.life, None
            if worker.recorded is not None:
                self._work(worker, worker.recorded.forget_all())
            worker.engine = worker.engine or ToyEngine(
                message.num_layers, message.kv_tokens, message.layers, message.kv_window, self.windows
            )
            # Bulk is free to arrive sooner or later than all else, which contains that it goes with the rest.
            apart = self.coordinator.nodes
            worker.state = worker.state or WorkerState(
                worker.node,
                COORDINATOR,
                message.num_layers,
                4,
                8,
                apart=frozenset(apart),
                kv_window=message.kv_window,
                page_tokens=PAGE,
            )
            worker.recorded = worker.recorded or RecordedWorker(worker.state, lambda: self.now)
            self._say_ready(worker)
        elif isinstance(message, Stop):
            del self.workers[worker.address]
        elif worker.recorded is not None:
            match message.TAG:
                case "forward":
                    self._work(worker, worker.recorded.on_forward(message))  # type: ignore[arg-type]
                case "release":
                    self._work(worker, worker.recorded.on_release(message))  # type: ignore[arg-type]
                case "locate":
                    assert isinstance(message, Locate)
                    self._send(worker.address, COORDINATOR, worker.recorded.state.located(message.request))

    def _coordinate(self, actions: list[CoordinatorAction]) -> None:
        self.coordinator.validate()
        self.outcomes.append(actions)
        self._act(actions)

    def _act(self, actions: list[CoordinatorAction]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._send(COORDINATOR, action.address, action.message, action.bulk)
                case Deliver():
                    self._check_scores(action)
                    self._check_pooled(action)
                    self.answers[action.request].append(action.event)
                case Abort():
                    assert action.request not in self.aborted
                    self.aborted[action.request] = str(action.error)
                case IllegalEventSeen():
                    assert self.lossy, action.error

    def _check_scores(self, action: Deliver) -> None:
        """The scores of a prompt come with the first of its answer, all and right, where they were asked for."""
        asked = self.asked[action.request]
        wanted = asked.sampling.prompt_logprobs is not None and not self.answers[action.request]
        expected = tuple(toy_score(at, token) for at, token in enumerate(asked.prompt) if at) if wanted else None
        assert action.event.prompt_scores == expected, f"{action.request}: {action.event.prompt_scores}"

    def _check_pooled(self, action: Deliver) -> None:
        """Of a prompt's hidden states come the sums that were asked for, of each token once."""
        asked = self.asked[action.request]
        hidden = list(asked.prompt)
        for layer in range(self.coordinator.plan.num_layers):
            hidden = toy_layer(layer, hidden, [], self.windows)
        expected = {"mean": sum(hidden), "last": hidden[-1], None: 0}[asked.sampling.pooling]
        assert sum(float(np.frombuffer(one, "<f4")[0]) for one in action.event.pooled) == expected

    def _work(self, worker: ToyWorker, actions: list[WorkerAction]) -> None:
        worker.outcomes.append(actions)
        assert worker.state is not None
        worker.state.validate()
        for action in actions:
            assert worker.engine is not None
            match action:
                case Send():
                    self._send(worker.address, action.address, action.message, action.bulk)
                case Free():
                    worker.engine.release(action.request)
                case Fork():
                    worker.engine.fork(action.parent, action.child, action.tokens)
                case Trim():
                    worker.engine.trim(action.request, action.tokens)
                case IllegalEventSeen():
                    assert self.lossy, action.error
        if worker.engine is not None:
            worker.engine.pool.validate()

    def _send(self, sender: str, receiver: str, message: Message, bulk: bool = False) -> None:
        frames = [bytes(frame) for frame in encode(message, "secret")]
        self.wires.setdefault((sender, receiver, bulk), deque()).append(frames)


def toy_speculation(num_layers: int, windows: tuple[int, ...], drafts: int) -> dict[str, Any] | None:
    """The section of a job in which the toy drafter drafts so many tokens; none with 0."""
    if not drafts:
        return None
    options = {"layers": num_layers, "windows": windows}
    return {"drafter": "toy", "drafts": drafts, "options": options, "acceptance": 0.9}
