"""The coordinator's decisions: which request starts when and on which pipeline, and what follows from every event.

Event and time in, actions out: no sockets, no clock, no processes, so that races are plain tests. A request is
answered exactly once: by tokens up to a finish, or by an abort. When a worker is lost or out of KV cache, the requests
it served start again elsewhere from the tokens they already have; whoever reads along notices only the pause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from helix_df.errors import HelixError, RequestError
from helix_df.graph.compile import link_table
from helix_df.graph.problem import COORDINATOR, LinkTable, Placement
from helix_df.plan.plan import Plan
from helix_df.rules.admission import NO_PATH, QUEUE_FULL, TOO_LARGE, expected_answer, expected_kv, on_arrival
from helix_df.rules.batching import piece_tokens
from helix_df.rules.micro_batches import MicroBatches, micro_batches
from helix_df.rules.retries import MOST_REJECTIONS, backoff_s, gives_up
from helix_df.rules.routing import Adjacency, Pipeline, Router, has_path, leading_to_sink
from helix_df.rules.schedulers.api import View
from helix_df.rules.schedulers.registry import follows_flow, get_scheduler
from helix_df.runtime.coordinator.fleet import Fleet
from helix_df.runtime.coordinator.page_ledger import PageLedger
from helix_df.runtime.coordinator.prefix_cache import PrefixCache, Releases
from helix_df.runtime.requests import (
    GenerationRequest,
    JobState,
    JobStatus,
    NodeStatus,
    TokenEvent,
)
from helix_df.runtime.wire.messages import (
    Failed,
    Forward,
    Heartbeat,
    Hello,
    Loading,
    Message,
    Ready,
    Rejected,
    Route,
    Sampled,
    Stop,
    Welcome,
)
from helix_df.runtime.worker.kv_pages import PAGE_TOKENS
from helix_df.runtime.worker.state import Send
from helix_df.spec.job import Job


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand a token, or the end, to whoever asked."""

    request: str
    event: TokenEvent


@dataclass(frozen=True, slots=True)
class Abort:
    """Tell whoever asked that there will be no (further) answer."""

    request: str
    error: HelixError


CoordinatorAction = Send | Deliver | Abort


@dataclass(slots=True)
class _Request:
    """A request and, while it runs, its pipeline.

    ``attempt`` tells late messages of an earlier try apart, and one request from another whose id was used again.
    ``cautious`` ones reserve all that they may need, ``alone`` ones begin with nobody's KV cache; both have been
    rejected once. ``rejections`` are those for want of KV cache; after one it waits until ``retry_s``. ``cached``
    tokens it didn't have to compute in this attempt.
    """

    asked: GenerationRequest
    tokens: list[int]
    attempt: int = 0
    pipeline: Pipeline | None = None
    cautious: bool = False
    alone: bool = False
    cancelled: bool = False
    cached: int = 0
    rejections: int = 0
    retry_s: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.asked.id}/{self.attempt}"

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.asked.prompt)

    @property
    def most(self) -> int:
        """Tokens of KV cache it may come to."""
        return len(self.asked.prompt) + self.asked.max_tokens

    def expected(self, job: Job) -> int:
        """Tokens of KV cache it is expected to come to; see ``rules.admission``."""
        answer = expected_answer(self.asked.max_tokens, job.runtime.expected_output, job.workload.output_length)
        return expected_kv(len(self.tokens), len(self.asked.prompt), answer, self.most, self.cautious)


@dataclass(slots=True)
class _Counters:
    finished: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


@dataclass(slots=True)
class CoordinatorState:
    """One job: its nodes, its requests, and the routing over its plan.

    ``context`` is the most tokens of a request, ``page_tokens`` those of a page in the workers' KV cache.
    """

    plan: Plan
    context: int
    page_tokens: int = PAGE_TOKENS
    router: Router = field(init=False)
    ledger: PageLedger = field(init=False)
    prefixes: PrefixCache = field(init=False)
    fleet: Fleet = field(init=False)
    counters: _Counters = field(default_factory=_Counters)
    failure: str | None = None
    stopping: bool = False
    _attempts: int = 0
    _adjacency: Adjacency = field(init=False)
    _links: LinkTable = field(init=False)
    _requests: dict[str, _Request] = field(default_factory=dict)
    _waiting: deque[str] = field(default_factory=deque)
    _backing_off: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        runtime = self.plan.job.runtime
        self._adjacency = _adjacency(self.plan)
        self._links = link_table(self.plan.job)
        self.fleet = Fleet.of(stage for stage in self.plan.stages if stage.node in self._adjacency)
        self.ledger = PageLedger({}, runtime.kv_high_water, page_tokens=self.page_tokens)
        self.prefixes = PrefixCache(self.ledger, runtime.prefix_cache)
        view = View(
            placement=self.plan.placement,
            adjacency=self._adjacency,
            edges=self.plan.edges,
            seed=self.plan.job.solver.seed,
            waiting=lambda name: len(self._served_by(name)),
            link_free_in_s=lambda _tail, _head: 0.0,  # nobody tells the coordinator
        )
        self.router = get_scheduler(runtime.scheduler)(view)

    # ------------------------------------------------------------------ what the shell asks

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes that requests may go through, and so need a worker."""
        return tuple(self.fleet.nodes)

    @property
    def placement(self) -> Placement:
        """Layers of the nodes that requests may go through."""
        return self.fleet.placement

    @property
    def ready(self) -> bool:
        """Whether a full path through the layers is up."""
        return self.failure is None and not self.stopping and has_path(self._adjacency, self.fleet.is_up)

    @property
    def all_up(self) -> bool:
        """Whether every worker serves."""
        return self.fleet.all_up

    @property
    def waiting(self) -> int:
        """Requests that wait to be started, or started again."""
        return len(self._waiting) + len(self._backing_off)

    @property
    def next_retry_s(self) -> float | None:
        """When ``retry`` is to be called next, on the clock of ``on_message``; ``None`` while nobody backs off."""
        return min((self._requests[name].retry_s for name in self._backing_off), default=None)

    def snapshot(self) -> JobStatus:
        """The job at this moment."""
        return JobStatus(
            name=self.plan.job.name,
            model=self.plan.job.model.served_name,
            state=self._job_state(),
            ready=self.ready,
            detail=self.failure or "",
            nodes=tuple(self._node_status(name) for name in self.fleet.nodes),
            waiting=self.waiting,
            running=len(self._requests) - self.waiting,
            finished=self.counters.finished,
            failed=self.counters.failed,
            prompt_tokens=self.counters.prompt_tokens,
            generated_tokens=self.counters.generated_tokens,
            prefix_hits=self.prefixes.hits,
            cached_tokens=self.prefixes.cached_tokens,
        )

    # ------------------------------------------------------------------ requests

    def submit(self, asked: GenerationRequest) -> list[CoordinatorAction]:
        """Take a request.

        Raises:
            RequestError: when it can never be served, too many wait, or no path is up.
        """
        self._refuse(asked)
        self._requests[asked.id] = _Request(asked, list(asked.prompt))
        self._waiting.append(asked.id)
        self.counters.prompt_tokens += len(asked.prompt)
        return self._admit()

    def cancel(self, request: str) -> list[CoordinatorAction]:
        """Give a request up; its KV cache is freed once its step in flight has come home."""
        found = self._requests.get(request)
        if found is None:
            return []
        if found.pipeline is not None:
            found.cancelled = True
            return []
        (self._backing_off if request in self._backing_off else self._waiting).remove(request)
        del self._requests[request]
        return self._admit()

    def retry(self, now: float) -> list[CoordinatorAction]:
        """Put those back to the head of the queue that have waited long enough after a rejection."""
        due = [name for name in self._backing_off if self._requests[name].retry_s <= now]
        self._backing_off = [name for name in self._backing_off if name not in due]
        self._waiting.extendleft(sorted(due, key=lambda name: -self._requests[name].retry_s))
        return self._admit()

    def _refuse(self, asked: GenerationRequest) -> None:
        if not asked.prompt:
            raise RequestError("the prompt has no tokens", param="prompt")
        if asked.max_tokens < 1:
            raise RequestError("max_tokens must be at least 1", param="max_tokens", found=str(asked.max_tokens))
        if asked.id in self._requests:
            raise RequestError("a request of this id is being served", param="id", found=asked.id)
        most = len(asked.prompt) + asked.max_tokens
        verdict = on_arrival(self.ready, self._fits(most), len(self._waiting), self.plan.job.runtime.max_queue)
        if verdict == NO_PATH:
            raise RequestError("the job is not ready", code="not_ready", status=503, hint="ask /health")
        if most > self.context:
            raise RequestError(
                f"prompt ({len(asked.prompt)} tokens) and answer ({asked.max_tokens}) exceed the context",
                param="max_tokens",
                code="context_length_exceeded",
                expected=f"at most {self.context} tokens together",
            )
        if verdict == TOO_LARGE:
            room = max(self.ledger.capacity.values())
            raise RequestError(
                f"a request of {most} tokens doesn't fit the KV cache of any pipeline",
                param="max_tokens",
                code="kv_cache_exceeded",
                expected=f"at most {room} tokens, prompt and answer together",
            )
        if verdict == QUEUE_FULL:
            raise RequestError("too many requests wait", code="queue_full", status=429, hint="try again later")

    def _fits(self, most: int) -> bool:
        """Whether some pipeline of nodes that are up could hold a request that comes to so many tokens."""
        return has_path(self._adjacency, lambda name: self.fleet.is_up(name) and self.ledger.capacity[name] >= most)

    def _admit(self) -> list[CoordinatorAction]:
        """Start waiting requests, first come first served, for as long as pipelines have room."""
        actions: list[CoordinatorAction] = []
        while self._waiting:
            request = self._requests[self._waiting[0]]
            expected = request.expected(self.plan.job)
            pipeline = self.router.route(self._has_room(expected, request.most))
            if pipeline is None:
                break
            self._waiting.popleft()
            actions += self._start(request, pipeline, expected)
        return actions

    def _has_room(self, expected: int, most: int) -> Callable[[str], bool]:
        is_up, admits = self.fleet.is_up, self.ledger.admitting(expected, most)
        return lambda name: is_up(name) and admits(name)

    def _start(self, request: _Request, pipeline: Pipeline, expected: int) -> list[CoordinatorAction]:
        self._attempts += 1
        request.pipeline, request.attempt = pipeline, self._attempts
        prefix, releases = self.prefixes.start(request.key, pipeline, request.tokens, expected, alone=request.alone)
        request.cached = prefix.tokens if prefix is not None else 0
        addresses = tuple(self.fleet.address(hop.node) for hop in pipeline)
        route = Route(pipeline, addresses, request.asked.sampling, self._micro_batches(pipeline), prefix)
        pieces = (Send(addresses[0], piece) for piece in self._pieces(request, route))
        return [*self._tell(releases), *pieces]

    def _pieces(self, request: _Request, route: Route) -> Iterator[Forward]:
        """What is to be computed of a request's tokens, cut so that each piece fits a batch."""
        tokens = np.array(request.tokens, dtype=np.int32)
        start = request.cached
        while start < len(tokens):
            stop = start + piece_tokens(len(tokens) - start, self.plan.job.runtime.max_prefill_tokens)
            first = route if start == request.cached else None
            yield Forward(request.key, start, stop == len(tokens), first, tokens[start:stop])
            start = stop

    def _micro_batches(self, pipeline: Pipeline) -> MicroBatches:
        ends = [COORDINATOR, *(hop.node for hop in pipeline), COORDINATOR]
        links = (self._links.find(tail, head) for tail, head in pairwise(ends))
        network_s = sum(link.latency_s for link in links if link is not None)
        return micro_batches([self.fleet.step_s(hop) for hop in pipeline], network_s)

    def _current(self, key: str) -> _Request | None:
        """The running request of an attempt, or ``None`` for what is over or was tried again."""
        request = self._requests.get(key.rpartition("/")[0])
        return request if request is not None and request.pipeline is not None and request.key == key else None

    def _on_sampled(self, message: Sampled) -> list[CoordinatorAction]:
        request = self._current(message.request)
        if request is None:
            return []
        if request.cancelled:
            return [*self._leave(request, message.position), *self._forget(request), *self._admit()]
        if message.position != len(request.tokens):
            return []
        cached = 0 if request.generated else request.cached
        if message.token in request.asked.stop_ids:
            return self._finish(request, TokenEvent(None, "stop", cached_tokens=cached), message.position)
        request.tokens.append(message.token)
        self.counters.generated_tokens += 1
        if request.generated >= request.asked.max_tokens:
            event = TokenEvent(message.token, "length", message.logprobs, cached)
            return self._finish(request, event, message.position)
        assert request.pipeline is not None
        step = Forward(request.key, message.position, True, None, np.array([message.token], dtype=np.int32))
        return [
            *self._tell(self.prefixes.on_token(request.key, len(request.tokens))),
            Send(self.fleet.address(request.pipeline[0].node), step),
            Deliver(request.asked.id, TokenEvent(message.token, None, message.logprobs, cached)),
        ]

    def _on_rejected(self, message: Rejected, now: float) -> list[CoordinatorAction]:
        request = self._current(message.request)
        if request is None:
            return []
        if message.reason == "no_prefix":
            request.alone = True
            releases = self.prefixes.drop_parent(request.key)
            return [*self._tell(releases), *self._retry(request), *self._admit()]
        # Whatever the ledger makes of that node, what is only kept there goes first.
        releases = self.prefixes.drop_node(message.node)
        return [*self._tell(releases), *self._back_off(request, now), *self._admit()]

    def _back_off(self, request: _Request, now: float) -> list[CoordinatorAction]:
        """A worker had no KV cache left for a request: it waits before it is tried again, or has been tried enough."""
        request.cautious = True
        request.rejections += 1
        actions = self._leave(request)
        if request.cancelled:
            return [*actions, *self._forget(request)]
        if gives_up(request.rejections):
            self.counters.failed += 1
            return [*actions, *self._forget(request), Abort(request.asked.id, _no_room())]
        request.retry_s = now + backoff_s(request.rejections)
        self._backing_off.append(request.asked.id)
        return actions

    def _finish(self, request: _Request, event: TokenEvent, computed: int) -> list[CoordinatorAction]:
        self.counters.finished += 1
        done = [*self._leave(request, computed), *self._forget(request), *self._admit()]
        return [Deliver(request.asked.id, event), *done]

    def _retry(self, request: _Request) -> list[CoordinatorAction]:
        """Back to the head of the queue, with the tokens it has; or out, if nobody wants it any more."""
        actions = self._leave(request)
        if request.cancelled:
            return [*actions, *self._forget(request)]
        self._waiting.appendleft(request.asked.id)
        return actions

    def _leave(self, request: _Request, computed: int = 0) -> list[CoordinatorAction]:
        """Free what a running request holds on its pipeline, but for what is worth keeping of ``computed`` tokens."""
        request.pipeline = None
        return self._tell(self.prefixes.end(request.key, request.tokens[:computed]))

    def _tell(self, releases: Releases) -> list[CoordinatorAction]:
        return [
            Send(self.fleet.address(hop.node), release)
            for route, release in releases
            for hop in route
            if self.fleet.is_up(hop.node)
        ]

    def _forget(self, request: _Request) -> list[CoordinatorAction]:
        del self._requests[request.asked.id]
        return []

    # ------------------------------------------------------------------ nodes

    def on_message(self, message: Message, now: float) -> list[CoordinatorAction]:
        """React to what a worker says; ``now`` is in seconds of any monotonic clock."""
        match message:
            case Hello():
                return self._on_hello(message, now)
            case Sampled():
                return self._on_sampled(message)
            case Rejected():
                return self._on_rejected(message, now)
            case Loading() | Ready() | Failed() | Heartbeat():
                node = self.fleet.nodes.get(message.node)
                if node is None or node.address is None:
                    return []
                node.heard = now
                return self._on_node(node.address, message)
            case _:
                return []

    def _on_node(self, address: str, message: Loading | Ready | Failed | Heartbeat) -> list[CoordinatorAction]:
        if isinstance(message, Failed):
            return self.on_exit(message.node, message.reason)
        self.fleet.hear(message)
        match message:
            case Ready():
                self.ledger.capacity[message.node] = message.kv_tokens
                return self._admit()
            case Heartbeat():
                return [Send(address, Heartbeat(message.node))]
            case Loading():
                return []

    def _on_hello(self, message: Hello, now: float) -> list[CoordinatorAction]:
        refusal = self.fleet.refusal(message, now)
        if refusal is not None:
            return [Send(message.address, Failed(message.node, refusal))]
        # A worker that greets again has forgotten its requests, or will: they start over elsewhere.
        actions = self._lose(message.node, "joined again") if self.fleet.starts_over(message) else []
        node = self.fleet.join(message, now)
        job = self.plan.job.model_dump(mode="json", exclude_none=True)
        welcome = Welcome(message.node, node.layers, self.plan.num_layers, node.kv_tokens, job)
        return [*actions, Send(message.address, welcome)]

    def on_exit(self, name: str, words: str) -> list[CoordinatorAction]:
        """A worker is gone; ``words`` are its last. Before the job was first up, that is the end of it."""
        node = self.fleet.nodes.get(name)
        if node is None or self.stopping or node.state in ("lost", "failed"):
            return []
        if not self.fleet.was_ready:
            self.failure = self.failure or f"worker {name} failed: {words}"
        actions = self._lose(name, words)
        node.state = "failed"
        return actions

    def tick(self, now: float) -> list[CoordinatorAction]:
        """Notice workers that have been silent for too long."""
        actions: list[CoordinatorAction] = []
        for name, why in self.fleet.silent(now).items():
            actions += self._lose(name, why)
        return actions

    def stop(self) -> list[CoordinatorAction]:
        """End the job: abort what runs and waits, and tell the workers to exit."""
        self.stopping = True
        aborted = [Abort(request, _gone("the job is being stopped")) for request in self._requests]
        self.counters.failed += len(aborted)
        self._requests.clear()
        self._waiting.clear()
        self._backing_off.clear()
        return [*aborted, *(Send(address, Stop()) for address in self.fleet.addresses)]

    def _lose(self, name: str, why: str) -> list[CoordinatorAction]:
        self.fleet.lose(name, why)
        self.ledger.capacity.pop(name, None)
        served = self._served_by(name)
        actions: list[CoordinatorAction] = []
        for request in reversed(served):
            actions += self._retry(request)
        actions += self._tell(self.prefixes.drop_node(name))
        return [*actions, *self._abort_hopeless(name), *self._admit()]

    def _abort_hopeless(self, lost: str) -> list[CoordinatorAction]:
        """Give those up that wait and fit no pipeline that is left; all others would wait behind them."""
        left = "full path through the layers is left" if not self.ready else "pipeline is left whose KV cache holds it"
        idle = [*self._waiting, *self._backing_off]
        hopeless = {name for name in idle if not self.ready or not self._fits(self._requests[name].most)}
        self._waiting = deque(name for name in self._waiting if name not in hopeless)
        self._backing_off = [name for name in self._backing_off if name not in hopeless]
        for name in hopeless:
            del self._requests[name]
        self.counters.failed += len(hopeless)
        return [Abort(name, _gone(f"worker {lost} is gone and no {left}")) for name in idle if name in hopeless]

    def _job_state(self) -> JobState:
        if self.stopping:
            return "stopping"
        if self.failure is not None:
            return "failed"
        if self.all_up:
            return "ready"
        return "degraded" if self.fleet.was_ready else "starting"

    def _node_status(self, name: str) -> NodeStatus:
        return self.fleet.nodes[name].status(
            name,
            kv_used=self.ledger.used.get(name, 0),
            kv_kept=self.ledger.kept.get(name, 0),
            kv_capacity=self.ledger.capacity.get(name),
            running=len(self._served_by(name)),
        )

    def _served_by(self, name: str) -> list[_Request]:
        return [
            request
            for request in self._requests.values()
            if request.pipeline is not None and any(hop.node == name for hop in request.pipeline)
        ]


def _adjacency(plan: Plan) -> Adjacency:
    """The hops that requests may take: those with flow, or every feasible one for a scheduler that isn't led by it."""
    if follows_flow(plan.job.runtime.scheduler):
        return leading_to_sink([(edge.tail, edge.head) for edge in plan.edges if edge.tokens_per_s > 0])
    return leading_to_sink([(edge.tail, edge.head) for edge in plan.graph().edges])


def _gone(why: str) -> RequestError:
    return RequestError(why, code="unavailable", status=503, hint="try again once /health is ok")


def _no_room() -> RequestError:
    return RequestError(
        f"the KV cache was full at each of {MOST_REJECTIONS} tries",
        code="kv_cache_full",
        status=503,
        hint="try again later; with a larger runtime.expected_output fewer requests run at once",
    )
