"""Requests at the coordinator: which starts when and on which pipeline, and what follows from tokens and losses.

Event and time in, actions out. A request is answered exactly once: by tokens up to a finish, or by an abort. When a
worker of its pipeline is lost or out of KV cache it starts again elsewhere from the tokens it has. Which nodes are up
is ``nodes_state``'s to say; this only asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np

from helix_df.codecs import packed_bytes
from helix_df.errors import RequestError
from helix_df.graph.compile import link_table
from helix_df.graph.flow_graph import FlowGraph
from helix_df.graph.problem import Link, LinkTable
from helix_df.plan.plan import Plan
from helix_df.rules.admission import STRANDED, on_arrival
from helix_df.rules.batching import longest_piece, piece_tokens
from helix_df.rules.fair_queue import FairQueue, key_may_wait
from helix_df.rules.mended_flow import mended_flow
from helix_df.rules.micro_batches import UNDIVIDED, MicroBatches, micro_batches
from helix_df.rules.retries import backoff_s, gives_up
from helix_df.rules.routing import Adjacency, Pipeline, Router, has_path, leading_to_sink
from helix_df.rules.schedulers.api import View
from helix_df.rules.schedulers.registry import follows_flow, get_scheduler, mends_flow
from helix_df.rules.waiting_order import waiting_rank
from helix_df.runtime.coordinator.actions import Abort, AttemptOver, CoordinatorAction, Deliver
from helix_df.runtime.coordinator.drafting import Drafting, RoundCosts
from helix_df.runtime.coordinator.due_times import DueTimes
from helix_df.runtime.coordinator.hop_load import HopLoad, hops_of
from helix_df.runtime.coordinator.nodes_state import NodesState
from helix_df.runtime.coordinator.page_ledger import PageLedger
from helix_df.runtime.coordinator.prefix_cache import PrefixCache, Releases
from helix_df.runtime.coordinator.refusals import (
    check_arrival,
    check_request,
    malformed,
    no_room,
    not_finite,
    steps_lost,
    stuck,
    too_late,
    unavailable,
)
from helix_df.runtime.coordinator.request import RequestEvent, ServedRequest
from helix_df.runtime.coordinator.step_watch import RunningStep
from helix_df.runtime.coordinator.ways import all_hops, ways_of
from helix_df.runtime.requests import DrawnToken, GenerationRequest, History, TokenEvent
from helix_df.runtime.transitions import IllegalEvent
from helix_df.runtime.wire.messages import Forward, PromptPooled, PromptScored, Rejected, Release, Route, Sampled, Send
from helix_df.spec.job import Job

_MOST_STALE = 256
"""Times that may be noted of requests which are over, beside a few for each that isn't."""

_FIRST_PATIENCE = 0.5
"""Of ``runtime.lost_after``: after so long a step counts as lost, the first two times in a row."""

_MOST_DOUBLINGS = 4
"""Of that time, one a further loss in a row: data may be under way on a slow link for long."""

_MOST_DIGITS = 18
"""Of an attempt's number."""

ATTEMPTS_OF_A_LIFE = 10**9
"""So far apart are the attempts' numbers of one coordinator and the next: what was said to the former is nobody's."""


@dataclass(slots=True)
class RequestCounters:
    """What has come of all requests so far."""

    finished: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    asked_tokens: int = 0


@dataclass(slots=True)
class RequestsState:
    """All requests that aren't over, the queue, and the account of KV cache.

    ``ways`` are the hops that the placement makes possible; where the scheduler follows a flow, requests go by the
    maximum flow over the nodes that are up. ``running_on`` counts the running requests by node. While ``winding_down``
    nothing new is taken; once ``closed``, everything has ended.
    """

    plan: Plan
    context: int
    page_tokens: int
    nodes: NodesState
    ways: FlowGraph
    ledger: PageLedger = field(init=False)
    prefixes: PrefixCache = field(init=False)
    counters: RequestCounters = field(default_factory=RequestCounters)
    running_on: Counter[str] = field(default_factory=Counter)
    load: HopLoad = field(default_factory=HopLoad)
    drafting: Drafting = field(default_factory=Drafting)
    closed: bool = False
    winding_down: bool = False
    requests: dict[str, ServedRequest] = field(default_factory=dict)
    queue: FairQueue = field(default_factory=FairQueue)
    backing_off: list[str] = field(default_factory=list)
    stranded: list[str] = field(default_factory=list)
    _links: LinkTable = field(init=False)
    _routing: tuple[Adjacency, Router] | None = None
    _whole: Adjacency = field(init=False)
    _hops: Adjacency = field(init=False)
    _cut: frozenset[tuple[str, str]] = frozenset()
    _taking: frozenset[str] = frozenset()
    _attempts: int = 0
    _due: DueTimes = field(default_factory=DueTimes)

    def __post_init__(self) -> None:
        runtime = self.plan.served.runtime
        self.ledger = PageLedger({}, runtime.kv_high_water, page_tokens=self.page_tokens)
        self.prefixes = PrefixCache(self.ledger, runtime.prefix_cache)
        self._go_by(self.plan, self.ways, self.plan.job)

    def _go_by(self, plan: Plan, ways: FlowGraph, job: Job) -> None:
        """Route by a plan from now on; ``job`` has the links of all nodes that there are."""
        runtime = plan.served.runtime
        self.plan, self.ways, self._routing = plan, ways, None
        self.drafting.go_by(runtime.speculation)
        self._links = link_table(job)
        self.ledger.high_water, self.ledger.piece = runtime.kv_high_water, longest_piece(runtime.max_prefill_tokens)
        self._whole = ways_of(plan, ways)
        self._hops = all_hops(ways)

    @property
    def adjacency(self) -> Adjacency:
        """The hops that requests may take now."""
        return self._routes()[0]

    def _routes(self) -> tuple[Adjacency, Router]:
        """Where requests may go and who chooses, anew when first asked for since a node came or went: while the workers
        of a large job come up one by one, nobody asks."""
        if self._routing is None:
            self._routing = self._found_routes()
        return self._routing

    def _found_routes(self) -> tuple[Adjacency, Router]:
        """By the flow over what is up, where the scheduler goes by one; turns begin anew."""
        scheduler, edges = self.plan.served.runtime.scheduler, self.plan.edges
        self._cut, self._taking = self.nodes.cut_hops(), self._taking_now()
        if mends_flow(scheduler):
            edges = mended_flow(self.ways, edges, self._may_carry, self._cut)
        hops = edges if follows_flow(scheduler) else self.ways.edges
        adjacency = leading_to_sink([hop for it in hops if (hop := (it.tail, it.head)) not in self._cut])
        view = View(
            placement=self.plan.placement,
            adjacency=adjacency,
            edges=edges,
            seed=self.plan.job.solver.seed,
            waiting=lambda name: self.running_on[name],
            link_free_in_s=lambda _tail, _head: 0.0,  # nobody tells the coordinator
        )
        return adjacency, get_scheduler(scheduler)(view)

    def _may_carry(self, name: str) -> bool:
        return name not in self.nodes.nodes or self.nodes.takes(name)

    def _taking_now(self) -> frozenset[str]:
        return frozenset(filter(self.nodes.takes, self.nodes.nodes))

    def _node_changed(self) -> None:
        """Where many are lost at once, all of them are down when the first is told, and one flow is found for all."""
        goes_by_nodes = self._cut or mends_flow(self.plan.served.runtime.scheduler)
        if self._routing is None or not goes_by_nodes:
            return
        if (self._taking, self._cut) != (self._taking_now(), self.nodes.cut_hops()):
            self._routing = None

    @property
    def ready(self) -> bool:
        """Whether a full path through the layers is up."""
        return self.nodes.failure is None and not self.closed and self._has_way()

    def _has_way(self) -> bool:
        """Where nodes have come or gone since anybody was sent somewhere, no flow is found for that: it is asked often
        while a large job comes up. A flow leads wherever hops do."""
        if self._routing is None and mends_flow(self.plan.served.runtime.scheduler) and not self.nodes.cut_hops():
            return not self.nodes.missing_layers() and has_path(self._hops, self.nodes.takes)
        return has_path(self.adjacency, self.nodes.takes)

    @property
    def waiting(self) -> int:
        """Requests that wait to be started, or started again."""
        return len(self.queue) + len(self.backing_off) + len(self.stranded)

    def waiting_of(self, owner: str) -> int:
        """Requests of an API key that wait for room or for nodes, by the key's name."""
        stranded = sum(self.requests[name].asked.owner == owner for name in self.stranded)
        return self.queue.count(owner) + stranded

    @property
    def running(self) -> int:
        """Requests that have a pipeline."""
        return len(self.requests) - self.waiting

    @property
    def next_due_s(self) -> float | None:
        """When somebody who waits is to be tried again or given up, or a deadline passes; ``None`` while nothing is to
        come."""
        return self._due.first_s(self._is_due)

    def validate(self) -> None:
        """Check that every request is in one place alone, the one of its state, and that all accounts add up.

        Raises:
            AssertionError: when that is wrong.
        """
        by_state = {name: request.state for name, request in self.requests.items()}
        assert len(set(self.queue)) == len(self.queue), f"somebody waits twice: {self.queue}"
        assert {name for name, state in by_state.items() if state == "waiting"} == set(self.queue), by_state
        assert {name for name, state in by_state.items() if state == "backing_off"} == set(self.backing_off), by_state
        assert {name for name, state in by_state.items() if state == "stranded"} == set(self.stranded), by_state
        running = [request for request in self.requests.values() if request.pipeline is not None]
        assert {request.asked.id for request in running} == {
            name for name, state in by_state.items() if state in ("running", "leaving")
        }, by_state
        hops = [hop.node for request in running for hop in request.pipeline or ()]
        assert +self.running_on == Counter(hops), "requests by node"
        if self.closed:
            return
        assert all(self.nodes.is_up(node) for node in hops), "somebody runs on a node that is down"
        keys = frozenset(request.key for request in running)
        self.ledger.validate(keys)
        self.prefixes.validate(keys)

    def begin_life(self, life: int) -> None:
        """Number attempts as the ``life``-th coordinator of a job, counted from 1."""
        self._attempts = (life - 1) * ATTEMPTS_OF_A_LIFE

    # ------------------------------------------------------------------ from clients

    def submit(self, asked: GenerationRequest, now: float) -> list[CoordinatorAction]:
        """Take a request; it waits while nodes are away without which nothing holds it.

        Raises:
            RequestError: when it can never be served, too many wait, or the job hasn't come up.
        """
        verdict = self._judge(asked)
        request = self.requests[asked.id] = ServedRequest(asked, [*asked.prompt, *asked.so_far])
        request.move("submit")
        served = self.plan.served
        rank = waiting_rank(now, len(request.tokens), served.runtime.shortest_first)
        self.queue.join(asked.id, asked.owner, request.expected(served), rank)
        self.counters.prompt_tokens += len(asked.prompt)
        self.counters.asked_tokens += request.expected(served)
        self._set_deadline(request, now)
        if verdict == STRANDED:
            self._strand([asked.id], now)
        return self.admit()

    def _set_deadline(self, request: ServedRequest, now: float) -> None:
        limits = (request.asked.timeout_s, self.plan.job.runtime.request_timeout)
        timeout_s = min((limit for limit in limits if limit is not None), default=None)
        if timeout_s is not None:
            request.deadline_s = now + timeout_s
            self._note_due(request, request.deadline_s)

    def _note_due(self, request: ServedRequest, due_s: float) -> None:
        self._due.add(due_s, request.asked.id)
        if len(self._due) > _MOST_STALE + 4 * len(self.requests):
            self._due.keep(self._is_due)

    def cancel(self, name: str) -> list[CoordinatorAction]:
        """Give a request up; its KV cache is freed once its step in flight has come home."""
        request = self.requests.get(name)
        if request is None:
            return []  # it is over
        if request.move("cancel") == "leaving":
            return []
        self._leave_places([name])
        del self.requests[name]
        return self.admit()

    def close(self, why: str) -> list[CoordinatorAction]:
        """Abort what runs and waits, for good."""
        self.closed = True
        self.running_on.clear()
        return self._abort(list(self.requests), unavailable(why))

    def _judge(self, asked: GenerationRequest) -> int:
        check_request(asked, is_served=asked.id in self.requests)
        most = len(asked.prompt) + asked.max_tokens
        ends = self.closed or self.winding_down
        serves = self.nodes.failure is None and not ends and (self.nodes.was_ready or self.ready)
        waiting, limit = len(self.queue) + len(self.stranded), self.plan.job.runtime.max_queue
        has_share = asked.owner is None or key_may_wait(self.waiting_of(asked.owner), waiting, limit)
        fits, fits_whole = self._fits(most), self._fits_whole(most)
        verdict = on_arrival(serves, fits, fits_whole, waiting, limit, has_share)
        check_arrival(verdict, asked, self.context, room=self.nodes.largest_cache)
        return verdict

    def _fits(self, most: int) -> bool:
        """Whether some pipeline of nodes that are up could hold a request that comes to so many tokens."""
        return has_path(self.adjacency, lambda name: self.nodes.takes(name) and self.ledger.fits(name, most))

    def _fits_whole(self, most: int) -> bool:
        """Whether some pipeline could once every node is up."""
        return has_path(self._whole, lambda name: self._holds(name, self.nodes.cache_of(name), most))

    def _holds(self, node: str, tokens: int, most: int) -> bool:
        """Whether ``tokens`` of KV cache on a node are enough for a request that comes to ``most``."""
        shape = self.nodes.nodes[node].kv_shape
        return tokens * shape.layers >= shape.held(most, self.ledger.piece, self.page_tokens)

    # ------------------------------------------------------------------ starts

    def admit(self) -> list[CoordinatorAction]:
        """Start waiting requests, in turn by API key (``rules.fair_queue``) and within one in the order that the plan
        has (``rules.waiting_order``), for as long as pipelines have room."""
        actions: list[CoordinatorAction] = []
        while self.queue:
            request = self.requests[self.queue.head()]
            expected = request.expected(self.plan.served)
            pipeline = self._routes()[1].route(self._has_room(expected, request.most))
            if pipeline is None:
                break
            self.queue.take()
            actions += self._start(request, pipeline, expected)
        return actions

    def steps(self) -> Iterator[RunningStep]:
        """Those under way, one a running request. Losses in a row are believed ever later, up to a bound."""
        first_s = self.plan.job.runtime.lost_after * _FIRST_PATIENCE
        for request in self.requests.values():
            if request.pipeline is not None:
                addresses = {hop.node: self.nodes.address(hop.node) for hop in request.pipeline}
                patience_s = first_s * 2.0 ** min(max(0, request.lost_steps - 1), _MOST_DOUBLINGS)
                yield RunningStep(request.key, len(request.tokens), addresses, patience_s)

    def on_due(self, now: float) -> list[CoordinatorAction]:
        """Do the first thing whose time has come: give somebody up who has waited for nodes, or for an answer, for too
        long, or put somebody back to the head of the queue who was rejected."""
        due_s = self.next_due_s
        if due_s is None or due_s > now:
            return []
        request = self.requests[self._due.take()]
        if request.deadline_s == due_s:
            return self._expire(request)
        if request.state == "stranded":
            return self._abort([request.asked.id], self._stranded_words())
        request.move("due")
        self.backing_off.remove(request.asked.id)
        self.queue.join_first(request.asked.id, request.asked.owner)
        return self.admit()

    def _is_due(self, name: str, due_s: float) -> bool:
        """Whether a time that was noted still means something."""
        request = self.requests.get(name)
        if request is None:
            return False
        waits = request.state in ("backing_off", "stranded")
        wanted = request.state != "leaving"
        return (waits and request.due_s == due_s) or (wanted and request.deadline_s == due_s)

    def _expire(self, request: ServedRequest) -> list[CoordinatorAction]:
        """The deadline of a request has passed."""
        words = self._stranded_words() if request.state == "stranded" else too_late(request.generated)
        if request.state != "running":
            return [*self._abort([request.asked.id], words), *self.admit()]
        self.counters.failed += 1
        return [*self.cancel(request.asked.id), Abort(request.asked.id, words)]

    def _stranded_words(self) -> RequestError:
        """Why a request that waited for nodes is given up."""
        return unavailable(self.nodes.what_is_missing() if not self.ready else "no pipeline is left that holds it")

    def _has_room(self, expected: int, most: int) -> Callable[[str], bool]:
        takes, admits = self.nodes.takes, self.ledger.admitting(expected, most)
        return lambda name: takes(name) and admits(name)

    def _start(self, request: ServedRequest, pipeline: Pipeline, expected: int) -> list[CoordinatorAction]:
        request.move("start")
        self._attempts += 1
        request.pipeline, request.attempt = pipeline, self._attempts
        self.running_on.update(hop.node for hop in pipeline)
        # What isn't computed here can't be scored here, or summed up.
        alone = request.alone or request.wants_scores or request.asked.sampling.pooling is not None
        prefix, releases = self.prefixes.start(
            request.key, pipeline, request.tokens, expected, request.most, alone=alone
        )
        request.cached = prefix.tokens if prefix is not None else 0
        addresses = tuple(self.nodes.address(hop.node) for hop in pipeline)
        sampling = request.asked.sampling
        request.computes_anew()
        request.drafts = None if request.plain else self.drafting.begin(self._round_costs(pipeline))
        if not request.wants_scores:
            sampling = replace(sampling, prompt_logprobs=None)
        history = History(tuple(request.tokens), len(request.asked.prompt)) if sampling.needs_history else None
        traced = request.asked.traceparent is not None
        checkpoint = self.prefixes.checkpoint(request.key)
        shares = self._micro_batches(pipeline)
        route = Route(pipeline, addresses, sampling, shares, prefix, history, traced, checkpoint)
        pieces = (Send(addresses[0], piece) for piece in self._pieces(request, route))
        return [*self._tell(releases), *pieces]

    def _pieces(self, request: ServedRequest, route: Route) -> Iterator[Forward]:
        """What is to be computed of a request's tokens, cut so that each piece fits a batch."""
        tokens = np.array(request.tokens, dtype=np.int32)
        longest = longest_piece(self.plan.served.runtime.max_prefill_tokens)
        start = request.cached
        while start < len(tokens):
            stop = start + piece_tokens(len(tokens) - start, longest)
            first = route if start == request.cached else None
            yield Forward(request.key, start, stop == len(tokens), first, tokens[start:stop])
            start = stop

    def _micro_batches(self, pipeline: Pipeline) -> MicroBatches:
        if not self.plan.served.runtime.micro_batches:
            return UNDIVIDED
        network_s = sum(link.latency_s for link in self._links_of(pipeline))
        return micro_batches([self.nodes.step_s(hop) for hop in pipeline], network_s)

    def _links_of(self, pipeline: Pipeline) -> Iterator[Link]:
        """Those of a pipeline that are declared, from the coordinator and home again."""
        for tail, head in hops_of(pipeline):
            link = self._links.find(tail, head)
            if link is not None:
                yield link

    def _round_costs(self, pipeline: Pipeline) -> RoundCosts:
        """What a decode step takes once around, and what each token more adds to computing and to what is sent."""
        links = list(self._links_of(pipeline))
        sent_s = 0.0
        if self.plan.model is not None:
            width, size = self.plan.model.geometry.hidden_size, self.plan.job.model.element_bytes
            between = links[1:-1] if len(links) == len(pipeline) + 1 else ()  # elsewhere it is ids, a few bytes
            sent_s = sum(packed_bytes(width, size, link.codec) / link.bytes_per_s for link in between)
        network_s = sum(link.latency_s for link in links) + sent_s
        step_s = sum(self.nodes.step_s(hop) for hop in pipeline)
        token_s = sum(self.nodes.token_s(hop) for hop in pipeline)
        return RoundCosts(step_s + network_s, token_s + sent_s, self._micro_batches(pipeline).shares)

    # ------------------------------------------------------------------ from workers

    def on_sampled(self, message: Sampled) -> list[CoordinatorAction]:
        """A token has come home; the next step follows, or the end.

        Raises:
            IllegalEvent: for an attempt that never was, or a token out of turn.
        """
        request = self._running(message.request, "token")
        if request is None:
            return self.dismiss(message.request)
        if request.state == "leaving":
            request.move("token")
            return [*self._leave(request, "cancel", message.position), *self._forget(request), *self.admit()]
        sent = 0 if request.drafts is None else len(request.drafts.sent)
        if message.position != len(request.tokens) or len(message.more) > sent:
            request.move("token_out_of_turn")
        if request.lacks_scores or request.lacks_pooled:
            return self.on_lost_step(message.request)  # they came before it, unless they were lost
        cached = 0 if request.generated else request.cached
        scores = tuple(request.scores) if request.wants_scores else None
        if not request.asked.max_tokens:
            pooled = tuple(request.pooled)
            event = TokenEvent(None, "length", cached_tokens=cached, prompt_scores=scores, pooled=pooled)
            return self._finish(request, event, message.position)
        drawn = (DrawnToken(message.token, message.logprobs), *message.more)
        if request.drafts is not None:
            self.drafting.verified(request.drafts, [one.token for one in drawn])
        delivered: list[CoordinatorAction] = []
        for one in drawn:
            computed = len(request.tokens)
            if one.token in request.asked.stop_ids:
                told = request.asked.tells_stop
                token, logprobs = (one.token, one.logprobs) if told else (None, None)
                event = TokenEvent(token, "stop", logprobs, cached, scores)
                return [*delivered, *self._finish(request, event, computed)]
            request.lost_steps = 0
            request.tokens.append(one.token)
            self.counters.generated_tokens += 1
            if request.generated >= request.asked.max_tokens:
                event = TokenEvent(one.token, "length", one.logprobs, cached, scores)
                return [*delivered, *self._finish(request, event, computed)]
            delivered.append(Deliver(request.asked.id, TokenEvent(one.token, None, one.logprobs, cached, scores)))
            cached, scores = 0, None  # told with the first token
        request.move("token")
        return [*self._next_step(request), *delivered]

    def _next_step(self, request: ServedRequest) -> list[CoordinatorAction]:
        """The decode step of a request's last token, with what is drafted behind it."""
        assert request.pipeline is not None, "a running request has no pipeline"
        tokens, drafts = request.tokens, self._drafts(request)
        releases = self.prefixes.on_token(request.key, len(tokens) + len(drafts))
        ids = np.array([tokens[-1], *drafts], dtype=np.int32)
        step = Forward(request.key, len(tokens) - 1, True, None, ids, drafts=drafts)
        return [*self._tell(releases), Send(self.nodes.address(request.pipeline[0].node), step)]

    def _drafts(self, request: ServedRequest) -> tuple[int, ...]:
        """What the next step of a request carries: never so much that its answer could become longer than it may."""
        if request.drafts is None:
            return ()
        busiest = max(self.running_on[hop.node] for hop in request.pipeline or ())
        most = request.asked.max_tokens - request.generated - 1
        return self.drafting.next(request.drafts, request.tokens, busiest, most)

    def on_scored(self, message: PromptScored) -> list[CoordinatorAction]:
        """Scores of a prompt's tokens have come home; where some before them haven't, they are lost."""
        request = self._attempt(message.request)
        if request is None or not request.wants_scores:
            return []
        known = 1 + len(request.scores)
        if message.position > known:
            return self.on_lost_step(message.request)
        request.scores += message.scores[known - message.position :][: len(request.asked.prompt) - known]
        return []

    def on_pooled(self, message: PromptPooled) -> list[CoordinatorAction]:
        """A sum of hidden states over a stretch of a prompt has come home; where some before it haven't, they are
        lost."""
        request = self._attempt(message.request)
        if request is None or not request.lacks_pooled:
            return []
        if message.position > request.pooled_to:
            return self.on_lost_step(message.request)
        if message.position == request.pooled_to:
            request.pooled.append(message.payload)
            request.pooled_to += message.tokens
        return []

    def on_rejected(self, message: Rejected, now: float) -> list[CoordinatorAction]:
        """A worker couldn't go on with a request; it is tried again, or has been tried enough.

        Raises:
            IllegalEvent: for an attempt that never was.
        """
        request = self._running(message.request, message.reason)
        if request is None:
            return []
        if message.reason == "no_prefix":
            request.alone = True
            releases = self.prefixes.drop_parent(request.key)
            return [*self._tell(releases), *self._start_over(request, "no_prefix"), *self.admit()]
        if message.reason == "not_finite" and request.has_drafts:
            # What was drafted may be to blame, which nobody may have asked for.
            request.plain = True
            return [*self._start_over(request, "lost_step"), *self.admit()]
        if message.reason == "not_finite":
            return [*self._fail(request, "not_finite", not_finite(message.node)), *self.admit()]
        if message.reason == "stuck":
            return [*self._fail(request, "stuck", stuck()), *self.admit()]
        if message.reason == "malformed":
            return [*self._back_off(request, "malformed", now), *self.admit()]
        # Whatever the ledger makes of that node, what is only kept there goes first.
        releases = self.prefixes.drop_node(message.node)
        return [*self._tell(releases), *self._back_off(request, "kv_full", now), *self.admit()]

    def on_malformed(self, key: str, now: float) -> list[CoordinatorAction]:
        """A message that names an attempt was refused: what it was to say is lost, so the request is tried again."""
        request = self._attempt(key)
        if request is None:
            return []
        return [*self._back_off(request, "malformed", now), *self.admit()]

    def on_lost_step(self, key: str) -> list[CoordinatorAction]:
        """A step of an attempt is nowhere any more: its request is tried again, or has been tried enough."""
        request = self._attempt(key)
        if request is None:
            return []
        request.lost_steps += 1
        if request.state == "running" and gives_up(request.lost_steps):
            request.move("give_up")
            self.counters.failed += 1
            words = Abort(request.asked.id, steps_lost())
            return [*self._leave(request, "lost_step"), *self._forget(request), words, *self.admit()]
        return [*self._start_over(request, "lost_step"), *self.admit()]

    def dismiss(self, key: str) -> list[CoordinatorAction]:
        """Free what workers hold of an attempt at a request that nobody made here; somebody else began it."""
        if key.rpartition("/")[0] in self.requests:
            return []
        return [Send(self.nodes.address(node), Release(key)) for node in self.nodes.nodes if self.nodes.is_up(node)]

    def _running(self, key: str, event: RequestEvent) -> ServedRequest | None:
        """The running request of an attempt, or ``None`` for what is over or was tried again."""
        request = self._attempt(key)
        attempt = key.rpartition("/")[2]
        if request is None and not (
            attempt.isdecimal() and len(attempt) <= _MOST_DIGITS and 0 < int(attempt) <= self._attempts
        ):
            raise IllegalEvent("request", key, "new", event, "submit")
        return request

    def _attempt(self, key: str) -> ServedRequest | None:
        """The request of which this is the running attempt."""
        request = self.requests.get(key.rpartition("/")[0])
        return request if request is not None and request.pipeline is not None and request.key == key else None

    def _back_off(
        self, request: ServedRequest, why: Literal["kv_full", "malformed"], now: float
    ) -> list[CoordinatorAction]:
        """A worker had no KV cache left for a request, or a message of it was refused: it waits before it is tried
        again, or has been tried enough."""
        request.cautious = request.cautious or why == "kv_full"
        request.rejections += 1
        is_wanted = request.state == "running"
        enough = is_wanted and gives_up(request.rejections)
        state = request.move("give_up" if enough else why)
        actions = self._leave(request, why)
        if state == "backing_off":
            request.due_s = now + backoff_s(request.rejections)
            self._note_due(request, request.due_s)
            self.backing_off.append(request.asked.id)
            return actions
        self._forget(request)
        if not is_wanted:
            return actions
        self.counters.failed += 1
        return [*actions, Abort(request.asked.id, no_room() if why == "kv_full" else malformed())]

    def _fail(
        self, request: ServedRequest, why: Literal["not_finite", "stuck"], error: RequestError
    ) -> list[CoordinatorAction]:
        """A worker computed something for a request that isn't a number, or finds no token for it."""
        is_wanted = request.state == "running"
        request.move(why)
        actions = [*self._leave(request, why), *self._forget(request)]
        if not is_wanted:
            return actions
        self.counters.failed += 1
        return [*actions, Abort(request.asked.id, error)]

    def _finish(self, request: ServedRequest, event: TokenEvent, computed: int) -> list[CoordinatorAction]:
        request.move("last_token")
        self.counters.finished += 1
        done = [*self._leave(request, "last_token", computed), *self._forget(request), *self.admit()]
        return [Deliver(request.asked.id, event), *done]

    def _start_over(self, request: ServedRequest, why: RequestEvent) -> list[CoordinatorAction]:
        """Back to the head of the queue, with the tokens it has; or out, if nobody wants it any more."""
        state = request.move(why)
        actions = self._leave(request, why)
        if state == "over":
            return [*actions, *self._forget(request)]
        self.queue.join_first(request.asked.id, request.asked.owner)
        return actions

    def _leave(self, request: ServedRequest, why: RequestEvent, computed: int = 0) -> list[CoordinatorAction]:
        """Free what a running request holds on its pipeline, but for what is worth keeping of ``computed`` tokens."""
        self.running_on.subtract(hop.node for hop in request.pipeline or ())
        self.load.leave(request)
        request.pipeline = None
        over = [] if request.asked.traceparent is None else [AttemptOver(request.key, why)]
        return [*over, *self._tell(self.prefixes.end(request.key, request.tokens[:computed]))]

    def _tell(self, releases: Releases) -> list[CoordinatorAction]:
        return [
            Send(self.nodes.address(hop.node), release)
            for route, release in releases
            for hop in route
            if self.nodes.is_up(hop.node)
        ]

    def _forget(self, request: ServedRequest) -> list[CoordinatorAction]:
        del self.requests[request.asked.id]
        return []

    # ------------------------------------------------------------------ from nodes

    def on_up(self, node: str, kv_tokens: int, now: float) -> list[CoordinatorAction]:
        """A worker serves, with room for so many tokens of KV cache."""
        shape = self.nodes.nodes[node].kv_shape
        self.ledger.capacity[node] = kv_tokens * shape.layers
        if shape.windowed:
            self.ledger.shapes[node] = shape
        self._node_changed()
        self._regroup(now)
        return self.admit()

    def on_down(self, node: str, now: float) -> list[CoordinatorAction]:
        """A worker is lost: what ran there starts over elsewhere, and who fits nowhere waits until it can again."""
        self._forget_cache(node)
        self._node_changed()
        actions: list[CoordinatorAction] = []
        for request in reversed(self._served_by(node)):
            actions += self._start_over(request, "lost")
        self._regroup(now)
        return [*actions, *self.drop_prefixes(node), *self.admit()]

    def on_hops(self, now: float) -> list[CoordinatorAction]:
        """Other hops than before carry nothing: what runs over one starts over on another way."""
        cut = self.nodes.cut_hops()
        if cut != self._cut:
            self._routing = None
        over_cut = [request for request in self.requests.values() if not cut.isdisjoint(_hops(request))]
        actions: list[CoordinatorAction] = []
        for request in reversed(over_cut):
            actions += self._start_over(request, "lost")
        self._regroup(now)
        return [*actions, *self.admit()]

    def on_plan(self, plan: Plan, ways: FlowGraph, job: Job, now: float) -> list[CoordinatorAction]:
        """Another plan takes over: what runs goes on where it is, all others go by the new one.

        Args:
            plan: whose nodes are all known, and many of them up.
            ways: the hops that its placement makes possible.
            job: with the links of all nodes that there are.
            now: in seconds of any monotonic clock.
        """
        self._go_by(plan, ways, job)
        releases = [action for name in sorted(self.nodes.leaving) for action in self.drop_prefixes(name)]
        self._regroup(now)
        return [*releases, *self.admit()]

    def still_ready(self) -> bool:
        """Whether a full path is up by what nodes may be sent now; no request is moved."""
        self._routing = None
        return self.ready

    def on_drain(self, now: float) -> list[CoordinatorAction]:
        """A node gets no new requests any more, or does again."""
        self._routing = None
        self._regroup(now)
        return self.admit()

    def forget_node(self, name: str) -> None:
        """A node is there no more."""
        self._forget_cache(name)
        del self.running_on[name]

    def _forget_cache(self, node: str) -> None:
        self.ledger.capacity.pop(node, None)
        self.ledger.shapes.pop(node, None)

    def drop_prefixes(self, node: str) -> list[CoordinatorAction]:
        """Keep nothing any more of requests that are over, on routes through a node."""
        return self._tell(self.prefixes.drop_node(node))

    def _regroup(self, now: float) -> None:
        """Set those aside who fit no pipeline of what is up, since all others would wait behind them, and put those
        back to the head of the queue, in the order of their arrival, who do again."""
        fits = cache(self._fits)
        idle = [*self.queue, *self.backing_off]
        self._strand([name for name in idle if not fits(self.requests[name].most)], now)
        if not self.stranded:
            return
        back = [name for name, request in self.requests.items() if request.state == "stranded" and fits(request.most)]
        self._leave_places(back)
        for name in reversed(back):
            request = self.requests[name]
            request.move("way_back")
            cost = 0.0 if request.attempt else request.expected(self.plan.served)
            self.queue.join_first(name, request.asked.owner, cost)

    def _strand(self, names: list[str], now: float) -> None:
        """Let requests wait for nodes, for so long as the job says."""
        self._leave_places(names)
        for name in names:
            request = self.requests[name]
            request.move("no_way")
            request.due_s = now + self.plan.job.runtime.path_timeout
            self._note_due(request, request.due_s)
            self.stranded.append(name)

    def _leave_places(self, names: list[str]) -> None:
        """Let requests wait no more where they did."""
        gone = frozenset(names)
        if gone:
            self.backing_off = [name for name in self.backing_off if name not in gone]
            self.stranded = [name for name in self.stranded if name not in gone]
            self.queue.remove(gone)

    def _abort(self, names: list[str], error: RequestError) -> list[CoordinatorAction]:
        self._leave_places(names)
        for name in names:
            self.requests.pop(name).move("abort")
        self.counters.failed += len(names)
        return [Abort(name, error) for name in names]

    def _served_by(self, node: str) -> list[ServedRequest]:
        return [
            request
            for request in self.requests.values()
            if request.pipeline is not None and any(hop.node == node for hop in request.pipeline)
        ]


def _hops(request: ServedRequest) -> Iterator[tuple[str, str]]:
    """From which node to which a request's steps go, the coordinator left out."""
    return pairwise(hop.node for hop in request.pipeline or ())
