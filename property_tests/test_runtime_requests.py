"""No request is lost, answered twice or answered wrongly, in whatever order messages arrive and workers die."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from helix_df.errors import DeploymentError, RequestError
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from property_tests.runtime_world import PIECE, World, toy_answer, toy_plan, toy_speculation

LAYERS = 6
# Two ways through the layers that meet in the middle, with partial inference on the way out.
PLACEMENT = {
    "a": LayerRange(0, 3),
    "b": LayerRange(0, 2),
    "c": LayerRange(2, 6),
    "d": LayerRange(2, 4),
    "e": LayerRange(3, 6),
}
CHAIN = {"a": LayerRange(0, 2), "b": LayerRange(2, 4), "c": LayerRange(4, 6)}


# Plans that may take over: a node more, one less, other layers, the same.
LATER = (
    PLACEMENT,
    {**PLACEMENT, "f": LayerRange(0, 6)},
    {name: layers for name, layers in PLACEMENT.items() if name != "d"},
    {"a": LayerRange(0, 2), "b": LayerRange(2, 4), "c": LayerRange(4, 6)},
)


OF_NODES = frozenset({"hello", "welcome", "ready", "heartbeat"})


# Lengths around the 16 tokens of a prompt's pieces, where the last piece is as short as a decode step.
LENGTHS = st.sampled_from((1, 5, 16, 17, 33))
PROMPTS = LENGTHS.flatmap(lambda length: st.lists(st.integers(0, 63), min_size=length, max_size=length))
# Beginnings that many share, longer and shorter than the pages of 4 tokens.
COMMON = st.builds(lambda length: [(5 * at) % 64 for at in range(length)], LENGTHS)
SHARING = st.builds(lambda common, own: common + own, COMMON, st.lists(st.integers(0, 63), max_size=6))


class RuntimeMachine(RuleBasedStateMachine):
    """Requests, cancellations, deaths and births of workers, in any order."""

    prefix_cache = False
    lossy = False
    placement = PLACEMENT
    kv_tokens = 60
    windows: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.dead: set[str] = set()
        self.robbed: set[str] = set()
        self.killed = False

    @initialize(drafts=st.sampled_from((0, 0, 1, 4, 15)))
    def begin(self, drafts: int) -> None:
        """With and without speculation, which changes nothing."""
        self.drafts = drafts
        self.world = World(self.plan(drafts), lossy=self.lossy, windows=self.windows)

    def plan(self, drafts: int) -> Plan:
        return toy_plan(
            self.placement,
            LAYERS,
            kv_tokens=self.kv_tokens,
            windows=self.windows,
            max_queue=8,
            max_prefill_tokens=PIECE,
            expected_output=0.3,
            prefix_cache=self.prefix_cache,
            speculation=toy_speculation(LAYERS, self.windows, drafts),
        )

    @rule(prompt=PROMPTS | SHARING | SHARING, max_tokens=st.integers(0, 12), owner=st.sampled_from((None, "a", "b")))
    def submit(self, prompt: list[int], max_tokens: int, owner: str | None) -> None:
        try:
            self.world.submit(tuple(prompt), max_tokens, owner)
        except RequestError as refused:
            if refused.status not in (400, 429, 503):
                raise

    @precondition(lambda self: self.world.busy_wires())
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, 8))):
            wires = self.world.busy_wires()
            if wires:
                self.world.deliver(data.draw(st.sampled_from(wires)))

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        self.world.compute(data.draw(st.sampled_from(sorted(self.world.workers))))

    @precondition(lambda self: self.world.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.world.cancel(data.draw(st.sampled_from(sorted(self.world.asked))))

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        alive = sorted({worker.node for worker in self.world.workers.values()})
        if alive:
            node = data.draw(st.sampled_from(alive))
            self.world.kill(node)
            self.killed = True
            self.dead.add(node)

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def revive(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.dead)))
        self.dead.remove(node)
        if node in self.world.coordinator.nodes:
            self.world.join(node)

    @rule(placement=st.sampled_from(LATER))
    def change(self, placement: dict[str, LayerRange]) -> None:
        """Another plan is to take over."""
        with suppress(DeploymentError):
            self.world.change(placement)

    @rule(data=st.data(), drained=st.booleans())
    def drain(self, data: st.DataObject, drained: bool) -> None:
        with suppress(DeploymentError):
            self.world.drain(data.draw(st.sampled_from(self.world.coordinator.nodes)), drained)

    @precondition(lambda self: self.world.serving())
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        """A worker doesn't reach some others."""
        serving = self.world.serving()
        away = data.draw(st.lists(st.sampled_from(serving), max_size=3, unique=True))
        self.world.reach_all_but(data.draw(st.sampled_from(serving)), tuple(away))

    @rule()
    def settle(self) -> None:
        self.mend()
        self.world.settle()

    def mend(self) -> None:
        """All workers reach one another."""
        for address in self.world.serving():
            self.world.reach_all_but(address)

    @invariant()
    def answers_are_right_so_far(self) -> None:
        for name, events in self.world.answers.items():
            assert events == toy_answer(self.world.asked[name], LAYERS, self.windows)[: len(events)], name

    @invariant()
    def what_comes_into_a_node_leaves_it(self) -> None:
        status = self.world.coordinator.snapshot()
        for node in status.nodes:
            comes = [hop for hop in status.hops if hop.head == node.name]
            leaves = [hop for hop in status.hops if hop.tail == node.name]
            assert sum(hop.tokens for hop in comes) == sum(hop.tokens for hop in leaves), node.name
            assert sum(hop.running for hop in comes) == sum(hop.running for hop in leaves) == node.running, node.name

    def teardown(self) -> None:
        self.mend()
        self.world.settle()
        self.world.replay()
        for node, tokens in self.world.pages().items():
            assert tokens == self.world.counted()[node] or node in self.robbed, node
        self.world.drop_prefixes()
        for name, events in self.world.answers.items():
            finished = bool(events) and events[-1].finish is not None
            given_up = name in self.world.aborted or name in self.world.cancelled
            assert finished or given_up, f"{name} is lost"
            assert not (finished and name in self.world.aborted), f"{name} was answered and aborted"
        assert self.world.leftovers() == {}


class PrefixMachine(RuntimeMachine):
    """The same with prefixes that are kept and shared, some of them lost."""

    prefix_cache = True

    @precondition(lambda self: self.kept())
    @rule(data=st.data())
    def lose_a_prefix(self, data: st.DataObject) -> None:
        address, request = data.draw(st.sampled_from(self.kept()))
        self.robbed.add(self.world.workers[address].node)
        self.world.forget_prefix(address, request)

    def kept(self) -> list[tuple[str, str]]:
        workers = self.world.workers.items()
        return [(address, key) for address, worker in sorted(workers) if worker.state for key in worker.state.kept]

    def teardown(self) -> None:
        super().teardown()
        if not self.robbed and not self.killed and "kv_full" not in self.world.rejected:
            assert self.world.rejected == [], "a prefix was freed that a request was to begin with"

    @invariant()
    def what_is_kept_stays_under_high_water(self) -> None:
        ledger = self.world.coordinator.ledger
        for node, kept in ledger.kept.items():
            assert kept >= 0
            assert not kept or not ledger.excess(node)


class RestartMachine(RuntimeMachine):
    """Coordinators die, too, and others go on with what is in the journal."""

    def change(self) -> None:
        """No rule here: a coordinator that dies takes a plan that is about to take over with it."""

    def drain(self) -> None:
        """No rule here, either."""

    def cut(self) -> None:
        """Nor here: who comes after doesn't know when workers will say that all is well again."""

    @rule(unwritten=st.integers(0, 3), said_is_lost=st.booleans())
    def restart_coordinator(self, unwritten: int, said_is_lost: bool) -> None:
        self.world.restart_coordinator(unwritten, said_is_lost)

    def teardown(self) -> None:
        self.world.settle()
        self.world.replay()
        assert not self.world.to_go_on
        for name, events in self.world.answers.items():
            finished = bool(events) and events[-1].finish is not None
            given_up = name in self.world.aborted or name in self.world.cancelled
            assert finished or given_up, f"{name} is lost"
            if name in self.world.aborted:
                assert self.killed, f"{name} is aborted though nobody was killed: {self.world.aborted[name]}"
        # What workers still hold of attempts that nobody runs any more goes when room is short.
        assert not {name: kept for name, kept in self.world.leftovers().items() if name.startswith("used ")}
        assert self.world.coordinator.snapshot().running == 0


class RestartPrefixMachine(RestartMachine):
    """The same with prefixes that are kept and shared."""

    prefix_cache = True


class LossyMachine(RestartMachine):
    """Messages get lost, too, come twice or out of order."""

    lossy = True

    @rule(data=st.data(), rarely=st.integers(0, 3))
    def kill(self, data: st.DataObject, rarely: int) -> None:
        if rarely == 0:
            super().kill(data)

    @precondition(lambda self: self.world.busy_wires())
    @rule(data=st.data(), what=st.sampled_from(("lose", "repeat", "hold_back")), of_nodes=st.integers(0, 3))
    def disturb(self, data: st.DataObject, what: str, of_nodes: int) -> None:
        """Of the many messages about nodes no more than of those about requests."""
        under_way = self.world.under_way()
        chosen = [place for place, tag in under_way if (tag in OF_NODES) == (of_nodes == 0)] or [
            at for at, _ in under_way
        ]
        wire, at = data.draw(st.sampled_from(chosen))
        match what:
            case "lose":
                self.world.lose(wire, at)
            case "repeat":
                self.world.repeat(wire, at)
            case _:
                self.world.hold_back(wire)


class LossyPrefixMachine(LossyMachine):
    """The same with prefixes that are kept and shared."""

    prefix_cache = True


class OneRouteMachine(PrefixMachine):
    """All requests go the same way, so that many share, and releases race with what comes from worker to worker."""

    placement = CHAIN
    kv_tokens = 90


class WindowMachine(PrefixMachine):
    """The same with layers that see a window of tokens, so that nodes which hold no others free what leaves it."""

    windows = (6, 6, 9, 0, 0, 0)


class OneRouteWindowMachine(WindowMachine):
    """All requests go the same way, through nodes with two windows and one with none."""

    placement = CHAIN
    kv_tokens = 90
    windows = (6, 6, 11, 11, 11, 0)


class AllWindowsMachine(OneRouteWindowMachine):
    """No node keeps all."""

    windows = (6, 6, 11, 11, 1, 1)


class LossyWindowMachine(LossyPrefixMachine):
    """Messages get lost, too."""

    windows = (6, 6, 9, 8, 8, 0)


TestRuntime = RuntimeMachine.TestCase
TestRuntime.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPrefixes = PrefixMachine.TestCase
TestPrefixes.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestOneRoute = OneRouteMachine.TestCase
TestOneRoute.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
# The same examples each time: a failure here takes many minutes to shrink, so others are looked for by hand.
TestRestarts = RestartMachine.TestCase
TestRestarts.settings = settings(max_examples=40, stateful_step_count=40, deadline=None, derandomize=True)
TestRestartPrefixes = RestartPrefixMachine.TestCase
TestLossy = LossyMachine.TestCase
TestLossy.settings = settings(max_examples=30, stateful_step_count=40, deadline=None, derandomize=True)
TestLossyPrefixes = LossyPrefixMachine.TestCase
TestLossyPrefixes.settings = settings(max_examples=30, stateful_step_count=40, deadline=None, derandomize=True)
TestRestartPrefixes.settings = settings(max_examples=30, stateful_step_count=40, deadline=None, derandomize=True)
TestWindows = WindowMachine.TestCase
TestWindows.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestOneRouteWindows = OneRouteWindowMachine.TestCase
TestOneRouteWindows.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestAllWindows = AllWindowsMachine.TestCase
TestAllWindows.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestLossyWindows = LossyWindowMachine.TestCase
TestLossyWindows.settings = settings(max_examples=30, stateful_step_count=40, deadline=None, derandomize=True)
