"""The coordinator's decisions: two machines, of requests and of nodes, joined into one.

Event and time in, actions out: no sockets, no clock, no processes, so that races are plain tests. Owns which machine an
event is for, and that an illegal one changes nothing, is counted and told. What the machines do is in
``requests_state`` and ``nodes_state``; their transitions are the tables ``REQUEST`` and ``NODE``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from helix_df.errors import DeploymentError
from helix_df.graph.flow_graph import FlowGraph
from helix_df.graph.problem import Placement
from helix_df.plan.plan import Plan
from helix_df.plan.takeover import Spare, Takeover, takeover
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.rules.routing import has_path
from helix_df.runtime.coordinator.actions import CoordinatorAction
from helix_df.runtime.coordinator.nodes_state import HopsChanged, NodeAction, NodeDown, NodesState, NodeUp
from helix_df.runtime.coordinator.page_ledger import PageLedger
from helix_df.runtime.coordinator.prefix_cache import PrefixCache
from helix_df.runtime.coordinator.requests_state import RequestsState
from helix_df.runtime.coordinator.ways import possible_ways, serving_nodes, ways_of
from helix_df.runtime.requests import GIVEN_UP, GenerationRequest, JobState, JobStatus, NodeStatus, some
from helix_df.runtime.transitions import IllegalEvent, IllegalEvents
from helix_df.runtime.wire.messages import (
    Failed,
    Heartbeat,
    Hello,
    Loading,
    Message,
    PromptPooled,
    PromptScored,
    Ready,
    Rejected,
    Sampled,
    Send,
)
from helix_df.spec.job import Job


@dataclass(frozen=True, slots=True)
class PlanChange:
    """A plan that is to take over: how, the hops that its placement makes possible, and who may serve it."""

    how: Takeover
    ways: FlowGraph
    serving: tuple[str, ...]


@dataclass(slots=True)
class CoordinatorState:
    """One job: its nodes, its requests, and the routing over its plan.

    ``context`` is the most tokens of a request, ``page_tokens`` those of a page in the workers' KV cache. ``ways`` are
    the hops that the placement makes possible, by default those of the plan's job. ``names`` are those of the workers
    by the nodes that they serve, where another plan has taken over since the job began; ``spares`` those of nodes that
    the plan does without until they are back. ``life`` is 1 for the first coordinator of a job and more for each that
    follows when one has died.
    """

    plan: Plan
    context: int
    page_tokens: int = PAGE_TOKENS
    ways: FlowGraph | None = None
    life: int = 1
    nodes_state: NodesState = field(init=False)
    requests_state: RequestsState = field(init=False)
    illegal: IllegalEvents = field(default_factory=IllegalEvents)
    change: PlanChange | None = None
    change_failure: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    spares: Mapping[str, Spare] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ways = self.ways or possible_ways(self.plan)
        self.nodes_state = NodesState.of(self.plan, serving_nodes(self.plan, ways), self.spares.values())
        self.requests_state = RequestsState(self.plan, self.context, self.page_tokens, self.nodes_state, ways)
        self.requests_state.begin_life(self.life)
        self.names = self.names or {node: node for node in self.plan.job.nodes}

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
    def next_due_s(self) -> float | None:
        """When ``on_due`` is to be called next, on the clock of ``on_message``; ``None`` while nothing is to come."""
        return self.requests_state.next_due_s

    def snapshot(self) -> JobStatus:
        """The job at this moment."""
        requests = self.requests_state
        return JobStatus(
            name=self.plan.job.name,
            model=self.plan.job.model.served_name,
            state=self._job_state(),
            ready=self.ready and not self.requests_state.winding_down,
            detail=self.failure or "",
            nodes=tuple(self._node_status(name) for name in self.nodes_state.nodes),
            waiting=requests.waiting,
            running=requests.running,
            finished=requests.counters.finished,
            failed=requests.counters.failed,
            prompt_tokens=requests.counters.prompt_tokens,
            generated_tokens=requests.counters.generated_tokens,
            asked_tokens=requests.counters.asked_tokens,
            prefix_hits=self.prefixes.hits,
            cached_tokens=self.prefixes.cached_tokens,
            drafted_tokens=requests.drafting.drafted,
            accepted_tokens=requests.drafting.accepted,
            decode_steps=requests.drafting.steps,
            draftable_steps=requests.drafting.found,
            drafted_steps=requests.drafting.sent,
            illegal_events=self.illegal.total,
            missing_layers=self.nodes_state.missing_layers(),
            change=self._change_words(),
            cut_hops=tuple(sorted(self.nodes_state.cut_hops())),
            num_layers=self.plan.num_layers,
            planned_tokens_per_s=self.plan.flow,
            hops=requests.load.status(requests.requests.values(), self.plan.edges),
        )

    # ------------------------------------------------------------------ events

    def submit(self, asked: GenerationRequest, now: float) -> list[CoordinatorAction]:
        """Take a request; ``now`` as for ``on_message``.

        Raises:
            RequestError: when it can never be served, too many wait, or the job hasn't come up.
        """
        return self.requests_state.submit(asked, now)

    def cancel(self, request: str) -> list[CoordinatorAction]:
        """Give a request up; its KV cache is freed once its step in flight has come home."""
        return self.requests_state.cancel(request)

    def on_due(self, now: float) -> list[CoordinatorAction]:
        """Do the first thing whose time has come: try a request again, or give it up."""
        return self.requests_state.on_due(now)

    def on_message(self, message: Message, now: float) -> list[CoordinatorAction]:
        """React to what a worker says; ``now`` is in seconds of any monotonic clock."""
        try:
            return [*self._react(message, now), *self._go_on(now)]
        except IllegalEvent as error:
            ghost = error.role == "request" and error.state == "new" and isinstance(message, Sampled)
            return [self.illegal.note(error), *(self.requests_state.dismiss(error.subject) if ghost else ())]

    def on_malformed(self, request: str, now: float) -> list[CoordinatorAction]:
        """A message that names an attempt at a request was refused; ``now`` as for ``on_message``."""
        return self.requests_state.on_malformed(request, now)

    def on_lost_step(self, request: str, now: float) -> list[CoordinatorAction]:
        """A step of an attempt at a request is nowhere any more (``StepWatch``); ``now`` as for ``on_message``."""
        return [*self.requests_state.on_lost_step(request), *self._go_on(now)]

    def on_exit(self, name: str, words: str, now: float) -> list[CoordinatorAction]:
        """A worker is gone; ``words`` are its last. Before the job was first up, that is the end of it."""
        try:
            return [*self._pass_on(self.nodes_state.on_exit(name, words), now), *self._go_on(now)]
        except IllegalEvent as error:
            return [self.illegal.note(error)]

    def take_over(self, name: str, address: str, life: int) -> list[CoordinatorAction]:
        """Call back a worker that served a coordinator before this one."""
        return list(self.nodes_state.take_over(name, address, life))

    def begin_change(self, plan: Plan, now: float, without: Collection[str] = ()) -> list[CoordinatorAction]:
        """Let another plan of the same model take over, once all workers that it needs beside those of now are up.

        It does ``without`` some nodes until they are back: their workers are expected, and get no requests.

        Raises:
            DeploymentError: when the two differ in what only a new start can change, or one is on its way already.
        """
        if self.change is not None:
            raise DeploymentError("another plan is about to take over", hint="wait until it has")
        if not self.was_ready or self.nodes_state.closed:
            raise DeploymentError("only a job that has come up can be changed", found=f"it is {self._job_state()}")
        taken = {*self.nodes_state.nodes, *self.nodes_state.former}
        how = takeover(self.plan, self.names, plan, taken, self.spares, without)
        ways = possible_ways(how.plan)
        self.change, self.change_failure = PlanChange(how, ways, serving_nodes(how.plan, ways)), None
        coming = [name for name in how.coming if name in self.change.serving]
        return [*self.nodes_state.make_way(how.plan, coming, how.job), *self._go_on(now)]

    def give_up_change(self, why: str) -> list[CoordinatorAction]:
        """Let no plan take over that was about to."""
        if self.change is None:
            return []
        return self._give_up(why, [name for name in self.change.how.coming if name in self.nodes_state.nodes])

    def drain(self, node: str, drained: bool, now: float) -> list[CoordinatorAction]:
        """Send no new requests to a node, or do again; those that run there go on. ``node``: its name in the job, or
        that of its worker.

        Raises:
            DeploymentError: when there is no such node, or no full path through the layers would be left.
        """
        known = self.nodes_state.nodes
        node = self.names.get(node, node)
        if node not in known:
            raise DeploymentError(f"there is no node {node}", expected=f"one of {', '.join(sorted(known))}")
        before = known[node].drained
        self.nodes_state.drain(node, drained)
        if drained and not self.requests_state.still_ready():
            # Nobody may have been moved yet: what a refusal does is done by no one.
            self.nodes_state.drain(node, before)
            self.requests_state.still_ready()
            raise DeploymentError(
                f"without {node} no full path through the layers is up",
                hint="a plan without it first: `limits.avoid` in the job, then `helix-df apply`",
            )
        return self.requests_state.on_drain(now)

    def tick(self, now: float) -> list[CoordinatorAction]:
        """Notice workers that have been silent for too long."""
        return [*self._pass_on(self.nodes_state.tick(now), now), *self._go_on(now)]

    def wind_down(self) -> list[CoordinatorAction]:
        """Take no new requests any more; those that there are go on."""
        self.requests_state.winding_down = True
        return []

    def stop(self) -> list[CoordinatorAction]:
        """End the job: abort what runs and waits, and tell the workers to exit."""
        aborted = self.requests_state.close("the job is being stopped")
        return [*aborted, *self.nodes_state.close()]

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
            case PromptScored():
                return self.requests_state.on_scored(message)
            case PromptPooled():
                return self.requests_state.on_pooled(message)
            case Rejected():
                actions = self.requests_state.on_rejected(message, now)
                if message.reason == "not_finite":
                    self.nodes_state.flag_not_finite(message.node)
                return actions
            case Hello():
                return self._pass_on(self.nodes_state.on_hello(message, now), now)
            case Loading() | Ready() | Heartbeat():
                return self._pass_on(self.nodes_state.on_progress(message, now), now)
            case Failed():
                return self._pass_on(self.nodes_state.on_exit(message.node, message.reason), now)
            case _:
                raise IllegalEvent("coordinator", self.plan.job.name, self._job_state(), message.TAG)

    def _pass_on(self, outcomes: Iterable[NodeAction], now: float) -> list[CoordinatorAction]:
        """Tell the requests what has become of nodes."""
        actions: list[CoordinatorAction] = []
        for outcome in outcomes:
            match outcome:
                case Send():
                    actions.append(outcome)
                case NodeUp():
                    actions += self.requests_state.on_up(outcome.node, outcome.kv_tokens, now)
                case NodeDown():
                    actions += self.requests_state.on_down(outcome.node, now)
                case HopsChanged():
                    actions += self.requests_state.on_hops(now)
        return actions

    # ------------------------------------------------------------------ another plan

    @property
    def change_job(self) -> Job:
        """The job with the nodes of both plans, while one is to take over."""
        return self.plan.job if self.change is None else self.change.how.job

    def _go_on(self, now: float) -> list[CoordinatorAction]:
        """Let another plan take over if it can by now, or give it up if it can't; let workers go that have nothing left
        to do."""
        actions: list[CoordinatorAction] = []
        if self.change is not None:
            actions += self._go_on_with(self.change, now)
        idle = [name for name in sorted(self.nodes_state.leaving) if not self.requests_state.running_on[name]]
        return [*actions, *self._dismiss(idle)] if idle else actions

    def _go_on_with(self, change: PlanChange, now: float) -> list[CoordinatorAction]:
        nodes, how = self.nodes_state.nodes, change.how
        coming = {name: nodes[name] for name in how.coming if name in nodes}
        ended = {name: node.detail for name, node in coming.items() if node.state in ("lost", "failed")}
        if ended:
            return self._give_up("; ".join(f"worker {name} ended: {words}" for name, words in ended.items()), coming)
        # What is compiled only once requests ask for it would hold those up that come over from warm workers.
        warm = all(node.state == "ready" and not node.health.cold_shapes for node in coming.values())
        if not warm or not has_path(ways_of(how.plan, change.ways), self.nodes_state.is_up):
            return []
        self.change, self.plan, self.names, self.spares = None, how.plan, how.names, how.spares
        self.nodes_state.switch(how.plan, change.serving, [spare.stage.node for spare in how.spares.values()])
        return self.requests_state.on_plan(how.plan, change.ways, how.job, now)

    def _give_up(self, why: str, coming: Iterable[str]) -> list[CoordinatorAction]:
        self.change, self.change_failure = None, why
        return self._dismiss(coming)

    def _dismiss(self, names: Iterable[str]) -> list[CoordinatorAction]:
        gone = list(names)
        releases = [action for name in gone for action in self.requests_state.drop_prefixes(name)]
        sends = self.nodes_state.dismiss(gone)
        for name in gone:
            self.requests_state.forget_node(name)
        return [*releases, *sends]

    def _change_words(self) -> str:
        if self.change is None:
            return "" if self.change_failure is None else f"{GIVEN_UP}: {self.change_failure}"
        nodes = self.nodes_state.nodes
        left = [f"{name} is {nodes[name].state}" for name in self.change.how.coming if name in nodes]
        return f"another plan takes over soon: {', '.join(some(left))}"

    def _job_state(self) -> JobState:
        if self.nodes_state.closed or self.requests_state.winding_down:
            return "stopping"
        if self.failure is not None:
            return "failed"
        if self.all_up and not self.nodes_state.cut_hops():
            return "ready"
        return "degraded" if self.nodes_state.was_ready else "starting"

    def _node_status(self, name: str) -> NodeStatus:
        capacity, tokens = self.ledger.capacity.get(name), self.ledger.tokens
        return self.nodes_state.nodes[name].status(
            name,
            kv_used=tokens(name, self.ledger.used.get(name, 0)),
            kv_kept=tokens(name, self.ledger.kept.get(name, 0)),
            kv_capacity=None if capacity is None else tokens(name, capacity),
            running=self.requests_state.running_on[name],
        )
