"""The workers of a job as its coordinator sees them: who has joined, how far each is, who has fallen silent.

Doesn't know requests: what the loss of a worker means for them is ``coordinator.state``'s to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from helix_df.graph.flow import Hop
from helix_df.graph.problem import Placement
from helix_df.layers import LayerRange
from helix_df.plan.plan import Stage
from helix_df.runtime.requests import NEW_ENGINE, EngineHealth, NodeState, NodeStatus, StageSpeed
from helix_df.runtime.wire.messages import LOST_AFTER_S, Heartbeat, Hello, Loading, Ready


@dataclass(slots=True)
class FleetNode:
    """One node: what it is to hold, and its worker. ``heard`` (s, monotonic) is when it last spoke."""

    layers: LayerRange
    kv_tokens: int
    tokens_per_s: float
    state: NodeState = "waiting"
    address: str | None = None
    pid: int | None = None
    progress: float = 0.0
    detail: str = ""
    heard: float = 0.0
    health: EngineHealth = NEW_ENGINE
    memory_bytes: int = 0
    speed: StageSpeed | None = None

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
            compiled_programs=self.health.compiled_programs,
            memory_bytes=self.memory_bytes,
        )


@dataclass(slots=True)
class Fleet:
    """Nodes by name, and whether all of them were once up together."""

    nodes: dict[str, FleetNode] = field(default_factory=dict)
    was_ready: bool = False

    @classmethod
    def of(cls, stages: Iterable[Stage]) -> Fleet:
        """Nobody has joined yet."""
        return cls({stage.node: FleetNode(stage.layers, stage.kv_tokens, stage.tokens_per_s) for stage in stages})

    @property
    def placement(self) -> Placement:
        """Layers of the nodes."""
        return {name: node.layers for name, node in self.nodes.items()}

    @property
    def all_up(self) -> bool:
        """Whether every worker serves."""
        return all(node.state == "ready" for node in self.nodes.values())

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where workers listen that have joined."""
        return tuple(node.address for node in self.nodes.values() if node.address is not None)

    def is_up(self, name: str) -> bool:
        """Whether the node's worker serves."""
        return self.nodes[name].state == "ready"

    def address(self, name: str) -> str:
        """Where the worker of a node that is up listens."""
        address = self.nodes[name].address
        assert address is not None, f"{name} is up without an address"
        return address

    def step_s(self, hop: Hop) -> float:
        """Seconds of a decode step, as its worker timed one before it served; else what the plan makes of a token."""
        node = self.nodes[hop.node]
        whole_s = node.speed.decode_s if node.speed is not None else 1 / node.tokens_per_s
        return whole_s * len(hop.layers) / len(node.layers)

    def refusal(self, hello: Hello, now: float) -> str | None:
        """Why this worker can't serve the node, if it can't."""
        node = self.nodes.get(hello.node)
        if node is None:
            return "the plan gives this node no layers to serve"
        if self._moved(hello) and now - node.heard < LOST_AFTER_S:
            return "another worker serves this node already"
        return None

    def starts_over(self, hello: Hello) -> bool:
        """Whether this worker has forgotten its requests, or will."""
        return self._moved(hello) or self.is_up(hello.node)

    def join(self, hello: Hello, now: float) -> FleetNode:
        """Take a worker in."""
        node = self.nodes[hello.node]
        if node.address is None:
            node.state, node.progress, node.detail = "joined", 0.0, ""
        node.address, node.pid, node.heard = hello.address, hello.pid, now
        return node

    def hear(self, message: Loading | Ready | Heartbeat) -> None:
        """Note what a worker says of itself."""
        node = self.nodes[message.node]
        match message:
            case Loading():
                node.state = "compiling" if message.state == "compiling" else "loading"
                node.progress, node.detail = message.progress, message.detail
            case Ready():
                node.state, node.progress, node.detail = "ready", 1.0, ""
                node.speed = message.speed or node.speed
                self.was_ready = self.was_ready or self.all_up
            case Heartbeat():
                node.health, node.memory_bytes = message.health, message.memory_bytes

    def lose(self, name: str, why: str) -> None:
        """Give a worker up."""
        node = self.nodes[name]
        node.state, node.detail, node.address = "lost", why, None

    def silent(self, now: float) -> dict[str, str]:
        """Workers that have said nothing for too long, and how long."""
        present = ("joined", "loading", "compiling", "ready")
        quiet = {name: now - node.heard for name, node in self.nodes.items() if node.state in present}
        return {name: f"silent for {quiet_s:.0f} s" for name, quiet_s in quiet.items() if quiet_s > LOST_AFTER_S}

    def _moved(self, hello: Hello) -> bool:
        return self.nodes[hello.node].address not in (None, hello.address)
