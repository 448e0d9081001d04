"""Every example with every solver and backend: a plan without violations, or a clear reason why there is none."""

from pathlib import Path

import pytest

from helix_df.errors import Infeasible
from helix_df.graph.compile import compile_problem
from helix_df.load import load_job
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from helix_df.solvers.registry import BUILT_IN

EXAMPLES = sorted((Path(__file__).parents[2] / "spec" / "examples").glob("*.yaml"))
FLEET = next(path for path in EXAMPLES if path.stem == "fleet")
# Others have offers alone, to choose nodes from; a thousand nodes are more than every solver is for.
EXAMPLES = [path for path in EXAMPLES if path != FLEET and load_job(path).nodes]
SOLVERS = [
    *((name, None, {}) for name in BUILT_IN if name != "mip"),
    *(("mip", backend, {}) for backend in ("highs", "gscip", "cp-sat")),
    ("separate", None, {"mixed": True}),
]
NAMES = ["-".join([name, *([backend] if backend else []), *options]) for name, backend, options in SOLVERS]


def refused(example: str, solver: str, options: dict[str, bool]) -> str | None:
    """What a heuristic says about an example that it can't place."""
    if solver == "swarm" and example == "two-sites":
        return "no equal stages"
    has_one_type = example == "scale"
    return "no GPU type alone" if solver == "separate" and not options and not has_one_type else None


@pytest.mark.parametrize(("solver", "backend", "options"), SOLVERS, ids=NAMES)
@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_is_planned_or_refused_with_a_reason(path, solver, backend, options):
    job = load_job(path).with_solver(name=solver, backend=backend, time_limit=3.0, options=options)
    problem = compile_problem(job)
    reason = refused(path.stem, solver, options)
    if reason is not None:
        with pytest.raises(Infeasible) as caught:
            make_plan(job, problem=problem)
        assert reason in str(caught.value)
        assert caught.value.where
        return
    plan = make_plan(job, problem=problem)
    assert violations(plan, problem) == []
    assert plan.flow > 0
    assert plan.certificate.bound >= plan.flow


def test_a_thousand_nodes_on_one_screen_are_planned_within_their_links(monkeypatch):
    assert len(FLEET.read_text("utf-8").splitlines()) <= 60
    monkeypatch.delenv("HEAD_NODE", raising=False)
    job = load_job(FLEET)
    assert (len(job.nodes), job.coordinator.address) == (1000, "head.frankfurt.example")
    problem = compile_problem(job)
    up, down = (
        problem.link_capacity(*ends)
        for ends in (("rtx-office-7", "l4-frankfurt-9"), ("l4-frankfurt-9", "rtx-office-7"))
    )
    assert down == pytest.approx(10 * up)
    plan = make_plan(job.with_solver(time_limit=5.0), problem=problem)
    assert violations(plan, problem) == []
    assert plan.certificate.bound >= plan.flow > 0
    monkeypatch.setenv("HEAD_NODE", "10.1.0.1")
    assert load_job(FLEET).coordinator.address == "10.1.0.1"


def test_the_quickstart_keeps_32_requests_of_its_workload_and_uses_all_nodes():
    job = load_job(next(path for path in EXAMPLES if path.stem == "quickstart"))
    plan = make_plan(job)
    requests = job.workload.input_length + job.workload.output_length
    held = [0.0] * plan.num_layers
    for stage in plan.stages:
        for layer in range(stage.layers.start, stage.layers.stop):
            held[layer] += stage.kv_tokens // requests
    assert min(held) >= 32
    assert plan.placement.keys() == job.nodes.keys()
    assert len({len(stage.layers) for stage in plan.stages}) == len(plan.stages)
