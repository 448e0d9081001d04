"""No request is lost, answered twice or answered wrongly, in whatever order messages arrive and workers die."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from helix_df.errors import RequestError
from helix_df.layers import LayerRange
from property_tests.runtime_world import World, toy_answer, toy_plan

LAYERS = 6
# Two ways through the layers that meet in the middle, with partial inference on the way out.
PLACEMENT = {
    "a": LayerRange(0, 3),
    "b": LayerRange(0, 2),
    "c": LayerRange(2, 6),
    "d": LayerRange(2, 4),
    "e": LayerRange(3, 6),
}


# Lengths around the 16 tokens of a prompt's pieces, where the last piece is as short as a decode step.
PROMPTS = st.sampled_from((1, 5, 16, 17, 33)).flatmap(
    lambda length: st.lists(st.integers(0, 63), min_size=length, max_size=length)
)


class RuntimeMachine(RuleBasedStateMachine):
    """Requests, cancellations, deaths and births of workers, in any order."""

    def __init__(self) -> None:
        super().__init__()
        plan = toy_plan(PLACEMENT, LAYERS, kv_tokens=60, max_queue=8, max_prefill_tokens=16, expected_output=0.3)
        self.world = World(plan)
        self.dead: set[str] = set()

    @rule(prompt=PROMPTS, max_tokens=st.integers(1, 12))
    def submit(self, prompt: list[int], max_tokens: int) -> None:
        try:
            self.world.submit(tuple(prompt), max_tokens)
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

    @rule(node=st.sampled_from(sorted(PLACEMENT)))
    def kill(self, node: str) -> None:
        if node in self.world.coordinator.nodes and node not in self.dead:
            self.world.kill(node)
            self.dead.add(node)

    @precondition(lambda self: self.dead)
    @rule()
    def revive(self) -> None:
        self.world.join(self.dead.pop())

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @invariant()
    def answers_are_right_so_far(self) -> None:
        for name, events in self.world.answers.items():
            assert events == toy_answer(self.world.asked[name], LAYERS)[: len(events)], name

    def teardown(self) -> None:
        self.world.settle()
        for name, events in self.world.answers.items():
            finished = bool(events) and events[-1].finish is not None
            given_up = name in self.world.aborted or name in self.world.cancelled
            assert finished or given_up, f"{name} is lost"
            assert not (finished and name in self.world.aborted), f"{name} was answered and aborted"
        assert self.world.leftovers() == {}


TestRuntime = RuntimeMachine.TestCase
TestRuntime.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
