"""The coordinator's decisions: two machines, of requests and of nodes, joined into one.

Event and time in, actions out: no sockets, no clock, no processes, so that races are plain tests. Owns which machine an
event is for, and that an illegal one changes nothing, is counted and told. What the machines do is in
``requests_state`` and ``nodes_state``; their transitions are the tables ``REQUEST`` and ``NODE``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from helix_df.graph.flow_graph import FlowGraph
from helix_df.graph.problem import Placement
from helix_df.plan.plan import Plan
from helix_df.rules.pages import PAGE_TOKENS
from helix_df.runtime.coordinator.actions import CoordinatorAction
from helix_df.runtime.coordinator.nodes_state import NodeAction, NodeDown, NodesState, NodeUp
from helix_df.runtime.coordinator.page_ledger import PageLedger
from helix_df.runtime.coordinator.prefix_cache import PrefixCache
from helix_df.runtime.coordinator.requests_state import RequestsState
from helix_df.runtime.coordinator.ways import possible_ways, serving_nodes
from helix_df.runtime.requests import GenerationRequest, JobState, JobStatus, NodeStatus
from helix_df.runtime.transitions import IllegalEvent, IllegalEvents
from helix_df.runtime.wire.messages import Failed, Heartbeat, Hello, Loading, Message, Ready, Rejected, Sampled, Send


@dataclass(slots=True)
class CoordinatorState:
    """One job: its nodes, its requests, and the routing over its plan.

    ``context`` is the most tokens of a request, ``page_tokens`` those of a page in the workers' KV cache. ``ways`` are
    the hops that the placement makes possible, by default those of the plan's job. ``life`` is 1 for the first
    coordinator of a job and more for each that follows when one has died.
    """

    plan: Plan
    context: int
    page_tokens: int = PAGE_TOKENS
    ways: FlowGraph | None = None
    life: int = 1
    nodes_state: NodesState = field(init=False)
    requests_state: RequestsState = field(init=False)
    illegal: IllegalEvents = field(default_factory=IllegalEvents)

    def __post_init__(self) -> None:
        ways = self.ways or possible_ways(self.plan)
        self.nodes_state = NodesState.of(self.plan, serving_nodes(self.plan, ways))
        self.requests_state = RequestsState(self.plan, self.context, self.page_tokens, self.nodes_state, ways)
        self.requests_state.begin_life(self.life)

    # ------------------------------------------------------------------ what the shell asks

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes that requests may go through, and so need a worker."""
        return tuple(self.nodes_state.nodes)

    @property
    def placement(self) -> Placement:
        """Layers of the nodes that requests may go through."""
        return self.nodes_state.placement

    @property
    def ledger(self) -> PageLedger:
        """The account of KV cache."""
        return self.requests_state.ledger

    @property
    def prefixes(self) -> PrefixCache:
        """Who begins with whose KV cache, and what is kept for those to come."""
        return self.requests_state.prefixes

    @property
    def ready(self) -> bool:
        """Whether a full path through the layers is up."""
        return self.requests_state.ready

    @property
    def all_up(self) -> bool:
        """Whether every worker serves."""
        return self.nodes_state.all_up

    @property
    def was_ready(self) -> bool:
        """Whether all workers have served at once before."""
        return self.nodes_state.was_ready

    @property
    def failure(self) -> str | None:
        """Why the job didn't come up, once that is certain."""
        return self.nodes_state.failure

    @property
    def next_retry_s(self) -> float | None:
        """When ``retry`` is to be called next, on the clock of ``on_message``; ``None`` while nobody backs off."""
        return self.requests_state.next_retry_s

    def snapshot(self) -> JobStatus:
        """The job at this moment."""
        requests = self.requests_state
        return JobStatus(
            name=self.plan.job.name,
            model=self.plan.job.model.served_name,
            state=self._job_state(),
            ready=self.ready,
            detail=self.failure or "",
            nodes=tuple(self._node_status(name) for name in self.nodes_state.nodes),
            waiting=requests.waiting,
            running=requests.running,
            finished=requests.counters.finished,
            failed=requests.counters.failed,
            prompt_tokens=requests.counters.prompt_tokens,
            generated_tokens=requests.counters.generated_tokens,
            prefix_hits=self.prefixes.hits,
            cached_tokens=self.prefixes.cached_tokens,
            illegal_events=self.illegal.total,
        )

    # ------------------------------------------------------------------ events

    def submit(self, asked: GenerationRequest) -> list[CoordinatorAction]:
        """Take a request.

        Raises:
            RequestError: when it can never be served, too many wait, or no path is up.
        """
        return self.requests_state.submit(asked)

    def cancel(self, request: str) -> list[CoordinatorAction]:
        """Give a request up; its KV cache is freed once its step in flight has come home."""
        return self.requests_state.cancel(request)

    def retry(self, now: float) -> list[CoordinatorAction]:
        """Put the first of those back to the head of the queue that have waited long enough after a rejection."""
        return self.requests_state.retry(now)

    def on_message(self, message: Message, now: float) -> list[CoordinatorAction]:
        """React to what a worker says; ``now`` is in seconds of any monotonic clock."""
        try:
            return self._react(message, now)
        except IllegalEvent as error:
            ghost = error.role == "request" and error.state == "new" and isinstance(message, Sampled)
            return [self.illegal.note(error), *(self.requests_state.dismiss(error.subject) if ghost else ())]

    def on_malformed(self, request: str, now: float) -> list[CoordinatorAction]:
        """A message that names an attempt at a request was refused; ``now`` as for ``on_message``."""
        return self.requests_state.on_malformed(request, now)

    def on_exit(self, name: str, words: str) -> list[CoordinatorAction]:
        """A worker is gone; ``words`` are its last. Before the job was first up, that is the end of it."""
        try:
            return self._pass_on(self.nodes_state.on_exit(name, words))
        except IllegalEvent as error:
            return [self.illegal.note(error)]

    def take_over(self, name: str, address: str, life: int) -> list[CoordinatorAction]:
        """Call back a worker that served a coordinator before this one."""
        return self._pass_on(self.nodes_state.take_over(name, address, life))

    def tick(self, now: float) -> list[CoordinatorAction]:
        """Notice workers that have been silent for too long."""
        return self._pass_on(self.nodes_state.tick(now))

    def stop(self) -> list[CoordinatorAction]:
        """End the job: abort what runs and waits, and tell the workers to exit."""
        aborted = self.requests_state.close("the job is being stopped")
        return [*aborted, *self._pass_on(self.nodes_state.close())]

    def validate(self) -> None:
        """Check every sum that both machines keep; costs more than an event.

        Raises:
            AssertionError: when one is wrong.
        """
        self.nodes_state.validate()
        self.requests_state.validate()

    def _react(self, message: Message, now: float) -> list[CoordinatorAction]:
        match message:
            case Sampled():
                return self.requests_state.on_sampled(message)
            case Rejected():
                actions = self.requests_state.on_rejected(message, now)
                if message.reason == "not_finite":
                    self.nodes_state.flag_not_finite(message.node)
                return actions
            case Hello():
                return self._pass_on(self.nodes_state.on_hello(message, now))
            case Loading() | Ready() | Heartbeat():
                return self._pass_on(self.nodes_state.on_progress(message, now))
            case Failed():
                return self._pass_on(self.nodes_state.on_exit(message.node, message.reason))
            case _:
                raise IllegalEvent("coordinator", self.plan.job.name, self._job_state(), message.TAG)

    def _pass_on(self, outcomes: Iterable[NodeAction]) -> list[CoordinatorAction]:
        """Tell the requests what has become of nodes."""
        actions: list[CoordinatorAction] = []
        for outcome in outcomes:
            match outcome:
                case Send():
                    actions.append(outcome)
                case NodeUp():
                    actions += self.requests_state.on_up(outcome.node, outcome.kv_tokens)
                case NodeDown():
                    actions += self.requests_state.on_down(outcome.node)
        return actions

    def _job_state(self) -> JobState:
        if self.nodes_state.closed:
            return "stopping"
        if self.failure is not None:
            return "failed"
        if self.all_up:
            return "ready"
        return "degraded" if self.nodes_state.was_ready else "starting"

    def _node_status(self, name: str) -> NodeStatus:
        return self.nodes_state.nodes[name].status(
            name,
            kv_used=self.ledger.used.get(name, 0),
            kv_kept=self.ledger.kept.get(name, 0),
            kv_capacity=self.ledger.capacity.get(name),
            running=self.requests_state.running_on[name],
        )
