"""Routing follows the flow, never strands a request, and never overfills a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.graph.flow import EdgeFlow
from helix_df.graph.problem import COORDINATOR
from helix_df.layers import LayerRange
from helix_df.rules.routing import FlowRouter, KvLedger, SmoothRoundRobin

WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 1000), min_size=1)


@given(WEIGHTS, st.integers(1, 200))
def test_turns_are_proportional_to_weights_at_every_moment(weights: dict[str, float], turns: int) -> None:
    choices = SmoothRoundRobin(weights)
    taken: Counter[str] = Counter()
    total = sum(weights.values())
    for turn in range(1, turns + 1):
        everybody = range(len(weights))
        chosen, credit = choices.next(everybody)
        assert (chosen, credit) == (choices.ranked(everybody)[0], choices.after(chosen, everybody))
        choices.take(chosen, everybody)
        taken[choices.names[chosen]] += 1
        for name, weight in weights.items():
            # The classical bound of the smooth round-robin: nobody is ahead by a turn, nor behind by the others'.
            assert taken[name] < turn * weight / total + 1 + 1e-6
            assert taken[name] > turn * weight / total - len(weights) - 1e-6


def ladder(rungs: list[list[float]]) -> tuple[dict[str, LayerRange], list[EdgeFlow]]:
    """Stages of one layer each; rung ``i`` has nodes with the given flows, each sent to the next rung in proportion."""
    names = [[f"n{level}-{index}" for index in range(len(rung))] for level, rung in enumerate(rungs)]
    placement = {name: LayerRange(level, level + 1) for level, rung in enumerate(names) for name in rung}
    shares = [[flow / sum(rung) for flow in rung] for rung in rungs]
    edges = [EdgeFlow(COORDINATOR, name, share) for name, share in zip(names[0], shares[0], strict=True)]
    for level in range(len(rungs) - 1):
        for tail, tail_share in zip(names[level], shares[level], strict=True):
            for head, head_share in zip(names[level + 1], shares[level + 1], strict=True):
                edges.append(EdgeFlow(tail, head, tail_share * head_share))
    edges += [EdgeFlow(name, COORDINATOR, share) for name, share in zip(names[-1], shares[-1], strict=True)]
    return placement, edges


RUNGS = st.lists(st.lists(st.floats(1, 100), min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(RUNGS)
def test_pipelines_run_every_layer_once_and_follow_the_flow(rungs: list[list[float]]) -> None:
    placement, edges = ladder(rungs)
    router = FlowRouter(placement, edges)
    through: Counter[str] = Counter()
    count = 1000
    for _ in range(count):
        pipeline = router.route(lambda _name: True)
        assert pipeline is not None
        layers = [layer for hop in pipeline for layer in range(hop.layers.start, hop.layers.stop)]
        assert layers == list(range(len(rungs)))
        through.update(hop.node for hop in pipeline)
    for name in placement:
        share = sum(edge.tokens_per_s for edge in edges if edge.head == name)
        # A vertex is off by a few turns at the most, and its error is shared out below it, level by level.
        assert abs(through[name] - count * share) <= 16 * len(rungs)


@given(RUNGS, st.data())
def test_a_masked_node_is_never_used_and_never_strands_a_request(rungs: list[list[float]], data: st.DataObject) -> None:
    placement, edges = ladder(rungs)
    router = FlowRouter(placement, edges)
    masked = data.draw(st.sets(st.sampled_from(sorted(placement))))
    left = {layers.start for name, layers in placement.items() if name not in masked}
    for _ in range(5):
        pipeline = router.route(lambda name: name not in masked)
        assert (pipeline is not None) == (left == set(range(len(rungs))))
        assert pipeline is None or not masked & {hop.node for hop in pipeline}


class HopByHop:
    """What routing means, in the plainest words: at every endpoint the next in turn from which a way leads home."""

    def __init__(self, edges: list[EdgeFlow]) -> None:
        tails = {edge.tail for edge in edges}
        self.turns = {
            tail: SmoothRoundRobin({edge.head: edge.tokens_per_s for edge in edges if edge.tail == tail})
            for tail in tails
        }

    def route(self, eligible: Callable[[str], bool], here: str = COORDINATOR) -> list[str] | None:
        turns = self.turns.get(here)
        if turns is None:
            return None
        choices = [at for at, name in enumerate(turns.names) if name == COORDINATOR or eligible(name)]
        for chosen in turns.ranked(choices):
            name = turns.names[chosen]
            way = [] if name == COORDINATOR else self.route(eligible, name)
            if way is not None:
                turns.take(chosen, choices)
                return way if name == COORDINATOR else [name, *way]
        return None


@st.composite
def meshes(draw: st.DrawFn) -> tuple[dict[str, LayerRange], list[EdgeFlow]]:
    """Nodes in a row with links to later ones: long stretches without a choice, side ways, dead ends."""
    count = draw(st.integers(1, 9))
    placement = {f"n{at}": LayerRange(at, at + 1) for at in range(count)}
    flows = st.floats(0.1, 100)
    edges = [EdgeFlow(COORDINATOR, "n0", draw(flows))]
    for at in range(count):
        later = draw(st.sets(st.integers(at + 1, count), max_size=2)) or {at + 1}
        for to in sorted(later):
            edges.append(EdgeFlow(f"n{at}", f"n{to}" if to < count else COORDINATOR, draw(flows)))
    dead_end = draw(st.sampled_from(sorted(placement)))
    if draw(st.booleans()):
        edges = [edge for edge in edges if edge.tail != dead_end]
    return placement, edges


@given(meshes(), st.data())
def test_stretches_without_a_choice_change_nothing(
    mesh: tuple[dict[str, LayerRange], list[EdgeFlow]], data: st.DataObject
) -> None:
    placement, edges = mesh
    router, plain = FlowRouter(placement, edges), HopByHop(edges)
    for _ in range(10):
        open_nodes = set(placement) - data.draw(st.sets(st.sampled_from(sorted(placement)), max_size=2))
        found = router.route(open_nodes.__contains__)
        assert (None if found is None else [hop.node for hop in found]) == plain.route(open_nodes.__contains__)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50), st.booleans()), max_size=60),
    st.floats(0.1, 1.0),
    st.integers(20, 100),
)
def test_expected_kv_stays_under_the_high_water_mark(
    events: list[tuple[int, int, bool]], high_water: float, capacity: int
) -> None:
    ledger = KvLedger({"a": capacity}, high_water)
    held: list[str] = []
    for index, (expected, more, leaves) in enumerate(events):
        if leaves and held:
            ledger.release(held.pop(0))
        elif ledger.admits("a", expected, expected + more):
            ledger.reserve(str(index), {"a": expected})
            held.append(str(index))
        assert len(held) <= 1 or ledger.used.get("a", 0) <= high_water * capacity
        assert ledger.used.get("a", 0) <= capacity
    for request in held:
        ledger.release(request)
    assert ledger.used.get("a", 0) == 0
