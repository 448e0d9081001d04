"""What binds a plan, and what more of anything would be worth.

Owns the questions and their order. Every number is the exact max flow of a graph, or of a placement that a solver
found, or a proven bound; nothing is estimated. Doesn't know how to say it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from helix_df.errors import Infeasible
from helix_df.explanation.idle import IdleNode, idle_nodes
from helix_df.explanation.links import FULL, FullLink, full_links
from helix_df.explanation.one_more import OneMore, best_twin, kinds_of, with_twin
from helix_df.graph.bounds import best_bound
from helix_df.graph.compile import compile_problem
from helix_df.graph.flow import Flow
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.problem import Problem
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.planner import solve_problem
from helix_df.solvers.registry import get_solver

QUICK_SOLVER = "auto"
BUDGET_S = 10.0


@dataclass(frozen=True, slots=True)
class BindingNode:
    """A node of the minimum cut: tokens/s it serves with its layers, and whether its device or network card limits."""

    node: str
    gpu: str
    layers: LayerRange
    capacity: float
    limit: Literal["device", "network card"]


@dataclass(frozen=True, slots=True)
class OneMoreGpu:
    """What one more node of a type would bring, all in tokens/s.

    ``beside``: no other node moves. ``replanned``: the exact flow of the placement that the quick solver found with the
    new node, ``None`` when it found none or wasn't asked. ``bound``: no placement with one more of the type has more.
    """

    gpu: str
    owned: int
    beside: OneMore
    replanned: float | None
    bound: float


@dataclass(frozen=True, slots=True)
class Replanning:
    """The quick solver that planned anew, seconds for each of its runs, and its flow on the job as it is."""

    solver: str
    seconds_each: float
    flow: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a plan has its flow (tokens/s). GPU types and links are in order of their worth, nodes by layers.

    ``also_full`` are the nodes at their capacity outside this minimum cut: more capacity in the cut alone helps only as
    far as they allow.
    """

    job: str
    flow: float
    bound: float
    cut_nodes: tuple[BindingNode, ...]
    cut_links: tuple[tuple[str, str], ...]
    also_full: tuple[str, ...]
    links: tuple[FullLink, ...]
    gpus: tuple[OneMoreGpu, ...]
    replanning: Replanning | None
    idle: tuple[IdleNode, ...]


def explain(
    plan: Plan,
    *,
    solver: str = QUICK_SOLVER,
    budget_s: float = BUDGET_S,
    watch: Watch | None = None,
    problem: Problem | None = None,
) -> Explanation:
    """Explain a plan.

    Args:
        plan: one without ``violations``.
        solver: who plans anew with one more GPU of each type.
        budget_s: seconds for all its runs together; 0 leaves them out, and then the answer is deterministic.
        watch: may stop the runs.
        problem: ``compile_problem(plan.job)``, if the caller has it already.

    Raises:
        SolverError: for an unknown solver.
        ModelError, SpecError: as ``compile_problem``.
    """
    problem = problem or compile_problem(plan.job)
    graph = build_graph(problem, plan.placement)
    flow = Flow(plan.flow, plan.edges, plan.cut)
    types = {gpu: kinds_of(problem, gpu) for gpu in dict.fromkeys(node.gpu for node in problem.nodes)}
    types = {gpu: kinds for gpu, kinds in types.items() if kinds}
    planner = _Planner(solver, budget_s / (len(types) + 1), watch or Watch()) if budget_s > 0 else None
    gpus = [_one_more(problem, plan, gpu, kinds, planner) for gpu, kinds in types.items()]
    return Explanation(
        job=plan.job.name,
        flow=flow.value,
        bound=max(best_bound(problem.favourable).bound, flow.value),
        cut_nodes=_binding_nodes(problem, plan, flow),
        cut_links=flow.cut.links,
        also_full=tuple(
            node.name
            for node in graph.nodes
            if node.name not in flow.cut.nodes and flow.through(node.name) >= node.capacity * FULL
        ),
        links=full_links(graph, flow),
        gpus=tuple(sorted(gpus, key=lambda worth: (-worth.beside.flow, -(worth.replanned or 0.0), worth.gpu))),
        replanning=Replanning(solver, planner.seconds, planner.flow(problem)) if planner is not None else None,
        idle=idle_nodes(problem, plan.placement, flow),
    )


def explanation_document(found: Explanation) -> dict[str, Any]:
    """The explanation as a JSON document."""
    document = asdict(found)
    for worth in document["gpus"]:
        worth["gain"] = worth["beside"]["flow"] - found.flow
    for link in document["links"]:
        link["gain"] = link["doubled_flow"] - found.flow
    return document


@dataclass(frozen=True, slots=True)
class _Planner:
    """A quick solver with a time for each run."""

    solver: str
    seconds: float
    watch: Watch

    def flow(self, problem: Problem) -> float | None:
        """The exact flow of what it finds in time; ``None`` when that is nothing or it was stopped before."""
        if self.watch.stop.is_set():
            return None
        # A watch of its own for each run, since solvers count their time from its beginning.
        watch = Watch()
        watch.stop = self.watch.stop
        try:
            flow = solve_problem(problem, get_solver(self.solver), SolveOptions(self.seconds), watch).flow
        except Infeasible:
            return None
        return flow.value


def _one_more(problem: Problem, plan: Plan, gpu: str, kinds: list[str], planner: _Planner | None) -> OneMoreGpu:
    beside = best_twin(problem, plan.placement, kinds)
    bounds = {like: best_bound(with_twin(problem, like).favourable).bound for like in kinds}
    if beside.layers is None:
        # Of kinds that add nothing as they are, plan anew with the one that might add most.
        beside = replace(beside, like=max(kinds, key=lambda like: bounds[like]))
    return OneMoreGpu(
        gpu=gpu,
        owned=sum(node.gpu == gpu for node in problem.nodes),
        beside=beside,
        replanned=planner.flow(with_twin(problem, beside.like)) if planner is not None else None,
        bound=max(*bounds.values(), beside.flow),
    )


def _binding_nodes(problem: Problem, plan: Plan, flow: Flow) -> tuple[BindingNode, ...]:
    layers = plan.placement
    found = []
    for node in sorted(
        (problem.node(name) for name in flow.cut.nodes), key=lambda node: (layers[node.name], node.name)
    ):
        held = layers[node.name]
        capacity = problem.node_capacity(node, len(held))
        limit: Literal["device", "network card"] = (
            "device" if capacity >= node.throughput(len(held)) else "network card"
        )
        found.append(BindingNode(node.name, node.gpu, held, capacity, limit))
    return tuple(found)
