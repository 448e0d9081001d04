"""A worker's decisions: which steps to run next, and where their results go. No I/O, no clock, no tensor is computed.

Steps wait in two queues. A batch takes decode steps first, since somebody is reading along, and fills up with prompt
pieces under a token budget. A request has at most one step in a batch, and its steps run in the order they came. Of the
decode steps that enter their pipeline here a batch takes only a share, so that the other stages work meanwhile.

A request may begin with pages of another that runs here or whose beginning was kept. How many tokens of each are
computed is counted here, so that nobody begins with pages that hold something else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from helix_df.codecs import Codec
from helix_df.errors import ProtocolError
from helix_df.rules.batching import takes_decodes, takes_piece
from helix_df.rules.micro_batches import Entrance
from helix_df.runtime.wire.messages import Forward, Rejected, Release, Route, Sampled, Send
from helix_df.runtime.worker.steps import Step, StepResult

MOST_RELEASED = 10_000
"""Releases to remember of requests that have not been here yet; a late step is never that late."""


@dataclass(frozen=True, slots=True)
class Free:
    """Free the KV cache of a request."""

    request: str


@dataclass(frozen=True, slots=True)
class Fork:
    """Let ``child`` begin with the KV cache of the first ``tokens`` tokens of ``parent``."""

    parent: str
    child: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Trim:
    """Free the KV cache of a request but for that of its first ``tokens`` tokens."""

    request: str
    tokens: int


WorkerAction = Send | Free | Fork | Trim


@dataclass(frozen=True, slots=True)
class _Held:
    """A request whose KV cache lives here: its route, and which hop of it this worker is."""

    route: Route
    hop: int


@dataclass(slots=True)
class WorkerState:
    """What one worker knows of the requests it serves.

    ``max_batch`` bounds the steps of a batch, ``max_prefill_tokens`` the prompt tokens in it (a single longer piece
    still runs, alone). ``codecs`` are those of the links to other nodes, where there is one.
    """

    node: str
    coordinator: str
    num_layers: int
    max_batch: int
    max_prefill_tokens: int
    codecs: Mapping[str, Codec] = field(default_factory=dict)
    _held: dict[str, _Held] = field(default_factory=dict)
    _decode: deque[Forward] = field(default_factory=deque)
    _prefill: deque[Forward] = field(default_factory=deque)
    _running: dict[str, Forward] = field(default_factory=dict)
    _released: dict[str, None] = field(default_factory=dict)
    _entrance: Entrance = field(init=False)
    _computed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._entrance = Entrance(self.max_batch)

    @property
    def requests(self) -> int:
        """Requests that are served here."""
        return len(self._held)

    @property
    def kept(self) -> tuple[str, ...]:
        """Requests that are over, and of whose KV cache the beginning lives on."""
        return tuple(request for request in self._computed if request not in self._held)

    @property
    def idle(self) -> bool:
        """Whether no step could run now."""
        if self._prefill:
            return False
        return not self._decode or (self._entrance.room() == 0 and all(map(self._enters, self._decode)))

    def on_forward(self, message: Forward) -> list[WorkerAction]:
        """Queue a step; a request's first may begin with the KV cache of another.

        A request that was released or rejected is not known any more; its late steps are dropped. So is one whose
        prefix isn't here, and the coordinator is told to try it again.

        Raises:
            ProtocolError: when the route doesn't lead through this worker.
        """
        if message.request in self._released:
            return []
        actions: list[WorkerAction] = []
        if message.route is not None:
            hop, prefix = self._hop(message.route), message.route.prefix
            if prefix is not None and self._computed.get(prefix.parent, 0) < prefix.tokens:
                return [Send(self.coordinator, Rejected(message.request, self.node, "no_prefix"))]
            self._held[message.request] = _Held(message.route, hop)
            self._computed[message.request] = message.position
            if hop == 0:
                self._entrance.enter(message.request, message.route.micro_batches)
            if prefix is not None:
                actions.append(Fork(prefix.parent, message.request, prefix.tokens))
        if message.request not in self._held:
            return []
        # The last piece of a prompt may be one token long, and must not overtake the pieces before it.
        in_pieces = any(waiting.request == message.request for waiting in self._prefill)
        decode = message.route is None and len(message.tensor) == 1 and not in_pieces
        self._entrance.back(message.request)
        (self._decode if decode else self._prefill).append(message)
        return actions

    def on_release(self, message: Release) -> list[WorkerAction]:
        """Forget a request, the steps that still wait included, and all or the rest of its KV cache."""
        if message.request not in self._computed:
            # Its first step may still be on the way from another worker, and must find the door closed.
            self._released[message.request] = None
            if len(self._released) > MOST_RELEASED:
                del self._released[next(iter(self._released))]
        return self._forget(message.request, message.keep)

    def forget_all(self) -> list[WorkerAction]:
        """Forget every request, and what is kept of those that are over."""
        return [action for request in tuple(self._computed) for action in self._forget(request)]

    def next_batch(self) -> tuple[Step, ...]:
        """Take the steps to run now; empty when nothing waits. Their results come to ``on_results`` before the next."""
        taken = self._take_decodes()
        budget = self.max_prefill_tokens
        while self._prefill:
            piece = self._prefill[0]
            room = self.max_batch - len(taken)
            fits = takes_piece(len(piece.tensor), room, budget, self.max_prefill_tokens)
            if piece.request in taken or not fits:
                break
            taken[piece.request] = self._prefill.popleft()
            budget -= len(piece.tensor)
        self._running = taken
        return tuple(self._step(message) for message in taken.values())

    def _take_decodes(self) -> dict[str, Forward]:
        """Off the front of the queue; of those that enter their pipeline here only as many as there is room for."""
        share = self._entrance.room()
        taken: dict[str, Forward] = {}
        left: list[Forward] = []
        entering: list[str] = []
        while self._decode and len(taken) < self.max_batch:
            message = self._decode.popleft()
            enters = self._enters(message)
            if not takes_decodes(1, self.max_batch - len(taken), share - len(entering), enters):
                left.append(message)
                continue
            if enters:
                entering.append(message.request)
            taken[message.request] = message
        self._decode.extendleft(reversed(left))
        self._entrance.launch(entering)
        return taken

    def _enters(self, message: Forward) -> bool:
        return self._held[message.request].hop == 0

    def on_results(self, steps: Sequence[Step], results: Sequence[StepResult]) -> list[WorkerAction]:
        """Send what was computed to the next stage, or the token home."""
        actions: list[WorkerAction] = []
        for step, result in zip(steps, results, strict=True):
            held = self._held.get(step.request)
            if held is None:
                continue
            position = step.position + len(step.inputs)
            if result.kv_full:
                actions += self._forget(step.request)
                actions.append(Send(self.coordinator, Rejected(step.request, self.node, "kv_full")))
                continue
            self._computed[step.request] = position
            if result.token is not None:
                actions.append(Send(self.coordinator, Sampled(step.request, position, result.token, result.logprobs)))
            elif step.layers.stop < self.num_layers:
                actions.append(self._pass_on(held, step, result))
        return actions

    def _hop(self, route: Route) -> int:
        for index, hop in enumerate(route.hops):
            if hop.node == self.node:
                return index
        raise ProtocolError(f"a route that doesn't lead through {self.node}", found=str(route.hops))

    def _step(self, message: Forward) -> Step:
        held = self._held[message.request]
        layers = held.route.hops[held.hop].layers
        samples = message.wants_token and layers.stop == self.num_layers
        return Step(
            request=message.request,
            layers=layers,
            position=message.position,
            tokens=message.tensor if layers.start == 0 else None,
            hidden=None if layers.start == 0 else message.tensor,
            sampling=held.route.sampling if samples else None,
        )

    def _pass_on(self, held: _Held, step: Step, result: StepResult) -> Send:
        assert result.hidden is not None, "the engine gave neither hidden states nor a token"
        codec = self.codecs.get(held.route.hops[held.hop + 1].node, "none")
        forward = replace(self._running[step.request], tensor=result.hidden, codec=codec)
        return Send(held.route.addresses[held.hop + 1], forward)

    def _forget(self, request: str, keep: int = 0) -> list[WorkerAction]:
        computed = self._computed.pop(request, None)
        if computed is None:
            return []
        if self._held.pop(request, None) is not None:
            self._entrance.leave(request)
            self._decode = deque(message for message in self._decode if message.request != request)
            self._prefill = deque(message for message in self._prefill if message.request != request)
        kept = min(keep, computed)
        if not kept:
            return [Free(request)]
        self._computed[request] = kept
        return [Trim(request, kept)]
