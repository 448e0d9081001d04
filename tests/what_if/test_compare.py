"""Planning anew, keeping a placement, and comparing what comes of them."""

from pathlib import Path

import pytest

from helix_df.errors import Infeasible
from helix_df.graph.max_flow import placement_flow
from helix_df.load import load_job
from helix_df.plan.plan import Plan
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from helix_df.simulator import options_of
from helix_df.simulator.trace_names import find_trace
from helix_df.what_if import AddNodes, RemoveNode, SetLink, Variant, changed, compare, keep_placement, replan, row_of
from helix_df.what_if.changes import Change
from helix_df.what_if.compare import comparison_document

EXAMPLES = Path(__file__).parents[2] / "spec" / "examples"
CHANGES: dict[str, list[Change]] = {
    "more": [AddNodes("T4", 2, "lab")],
    "slower": [SetLink(("home", "lab"), 1e5)],
    "faster": [SetLink(("home", "lab"), 1e9, 0.001)],
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(load_job(EXAMPLES / "two-sites.yaml").with_solver(name="cover", time_limit=5.0))


@pytest.mark.parametrize("name", CHANGES)
def test_both_answers_are_right_plans_of_the_changed_job(plan, name):
    job = changed(plan.job, CHANGES[name])
    kept, anew = keep_placement(plan, job), replan(plan, job)
    for one in (kept, anew):
        assert one.job == job
        assert violations(one) == []
    assert kept.placement == plan.placement
    assert kept.flow == placement_flow_of(kept)
    assert anew.flow >= kept.flow - 1e-6
    if name == "slower":
        assert kept.flow < plan.flow
    else:
        assert kept.flow >= plan.flow - 1e-6


def placement_flow_of(plan):
    from helix_df.graph.compile import compile_problem

    return placement_flow(compile_problem(plan.job), plan.placement).value


def test_a_kept_placement_that_misses_layers_serves_nothing(plan):
    by_node = plan.placement
    alone = next(
        name
        for name, layers in by_node.items()
        if not all(
            any(layer in range(o.start, o.stop) for n, o in by_node.items() if n != name)
            for layer in range(layers.start, layers.stop)
        )
    )
    with pytest.raises(Infeasible, match="serves nothing"):
        keep_placement(plan, changed(plan.job, [RemoveNode(alone)]))


def test_two_plans_side_by_side(plan):
    options = options_of(plan.served, seconds=60.0, warmup_s=10.0)
    trace = find_trace("poisson:input=200,output=20", seconds=70.0, rate=0.3)
    bigger = replan(plan, changed(plan.job, CHANGES["more"]))
    results = compare([Variant("small", plan, trace, options), Variant("big", bigger, trace, options)])
    rows = [row_of(one) for one in results]
    assert [(row.name, row.nodes, row.flow) for row in rows] == [
        ("small", len(plan.stages), plan.flow),
        ("big", len(bigger.stages), bigger.flow),
    ]
    document = comparison_document(results)
    for row, one, told in zip(rows, results, document["variants"], strict=True):
        assert row.decode_tokens_per_s == one.outcome.decode_tokens_per_s == told["outcome"]["decode_tokens_per_s"]
        assert row.ttft_p95_s == one.outcome.percentile("ttft", 95) == told["ttft_p95_s"]
        assert 0 < row.busy <= 1
        assert row.ttft_p50_s <= row.ttft_p95_s
    again = compare([Variant("big", bigger, trace, options)])[0]
    assert row_of(again) == rows[1]


def test_whoever_stops_one_gets_what_is_done(plan):
    class Stop:
        def looks(self, now_s, end_s):
            return now_s < 20

    options = options_of(plan.served, seconds=60.0, warmup_s=10.0)
    trace = find_trace("azure", seconds=70.0, offline=True)
    variants = [Variant(name, plan, trace, options) for name in ("one", "two", "three")]
    results = compare(variants, lambda variant: Stop() if variant.name == "two" else None)
    assert [one.name for one in results] == ["one", "two"]
    assert [one.outcome.stopped for one in results] == [False, True]
