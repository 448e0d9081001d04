"""A worker's decisions: which steps to run next, and where their results go. No I/O, no clock, no tensor is computed.

Steps wait in two queues. A batch takes decode steps first, since somebody is reading along, and fills up with prompt
pieces under a token budget. A request has at most one step in a batch, and its steps run in the order they came. Of the
decode steps that enter their pipeline here a batch takes only a share, so that the other stages work meanwhile.

A request may begin with pages of another that runs here or whose beginning was kept. How many tokens of each are
computed is counted here, so that nobody begins with pages that hold something else.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from helix_df.codecs import Codec
from helix_df.profiles.kv_windows import PAGE_TOKENS, first_page
from helix_df.rules.batching import takes_decodes, takes_piece
from helix_df.rules.micro_batches import Entrance
from helix_df.runtime.requests import Prefix, checkpoint_name
from helix_df.runtime.transitions import IllegalEvent, IllegalEvents, IllegalEventSeen, TransitionTable
from helix_df.runtime.wire.message_kinds import MOST_SCORES
from helix_df.runtime.wire.messages import (
    Forward,
    Located,
    PromptPooled,
    PromptScored,
    Rejected,
    Release,
    Route,
    Sampled,
    Send,
)
from helix_df.runtime.worker.steps import Step, StepResult

HeldState = Literal["unknown", "held", "computing", "kept", "released"]
"""``unknown``: not here yet, or rejected. ``released``: over, perhaps before it came. ``kept``: of one that is over the
beginning lives on, for others to begin with."""

HeldEvent = Literal[
    "first", "no_prefix", "misrouted", "step", "step_out_of_turn", "take", "result", "kv_full", "not_finite", "stuck",
    "release", "keep", "malformed", "checkpoint",
]  # fmt: skip

HELD: TransitionTable[HeldState, HeldEvent] = TransitionTable(
    "request on a worker",
    "unknown",
    {
        # Late steps of what was rejected here are nobody's.
        "unknown": {
            "step": "unknown",
            "result": "unknown",
            "kv_full": "unknown",
            "not_finite": "unknown",
            "stuck": "unknown",
            "no_prefix": "unknown",
            "malformed": "unknown",
            "first": "held",
            "checkpoint": "kept",
            "release": "released",
        },
        "held": {
            "step": "held",
            "take": "computing",
            "malformed": "unknown",
            "release": "released",
            "keep": "kept",
        },
        "computing": {
            "step": "computing",
            "result": "held",
            "kv_full": "unknown",
            "not_finite": "unknown",
            "stuck": "unknown",
            "malformed": "unknown",
            "release": "released",
            "keep": "kept",
        },
        "kept": {
            "step": "kept",
            "keep": "kept",
            "result": "kept",
            "kv_full": "kept",
            "not_finite": "kept",
            "stuck": "kept",
            "malformed": "kept",
            "release": "released",
        },
        # An attempt runs once: the first step, or the same again, finds the door closed.
        "released": {
            "first": "released",
            "checkpoint": "released",
            "no_prefix": "released",
            "step": "released",
            "result": "released",
            "kv_full": "released",
            "not_finite": "released",
            "stuck": "released",
            "malformed": "released",
            "release": "released",
        },
    },
)
"""What happens to an attempt at a request on one worker."""

MOST_RELEASED = 10_000
"""Attempts to remember that are over; a late step is never that late."""


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


WorkerAction = Send | Free | Fork | Trim | IllegalEventSeen


@dataclass(slots=True)
class _Held:
    """A request that runs here: its route, and which hop of it this worker is.

    ``computed`` tokens of it are in the KV cache, but for those of pages before ``first_page``; the next step to arrive
    is at position ``due``, or at one of the last step's ``drafted`` tokens, which weren't drawn then.
    """

    state: HeldState
    route: Route
    hop: int
    computed: int
    due: int
    first_page: int
    drafted: int = 0


@dataclass(slots=True)
class WorkerState:
    """What one worker knows of the requests it serves.

    ``max_batch`` bounds the steps of a batch, ``max_prefill_tokens`` the prompt tokens in it (a single longer piece
    still runs, alone). ``codecs`` are those of the links to other nodes, where there is one. ``apart`` are the nodes
    that pieces of prompts go to apart from decode steps, and behind them. KV cache behind a window of ``kv_window``
    tokens is freed, in pages of ``page_tokens``; with 0 none is.
    """

    node: str
    coordinator: str
    num_layers: int
    max_batch: int
    max_prefill_tokens: int
    codecs: Mapping[str, Codec] = field(default_factory=dict)
    apart: Collection[str] = ()
    kv_window: int = 0
    page_tokens: int = PAGE_TOKENS
    illegal: IllegalEvents = field(default_factory=IllegalEvents)
    _held: dict[str, _Held] = field(default_factory=dict)
    _kept: dict[str, tuple[int, int]] = field(default_factory=dict)
    _released: dict[str, None] = field(default_factory=dict)
    _decode: deque[Forward] = field(default_factory=deque)
    _prefill: deque[Forward] = field(default_factory=deque)
    _running: dict[str, Forward] = field(default_factory=dict)
    _entrance: Entrance = field(init=False)

    def __post_init__(self) -> None:
        self._entrance = Entrance(self.max_batch)

    @property
    def requests(self) -> int:
        """Requests that are served here."""
        return len(self._held)

    @property
    def kept(self) -> tuple[str, ...]:
        """Requests that are over, and of whose KV cache the beginning lives on."""
        return tuple(self._kept)

    @property
    def idle(self) -> bool:
        """Whether no step could run now."""
        if self._prefill:
            return False
        return not self._decode or (self._entrance.room() == 0 and all(map(self._enters, self._decode)))

    def state_of(self, request: str) -> HeldState:
        """Where a request is in its life on this worker."""
        held = self._held.get(request)
        if held is not None:
            return held.state
        if request in self._kept:
            return "kept"
        return "released" if request in self._released else "unknown"

    def on_forward(self, message: Forward) -> list[WorkerAction]:
        """Queue a step; a request's first may begin with the KV cache of another.

        A request that was released or rejected is not known any more; its late steps are dropped. So is one whose
        prefix isn't here, and the coordinator is told to try it again.
        """
        try:
            return self._step_arrives(message) if message.route is None else self._begin(message, message.route)
        except IllegalEvent as error:
            return [self.illegal.note(error)]

    def on_release(self, message: Release) -> list[WorkerAction]:
        """Forget a request, the steps that still wait included, and all or the rest of its KV cache."""
        return self._forget(message.request, message.keep)

    def on_malformed(self, request: str) -> list[WorkerAction]:
        """A message that names a request was refused: what it was to say is lost, so the request is tried again."""
        was = self.state_of(request)
        if HELD.after(was, "malformed", request) == was:
            return []
        return [*self._drop(request, 0), Send(self.coordinator, Rejected(request, self.node, "malformed"))]

    def located(self, request: str) -> Located:
        """How far a request is here."""
        held = self._held.get(request)
        return (
            Located(request, self.node, 0, 0) if held is None else Located(request, self.node, held.computed, held.due)
        )

    def first_layer(self, request: str) -> int | None:
        """The first layer that a request runs through here; None if it isn't here."""
        held = self._held.get(request)
        return None if held is None else held.route.hops[held.hop].layers.start

    def forget_all(self) -> list[WorkerAction]:
        """Forget every request, and what is kept of those that are over."""
        return [action for request in (*self._kept, *self._held) for action in self._forget(request)]

    def validate(self) -> None:
        """Check that every request is in one place alone, and that its steps follow one another.

        Raises:
            AssertionError: when that is wrong.
        """
        assert not self._held.keys() & self._kept.keys(), "somebody runs and is over"
        assert not self._released.keys() & {*self._held, *self._kept}, "somebody is here whom the door was closed on"
        under_way = Counter[str]()
        for message in (*self._decode, *self._prefill):
            assert message.request in self._held, f"a step of {message.request} waits, who isn't here"
            under_way[message.request] += len(message.tensor)
        for request, held in self._held.items():
            if held.state == "computing":
                under_way[request] += len(self._running[request].tensor)
            assert held.due == held.computed + under_way[request], f"{request} has lost a step"
        self._entrance.validate([request for request, held in self._held.items() if held.hop == 0])

    def _begin(self, message: Forward, route: Route) -> list[WorkerAction]:
        request, prefix, hop = message.request, route.prefix, self._hop(route)
        lacks_prefix = prefix is not None and not self._has(prefix)
        event: HeldEvent = "misrouted" if hop is None else "no_prefix" if lacks_prefix else "first"
        state = HELD.after(self.state_of(request), event, request)
        if state == "unknown":
            return [Send(self.coordinator, Rejected(request, self.node, "no_prefix"))]
        if state == "released" or hop is None:
            return []
        stop = message.position + len(message.tensor)
        self._held[request] = _Held(state, route, hop, message.position, stop, self._first_page(message.position))
        if hop == 0:
            self._entrance.enter(request, route.micro_batches)
        self._prefill.append(message)
        return [] if prefix is None else [Fork(prefix.parent, request, prefix.tokens)]

    def _step_arrives(self, message: Forward) -> list[WorkerAction]:
        held = self._held.get(message.request)
        in_turn = held is None or message.position == held.due or _goes_back(held, message.position)
        state = HELD.after(self.state_of(message.request), "step" if in_turn else "step_out_of_turn", message.request)
        if held is None:
            return []  # it is over here, or was rejected
        held.computed = min(held.computed, message.position)  # what was drafted behind it is overwritten
        held.state, held.due, held.drafted = state, message.position + len(message.tensor), len(message.drafts)
        # The last piece of a prompt may be one token long, and must not overtake the pieces before it.
        in_pieces = any(waiting.request == message.request for waiting in self._prefill)
        self._entrance.back(message.request)
        is_decode = len(message.tensor) == 1 + len(message.drafts)
        (self._decode if is_decode and not in_pieces else self._prefill).append(message)
        return []

    def _cached(self, request: str) -> tuple[int, int]:
        """Tokens of a request in the KV cache, whether it runs or is over, and the first page that is there."""
        held = self._held.get(request)
        return self._kept.get(request, (0, 0)) if held is None else (held.computed, held.first_page)

    def _has(self, prefix: Prefix) -> bool:
        """Whether all that a request sees which goes on from a prefix is in the KV cache."""
        computed, held = self._cached(prefix.parent)
        return computed >= prefix.tokens and held <= self._first_page(prefix.tokens)

    def _first_page(self, tokens: int) -> int:
        return first_page(tokens, self.kv_window, self.page_tokens)

    def next_batch(self) -> tuple[Step, ...]:
        """Take the steps to run now; empty when nothing waits. Their results come to ``on_results`` before the next."""
        taken = self._take_decodes()
        decodes, prompts = len(taken), 0
        while self._prefill:
            piece, room = self._prefill[0], self.max_batch - len(taken)
            tokens, again = len(piece.tensor), piece.request in taken
            if not takes_piece(tokens, again, room, decodes, prompts, self.max_prefill_tokens):
                break
            taken[piece.request] = self._prefill.popleft()
            prompts += tokens
        self._running = taken
        for request, message in taken.items():
            held = self._held[request]
            held.state = HELD.after(held.state, "take", request)
            held.first_page = max(held.first_page, self._first_page(message.position))
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
        pairs = zip(steps, results, strict=True)
        return [action for step, result in pairs for action in self._on_result(step, result)]

    def _on_result(self, step: Step, result: StepResult) -> list[WorkerAction]:
        held = self._held.get(step.request)
        fault = result.fault
        event: HeldEvent = fault or "result"
        try:
            state = HELD.after(self.state_of(step.request), event, step.request)
        except IllegalEvent as error:
            return [self.illegal.note(error)]
        if held is None:
            return []  # released meanwhile
        if state == "unknown" and fault is not None:
            return [*self._drop(step.request, 0), Send(self.coordinator, Rejected(step.request, self.node, fault))]
        count = len(step.inputs) if result.computed is None else result.computed
        held.state, held.computed = state, step.position + count
        held.due -= len(step.inputs) - count
        held.drafted = min(held.drafted, count - 1)
        checkpoint = self._checkpoint(step, held)
        told: list[PromptScored | PromptPooled] = [*_scored(step, result), *_pooled(step, result)]
        scored: list[WorkerAction] = [*checkpoint, *(Send(self.coordinator, one) for one in told)]
        if result.token is not None:
            position = step.position + count - min(len(step.drafts), count - 1)
            sampled = Sampled(step.request, position, result.token, result.logprobs, result.more)
            return [*scored, Send(self.coordinator, sampled)]
        return [*checkpoint, self._pass_on(held, step, result)] if step.layers.stop < self.num_layers else scored

    def _checkpoint(self, step: Step, held: _Held) -> list[WorkerAction]:
        """Where a step has come to a request's checkpoint, hold on to what is seen there."""
        tokens, name = held.route.checkpoint, checkpoint_name(step.request)
        if not step.position < tokens <= held.computed:
            return []
        state = HELD.after(self.state_of(name), "checkpoint", name)
        if state == "released":
            return []  # its room was needed before it was there
        self._kept[name] = tokens, self._first_page(tokens)
        return [Fork(step.request, name, tokens)]

    def _hop(self, route: Route) -> int | None:
        return next((index for index, hop in enumerate(route.hops) if hop.node == self.node), None)

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
            constraint=held.route.sampling.constraint if layers.stop == self.num_layers else None,
            history=held.route.history if layers.stop == self.num_layers else None,
            targets=_targets(held.route, message) if layers.stop == self.num_layers else (),
            best=held.route.sampling.prompt_logprobs or 0,
            pooled=_to_pool(held.route, message, samples) if layers.stop == self.num_layers else 0,
            drafts=message.drafts,
        )

    def _pass_on(self, held: _Held, step: Step, result: StepResult) -> Send:
        assert result.hidden is not None, "the engine gave neither hidden states nor a token"
        head = held.route.hops[held.hop + 1].node
        came = self._running[step.request]
        drafts = came.drafts[: len(result.hidden) - 1]
        forward = replace(came, tensor=result.hidden, codec=self.codecs.get(head, "none"), drafts=drafts)
        # A prompt of one token looks like a decode step but for its route.
        is_piece = came.route is not None or len(result.hidden) > 1 + len(drafts)
        return Send(held.route.addresses[held.hop + 1], forward, bulk=is_piece and head in self.apart)

    def _forget(self, request: str, keep: int = 0) -> list[WorkerAction]:
        """Let a request go but for its first ``keep`` tokens, as far as they are computed."""
        kept, was = min(keep, self._cached(request)[0]), self.state_of(request)
        state = HELD.after(was, "keep" if kept else "release", request)
        actions = [] if was in ("unknown", "released") else self._drop(request, kept)
        if state == "released":
            # A step may still be on the way from another worker, and must find the door closed.
            self._released[request] = None
            if len(self._released) > MOST_RELEASED:
                del self._released[next(iter(self._released))]
        return actions

    def _drop(self, request: str, kept: int) -> list[WorkerAction]:
        held_from = self._cached(request)[1]
        self._kept.pop(request, None)
        if self._held.pop(request, None) is not None:
            self._entrance.leave(request)
            self._decode = deque(message for message in self._decode if message.request != request)
            self._prefill = deque(message for message in self._prefill if message.request != request)
        if not kept:
            return [Free(request)]
        self._kept[request] = kept, max(held_from, self._first_page(kept))
        return [Trim(request, kept)]


def _goes_back(held: _Held, position: int) -> bool:
    """Whether a step goes on from within what was drafted for the one before it, which has been computed."""
    return held.due - held.drafted <= position < held.due == held.computed


def _targets(route: Route, message: Forward) -> tuple[int, ...]:
    """The prompt's tokens that follow those of a message, where they are to be scored."""
    if route.sampling.prompt_logprobs is None or route.history is None:
        return ()
    stop = min(message.position + len(message.tensor) + 1, route.history.prompt)
    return route.history.tokens[message.position + 1 : stop]


def _scored(step: Step, result: StepResult) -> Iterator[PromptScored]:
    """The scores of a step, as many messages as they take."""
    for at in range(0, len(result.scores), MOST_SCORES):
        yield PromptScored(step.request, step.position + 1 + at, result.scores[at : at + MOST_SCORES])


def _to_pool(route: Route, message: Forward, is_last: bool) -> int:
    """How many of the last tokens of a message's are to be summed up."""
    match route.sampling.pooling:
        case "mean":
            return len(message.tensor)
        case "last":
            return int(is_last)
        case None:
            return 0


def _pooled(step: Step, result: StepResult) -> Iterator[PromptPooled]:
    """What a step sums up, if that is asked of it."""
    if result.pooled is not None:
        stop = step.position + len(step.inputs)
        sums = result.pooled.astype("<f4").tobytes()
        yield PromptPooled(step.request, stop - step.pooled, step.pooled, sums)
