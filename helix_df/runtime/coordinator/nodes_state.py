"""The workers of a job as its coordinator sees them: who has joined, how far each is, who has fallen silent.

Event and time in, actions out. Doesn't know requests: what it means for them that a worker is up or down is
``requests_state``'s to say.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from helix_df.graph.flow import Hop
from helix_df.graph.problem import Placement
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, Stage
from helix_df.plan.takeover import Spare, both
from helix_df.profiles.kv_windows import ALIKE, KvShape
from helix_df.rules.measured_links import LinkSeen
from helix_df.rules.speculation import further_token_s
from helix_df.runtime.requests import (
    NEW_ENGINE,
    EngineHealth,
    NodeRole,
    NodeState,
    NodeStatus,
    StageSpeed,
    what_is_missing,
)
from helix_df.runtime.transitions import IllegalEvent, TransitionTable
from helix_df.runtime.wire.keys import newly_connected, same_endpoint
from helix_df.runtime.wire.messages import (
    Failed,
    Heartbeat,
    Hello,
    JobChanged,
    Loading,
    Ready,
    Send,
    Stop,
    Welcome,
    heartbeat_s,
)
from helix_df.spec.job import Job

NodeEvent = Literal["hello", "loading", "compiling", "ready", "heartbeat", "exit", "silence", "take_over"]
"""``take_over``: a worker served it for a coordinator before this one. ``exit``: its worker has failed or is gone.
A worker that is refused, since another serves the node, is no event."""

NODE: TransitionTable[NodeState, NodeEvent] = TransitionTable(
    "node",
    "waiting",
    {
        # Who served a coordinator that left no journal greets once nobody has answered for a while.
        "waiting": {
            "hello": "joined",
            "exit": "failed",
            "take_over": "lost",
            "heartbeat": "waiting",
            "loading": "waiting",
            "compiling": "waiting",
            "ready": "waiting",
        },
        "joined": {
            "hello": "joined",
            "heartbeat": "joined",
            "loading": "loading",
            "compiling": "compiling",
            "ready": "ready",
            "silence": "lost",
            "exit": "failed",
        },
        "loading": {
            "loading": "loading",
            "heartbeat": "loading",
            "hello": "joined",
            "compiling": "compiling",
            "ready": "ready",
            "silence": "lost",
            "exit": "failed",
        },
        "compiling": {
            "compiling": "compiling",
            "heartbeat": "compiling",
            "hello": "joined",
            "ready": "ready",
            "silence": "lost",
            "exit": "failed",
        },
        "ready": {"ready": "ready", "heartbeat": "ready", "hello": "joined", "silence": "lost", "exit": "failed"},
        # What a worker said before it was given up may still be on its way.
        "lost": {
            "hello": "joined",
            "loading": "lost",
            "compiling": "lost",
            "ready": "lost",
            "heartbeat": "joined",
            "exit": "failed",
        },
        "failed": {
            "hello": "joined",
            "loading": "failed",
            "compiling": "failed",
            "ready": "failed",
            "heartbeat": "failed",
            "exit": "failed",
        },
    },
)
"""What happens to a node. A worker that greets again, in whatever state, begins again; so does one that is heard after
it was given up: it was stopped or cut off for a while, and doesn't know it."""

_HEARTBEATS_TO_BEGIN_AGAIN = 4
"""So many a worker must have left out for another greeting from its address to mean that it begins again."""

WELCOME_AGAIN_S = 0.75
"""A greeting that was answered so lately isn't answered once more."""

LOADS_SILENTLY_S = 30.0
"""So long a worker may be silent that isn't ready yet."""

_MOST_PLACES = 8
"""Workers of a node whose addresses are remembered."""

_AWAY: frozenset[NodeState] = frozenset({"waiting", "lost", "failed"})


@dataclass(frozen=True, slots=True)
class NodeUp:
    """A worker serves, with room for so many tokens of KV cache."""

    node: str
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class NodeDown:
    """A worker serves no more, and why; what it held is gone."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class HopsChanged:
    """Other hops than before carry nothing, though their nodes are up."""


NodeAction = Send | NodeUp | NodeDown | HopsChanged


@dataclass(slots=True)
class ServedNode:
    """One node: what it is to hold, and its worker. ``heard`` (s, monotonic) is when it last spoke,
    ``welcomed`` when its greeting was last answered, ``life`` what tells it from others that say to be this node's;
    ``places`` are where those listen that did lately, by their lives. ``said_kv_tokens`` is the KV cache that it has,
    ``job`` what its worker is told of the job. One that is ``drained`` gets no new requests. What its worker sends
    doesn't reach the addresses that are ``unreachable``. ``kv_shape`` is as in ``Stage``."""

    layers: LayerRange
    kv_tokens: int
    tokens_per_s: float
    job: Mapping[str, Any] = field(default_factory=dict)
    role: NodeRole = "serving"
    drained: bool = False
    state: NodeState = "waiting"
    address: str | None = None
    last_address: str | None = None
    places: dict[int, str] = field(default_factory=dict)
    life: int | None = None
    said_kv_tokens: int | None = None
    progress: float = 0.0
    detail: str = ""
    heard: float = 0.0
    welcomed: float = -math.inf
    health: EngineHealth = NEW_ENGINE
    memory_bytes: int = 0
    illegal_events: int = 0
    not_finite: int = 0
    speed: StageSpeed | None = None
    unreachable: frozenset[str] = frozenset()
    kv_shape: KvShape = ALIKE
    links: tuple[LinkSeen, ...] = ()

    def place(self, life: int, address: str) -> None:
        """Note where a worker listens: a late word of one that is gone may take the place of one that lives."""
        self.places.pop(life, None)
        self.places[life] = address
        if len(self.places) > _MOST_PLACES:
            del self.places[next(iter(self.places))]

    def move(self, event: NodeEvent, name: str) -> NodeState:
        """Take an event, and say what it makes of the node.

        Raises:
            IllegalEvent: when it can't happen in this state.
        """
        self.state = NODE.after(self.state, event, name)
        return self.state

    def status(self, name: str, *, kv_used: int, kv_kept: int, kv_capacity: int | None, running: int) -> NodeStatus:
        """The node at this moment, with what the coordinator counts on it; ``kv_capacity`` None is as planned."""
        cold = self.health.cold_shapes
        return NodeStatus(
            name=name,
            state=self.state,
            layers=(self.layers.start, self.layers.stop),
            address=self.address,
            progress=self.progress,
            detail=self.detail or (f"{cold} shapes left to compile" if cold else ""),
            cold_shapes=cold,
            speed=self.speed,
            kv_used_tokens=kv_used,
            kv_capacity_tokens=self.kv_tokens if kv_capacity is None else kv_capacity,
            running=running,
            kv_kept_tokens=kv_kept,
            kv_held_tokens=self.health.kv_held_tokens,
            busy_s=self.health.busy_s,
            planned_busy_s=self.health.planned_busy_s,
            compiled_programs=self.health.compiled_programs,
            attention=self.health.attention,
            memory_bytes=self.memory_bytes,
            illegal_events=self.illegal_events,
            not_finite=self.not_finite,
            role=self.role,
            drained=self.drained,
        )


@dataclass(slots=True)
class NodesState:
    """Nodes by name, and whether all of them were once up together. ``failure`` is why the job never came up;
    ``leaving`` are those that only end what they began, ``former`` those whose workers were told to go, and may still
    be heard."""

    plan: Plan
    nodes: dict[str, ServedNode] = field(default_factory=dict)
    former: set[str] = field(default_factory=set)
    leaving: set[str] = field(default_factory=set)
    was_ready: bool = False
    failure: str | None = None
    closed: bool = False

    @classmethod
    def of(cls, plan: Plan, serving: Collection[str], spares: Collection[Spare] = ()) -> NodesState:
        """The nodes that requests may go through, and those that they may go through again; nobody has joined yet."""
        document = document_of(plan.served)
        found = cls(plan, _nodes_of(plan, serving, document))
        for spare in spares:
            # Its host and links are in its own job alone, where it was renamed.
            job = {**document_of(both(spare.job, plan.job)), "runtime": document_of(spare.job)["runtime"]}
            stage = spare.stage
            found.nodes[stage.node] = _served_node(stage, job, "spare")
        return found

    # ------------------------------------------------------------------ what others ask

    @property
    def placement(self) -> Placement:
        """Layers of the nodes."""
        return {name: node.layers for name, node in self.nodes.items()}

    @property
    def all_up(self) -> bool:
        """Whether every worker of the plan serves."""
        return all(node.state == "ready" for node in self.nodes.values() if node.role == "serving")

    def is_up(self, name: str) -> bool:
        """Whether the node's worker serves."""
        return self.nodes[name].state == "ready"

    def takes(self, name: str) -> bool:
        """Whether requests may be sent to the node's worker."""
        node = self.nodes[name]
        return node.state == "ready" and node.role == "serving" and not node.drained

    def address(self, name: str) -> str:
        """Where the worker of a node that is up listens."""
        address = self.nodes[name].address
        assert address is not None, f"{name} is up without an address"
        return address

    def cache_of(self, name: str) -> int:
        """Tokens of KV cache that a node has when it is up: as its worker said last, or as planned."""
        node = self.nodes[name]
        return node.kv_tokens if node.said_kv_tokens is None else node.said_kv_tokens

    @property
    def largest_cache(self) -> int:
        """Tokens of the largest KV cache."""
        return max(map(self.cache_of, self.nodes), default=0)

    def missing_layers(self) -> tuple[tuple[int, int], ...]:
        """Ranges of layers, half-open, that no worker holds who is up."""
        held = sorted((self.nodes[name].layers for name in self.nodes if self.takes(name)), key=lambda it: it.start)
        gaps, done = [], 0
        for layers in [*held, LayerRange(self.plan.num_layers, self.plan.num_layers + 1)]:
            if layers.start > done:
                gaps.append((done, layers.start))
            done = max(done, layers.stop)
        return tuple(gaps)

    def what_is_missing(self) -> str:
        """Why no full path is up, in words."""
        states = {name: node.state for name, node in self.nodes.items() if node.role == "serving"}
        return what_is_missing(states, self.missing_layers(), sorted(self.cut_hops()))

    def cut_hops(self) -> frozenset[tuple[str, str]]:
        """Pairs of nodes that are up, of which the first doesn't reach the second."""
        tails = [(name, node.unreachable) for name, node in self.nodes.items() if node.unreachable]
        if not tails:
            return frozenset()
        heads = {node.address: name for name, node in self.nodes.items() if node.address is not None}
        return frozenset((tail, heads[address]) for tail, away in tails for address in away if address in heads)

    def step_s(self, hop: Hop) -> float:
        """Seconds of a decode step, as its worker timed one before it served; else what the plan makes of a token."""
        node = self.nodes[hop.node]
        whole_s = node.speed.decode_s if node.speed is not None else 1 / node.tokens_per_s
        return whole_s * len(hop.layers) / len(node.layers)

    def token_s(self, hop: Hop) -> float:
        """Seconds that each token more adds to a step, as its worker timed a prompt; else those of one in the plan."""
        node = self.nodes[hop.node]
        speed, whole_s = node.speed, 1 / node.tokens_per_s
        if speed is not None and speed.prefill_tokens > 1:
            whole_s = further_token_s(speed.prefill_s, speed.prefill_tokens, speed.decode_s)
        return whole_s * len(hop.layers) / len(node.layers)

    def silent(self, now: float) -> dict[str, float]:
        """Workers that have said nothing for too long, and for how many seconds."""
        quiet_s = {name: now - node.heard for name, node in self.nodes.items() if node.state not in _AWAY}
        return {name: seconds for name, seconds in quiet_s.items() if seconds > self._patience_s(self.nodes[name])}

    def _patience_s(self, node: ServedNode) -> float:
        """Seconds that a worker may be silent. One that still loads or compiles may leave little time to its own
        heartbeat, and no request waits for it."""
        lost_after_s: float = self.plan.job.runtime.lost_after
        return lost_after_s if node.state == "ready" else max(lost_after_s, LOADS_SILENTLY_S)

    def _hello_after_s(self, node: ServedNode) -> float:
        pause_s = heartbeat_s(len(node.job.get("nodes", ())), self.plan.job.runtime.lost_after)
        return _HEARTBEATS_TO_BEGIN_AGAIN * pause_s

    def validate(self) -> None:
        """Check that those and only those have an address who are here.

        Raises:
            AssertionError: when that is wrong.
        """
        for name, node in self.nodes.items():
            assert (node.address is None) == (node.state in _AWAY), f"{name} is {node.state} at {node.address}"
            assert (node.role == "leaving") == (name in self.leaving), f"{name} is {node.role}"

    # ------------------------------------------------------------------ events

    def on_hello(self, hello: Hello, now: float) -> list[NodeAction]:
        """A worker greets: it is taken in, or told why not."""
        refusal = self._refusal(hello, now)
        if refusal is not None:
            return [Send(hello.address, Failed(hello.node, refusal, hello.life))]
        node = self.nodes[hello.node]
        answered = node.state == "ready" or (node.state not in _AWAY and now - node.welcomed < WELCOME_AGAIN_S)
        if answered and node.life == hello.life:
            # It was answered already, and comes once more or late: who begins anew has another life.
            return [Send(hello.address, Heartbeat(hello.node))]
        is_new = node.state == "ready" or node.life not in (None, hello.life)
        # A worker goes on at once when it is welcomed, unless it had the welcome of another greeting than its own.
        last_s = node.welcomed if node.state == "joined" else node.heard
        if is_new and node.state not in _AWAY and now - last_s < self._hello_after_s(node):
            # Its worker lives and is known, so this is somebody else's; if it began anew, its former self falls silent.
            return [Send(hello.address, Heartbeat(hello.node))]
        # A worker that greets again has forgotten its requests, or will: they start over elsewhere.
        starts_over = self._moved(hello) or node.state == "ready"
        node.move("hello", hello.node)
        node.progress, node.detail = 0.0, ""
        if node.last_address is None or same_endpoint(node.last_address) != hello.address:
            node.last_address = hello.address
        node.address = node.last_address
        node.life, node.heard, node.welcomed, node.unreachable = hello.life, now, now, frozenset()
        node.place(hello.life, hello.address)
        down: list[NodeAction] = [NodeDown(hello.node, "joined again")] if starts_over else []
        return [*down, Send(node.address, self._welcome(hello.node, node))]

    def make_way(self, plan: Plan, coming: Collection[str], job: Job) -> list[Send]:
        """Expect the workers of a plan that is to take over, and tell all others of their nodes.

        Args:
            plan: the new one, under the names of its workers.
            coming: those that have to be started.
            job: with the nodes of both plans.
        """
        told: list[Send] = []
        document = document_of(job)
        for node in self.nodes.values():
            node.job = {**document, "runtime": node.job["runtime"]}  # its rules stay
            if node.address is not None and node.life is not None:
                told.append(Send(node.address, JobChanged(node.job, node.life)))
        served = {**document, "runtime": document_of(plan.served)["runtime"]}
        self.nodes.update(_nodes_of(plan, coming, served, "coming"))
        return told

    def switch(self, plan: Plan, serving: Collection[str], spare: Collection[str] = ()) -> None:
        """Let a plan take over: requests go to its workers alone from now on. ``spare`` are those that may stay, or
        come back, without any."""
        self.plan = plan
        for name, node in self.nodes.items():
            node.role = "serving" if name in serving else "spare" if name in spare else "leaving"
        self.leaving = {name for name, node in self.nodes.items() if node.role == "leaving"}

    def dismiss(self, names: Iterable[str]) -> list[Send]:
        """Let workers go, and forget their nodes."""
        gone = {name: self.nodes.pop(name) for name in names}
        self.former |= gone.keys()
        self.leaving -= gone.keys()
        return [Send(node.address, Stop(node.life or 0)) for node in gone.values() if node.address is not None]

    def drain(self, name: str, drained: bool) -> None:
        """Send no new requests to a node, or do again."""
        self.nodes[name].drained = drained

    def flag_not_finite(self, name: str) -> None:
        """Count a request that a node computed NaN or infinity for."""
        node = self.nodes.get(name)
        if node is not None:
            node.not_finite += 1

    def on_progress(self, message: Loading | Ready | Heartbeat, now: float) -> list[NodeAction]:
        """A worker says how it is.

        Raises:
            IllegalEvent: when it is too early for that, or there is no such node.
        """
        if message.node in self.former:
            return []
        node = self._node(message.node, message.TAG)
        if isinstance(message, Heartbeat | Ready) and self._is_another(node, message):
            return []
        if isinstance(message, Ready) and node.life is None:
            return []  # it was called back and is to greet first, which says where it listens
        before = node.state
        match message:
            case Loading():
                state = node.move("compiling" if message.state == "compiling" else "loading", message.node)
            case Ready():
                state = node.move("ready", message.node)
            case Heartbeat():
                state = node.move("heartbeat", message.node)
        if isinstance(message, Heartbeat) and state == "joined":
            called = before == "joined" and (node.life is not None or now - node.welcomed < WELCOME_AGAIN_S)
            if not called:  # or the welcome that calls it back was lost
                return self._take_back(message.node, node, now, message.life)
        if state in _AWAY or node.address is None:
            return []
        node.heard = now
        if isinstance(message, Ready) and before == "ready":
            return []  # it didn't know yet that it was heard
        return self._note(node, node.address, message, now)

    def on_exit(self, name: str, words: str) -> list[NodeAction]:
        """A worker is gone; ``words`` are its last. Before the job was first up, that is the end of it.

        Raises:
            IllegalEvent: when there is no such node.
        """
        if self.closed or name in self.former:
            return []
        node = self._node(name, "exit")
        was_away = node.state in ("lost", "failed")
        node.move("exit", name)
        if was_away:
            node.detail = words
            return []
        if not self.was_ready and node.role == "serving":
            self.failure = self.failure or f"worker {name} failed: {words}"
        return self._lose(name, words)

    def tick(self, now: float) -> list[NodeAction]:
        """Notice workers that have been silent for too long."""
        actions: list[NodeAction] = []
        for name, silent_s in self.silent(now).items():
            self.nodes[name].move("silence", name)
            actions += self._lose(name, f"silent for {silent_s:.0f} s")
        return actions

    def take_over(self, name: str, address: str, life: int) -> list[Send]:
        """A worker served this node for a coordinator before this one, and perhaps still does: it is told to greet."""
        node = self._node(name, "take_over")
        node.move("take_over", name)
        node.last_address, node.life, node.detail = address, life, "was taken over, and isn't heard yet"
        node.place(life, address)
        self.was_ready = True
        return [Send(address, self._welcome(name, node))]

    def close(self) -> list[Send]:
        """Tell every worker to exit."""
        self.closed = True
        return [Send(node.address, Stop(node.life or 0)) for node in self.nodes.values() if node.address is not None]

    def _note(
        self, node: ServedNode, address: str, message: Loading | Ready | Heartbeat, now: float
    ) -> list[NodeAction]:
        match message:
            case Loading():
                node.progress, node.detail = message.progress, message.detail
                return []
            case Ready():
                node.progress, node.detail = 1.0, ""
                node.speed, node.said_kv_tokens = message.speed or node.speed, message.kv_tokens
                self.was_ready = self.was_ready or self.all_up
                return [NodeUp(message.node, message.kv_tokens)]
            case Heartbeat():
                node.health, node.memory_bytes = message.health, message.memory_bytes
                node.illegal_events, node.links = message.illegal_events, message.links
                known, away = node.life if node.state == "ready" else None, frozenset(message.unreachable)
                answer = Send(address, Heartbeat(message.node, life=known or 0, clock_s=now))
                if node.unreachable == away:
                    return [answer]
                node.unreachable = away
                return [answer, HopsChanged()]

    def _take_back(self, name: str, node: ServedNode, now: float, life: int) -> list[NodeAction]:
        """A worker that was given up is heard: what it holds of requests is over, its weights are not.

        It is told to greet again, by a welcome to the life that it says to have.
        """
        assert node.last_address is not None, f"{name} was lost before it had joined"
        place = node.places.get(life)
        if place is not None and same_endpoint(place) != same_endpoint(node.last_address):
            node.last_address = place
        node.address, node.heard, node.welcomed, node.detail = node.last_address, now, now, ""
        node.life = life or node.life
        told = Stop(node.life or 0) if self.closed else self._welcome(name, node)
        node.life = None
        return [Send(node.address, told)]

    def _lose(self, name: str, why: str) -> list[NodeAction]:
        node = self.nodes[name]
        if node.address is not None:
            node.last_address = newly_connected(node.address)  # those of now may be stuck, on a link that was cut
        node.detail, node.address, node.unreachable = why, None, frozenset()
        return [NodeDown(name, why)]

    def _welcome(self, name: str, node: ServedNode) -> Welcome:
        return Welcome(
            name, node.layers, self.plan.num_layers, node.kv_tokens, node.job, node.life or 0, node.kv_shape.window
        )

    def _refusal(self, hello: Hello, now: float) -> str | None:
        """Why this worker can't serve the node, if it can't."""
        node = self.nodes.get(hello.node)
        if node is None:
            return "the plan gives this node no layers to serve"
        if node.role == "leaving" and node.state in _AWAY:
            return "another plan has taken over"
        if self._moved(hello) and node.life is not None and now - node.heard < self._patience_s(node):
            return "another worker serves this node already"
        return None

    @staticmethod
    def _is_another(node: ServedNode, message: Heartbeat | Ready) -> bool:
        """Whether a heartbeat, or a word that it serves, is that of another worker than the one which was taken in, or
        of its life before: neither says that this one lives."""
        return node.state not in _AWAY and node.life is not None and message.life not in (0, node.life)

    def _moved(self, hello: Hello) -> bool:
        address = self.nodes[hello.node].address
        return address is not None and same_endpoint(address) != hello.address

    def _node(self, name: str, event: str) -> ServedNode:
        node = self.nodes.get(name)
        if node is None:
            raise IllegalEvent("node", name, "not in the plan", event)
        return node


def document_of(job: Job) -> dict[str, Any]:
    """What a worker is told of a job."""
    return job.model_dump(mode="json", exclude_none=True)


def _nodes_of(
    plan: Plan, names: Collection[str], job: Mapping[str, Any], role: NodeRole = "serving"
) -> dict[str, ServedNode]:
    stages = (stage for stage in plan.stages if stage.node in names)
    return {stage.node: _served_node(stage, job, role) for stage in stages}


def _served_node(stage: Stage, job: Mapping[str, Any], role: NodeRole) -> ServedNode:
    return ServedNode(stage.layers, stage.kv_tokens, stage.tokens_per_s, job, role, kv_shape=stage.kv_shape)
