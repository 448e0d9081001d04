"""The plan: the narrow waist between deciding and running.

Owns what a plan says, its one versioned JSON file, and the check that it is right (``violations``), which needs no
solver. Doesn't know how placements are found or how stages run.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from helix_df.errors import PlanError
from helix_df.graph.bounds import covering_bound
from helix_df.graph.compile import compile_problem
from helix_df.graph.flow import EdgeFlow, Flow, FlowPath, MinCut, decompose
from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.problem import COORDINATOR, Placement, Problem
from helix_df.layers import LayerRange
from helix_df.spec.job import Job

FORMAT = "helix-df-plan"
VERSION = 1

__all__ = ["Certificate", "LayerRange", "Plan", "SolverReport", "Stage", "read_plan", "violations", "write_plan"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers on a node, the tokens/s it serves with them and the tokens of KV cache that fit beside them."""

    node: str
    layers: LayerRange
    tokens_per_s: float
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """An upper bound on every placement's flow, in tokens/s, and the argument that proves it."""

    kind: str
    bound: float

    def gap(self, flow: float) -> float:
        """``(bound − flow) / bound``: the share of the bound that the plan might still miss."""
        return max(0.0, self.bound - flow) / self.bound if self.bound > 0 else 0.0


@dataclass(frozen=True, slots=True)
class SolverReport:
    """Which solver made the plan, why it stopped, what it claims as bound, and the seconds it took."""

    name: str
    backend: str | None
    reason: str
    detail: str
    bound: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A certified placement and its flow, with the job it was made for."""

    job: Job
    num_layers: int
    stages: tuple[Stage, ...]
    flow: float
    edges: tuple[EdgeFlow, ...]
    cut: MinCut
    certificate: Certificate
    solver: SolverReport

    @property
    def placement(self) -> Placement:
        """Layers by node."""
        return {stage.node: stage.layers for stage in self.stages}

    @property
    def gap(self) -> float:
        """How far the flow may be from the best possible one, as a share of the bound."""
        return self.certificate.gap(self.flow)

    def graph(self, problem: Problem | None = None) -> FlowGraph:
        """The flow graph of the placement."""
        return build_graph(problem or compile_problem(self.job), self.placement)

    def paths(self) -> tuple[FlowPath, ...]:
        """The flow as pipelines."""
        nodes = {stage.node: stage.layers for stage in self.stages}
        return decompose(nodes, self.edges)


def assemble(job: Job, problem: Problem, placement: Placement, flow: Flow, report: SolverReport) -> Plan:
    """A plan from a judged placement; its certificate is the covering bound."""
    profiles = {node.name: node for node in problem.nodes}
    stages = tuple(
        Stage(
            name,
            layers,
            problem.node_capacity(profiles[name], len(layers)),
            profiles[name].kv_tokens[len(layers) - 1],
        )
        for name, layers in sorted(placement.items(), key=lambda item: (item[1], item[0]))
    )
    certificate = Certificate("covering", max(covering_bound(problem), flow.value))
    return Plan(job, problem.num_layers, stages, flow.value, flow.edges, flow.cut, certificate, report)


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan file in one step, so that a reader never sees half of it."""
    text = json.dumps(to_document(plan), indent=1, sort_keys=True) + "\n"
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def to_document(plan: Plan) -> dict[str, Any]:
    """The plan as the JSON document of the file."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "job": plan.job.model_dump(mode="json", exclude_none=True),
        "num_layers": plan.num_layers,
        "stages": [asdict(stage) for stage in plan.stages],
        "flow": plan.flow,
        "edges": [asdict(edge) for edge in plan.edges],
        "cut": asdict(plan.cut),
        "certificate": asdict(plan.certificate),
        "solver": asdict(plan.solver),
    }


def read_plan(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        PlanError: when the file is missing, is no plan, or is of a version this release doesn't know.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError("the plan file can't be read", where=str(path), found=error.strerror) from error
    except ValueError as error:
        raise PlanError("the plan file is not JSON", where=str(path), found=str(error)) from error
    return from_document(document, where=str(path))


def from_document(document: object, where: str = "plan") -> Plan:
    """The plan of a JSON document.

    Raises:
        PlanError: as ``read_plan``.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise PlanError("this is not a plan file", where=where, expected=f'"format": "{FORMAT}"')
    if document.get("version") != VERSION:
        raise PlanError(
            "the plan file is of another version",
            where=where,
            found=document.get("version"),
            expected=str(VERSION),
            hint="make it again with `helix-df plan`",
        )
    try:
        return _decode(document)
    except ValidationError as error:
        raise PlanError("the job inside the plan is not valid", where=where, found=error.errors()[0]["msg"]) from error
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError("the plan file is damaged", where=where, found=f"{type(error).__name__}: {error}") from error


def _decode(document: dict[str, Any]) -> Plan:
    cut = document["cut"]
    return Plan(
        job=Job.model_validate(document["job"]),
        num_layers=document["num_layers"],
        stages=tuple(Stage(**{**stage, "layers": LayerRange(**stage["layers"])}) for stage in document["stages"]),
        flow=document["flow"],
        edges=tuple(EdgeFlow(**edge) for edge in document["edges"]),
        cut=MinCut(tuple(cut["nodes"]), tuple((tail, head) for tail, head in cut["links"]), cut["capacity"]),
        certificate=Certificate(**document["certificate"]),
        solver=SolverReport(**document["solver"]),
    )


def violations(plan: Plan, problem: Problem | None = None) -> list[str]:
    """Everything that is wrong with a plan, in words; empty for a right one.

    Recomputes capacities from the job and checks the flow (conservation, capacity), the cut (equal to the flow, and a
    real cut of the graph) and the bound (not below the flow, and the one its argument gives).
    """
    problem = problem or compile_problem(plan.job)
    wrong = _placement_violations(plan, problem)
    if wrong:
        return wrong
    graph = plan.graph(problem)
    return [*_flow_violations(plan, graph), *_cut_violations(plan, graph), *_bound_violations(plan, problem)]


def _placement_violations(plan: Plan, problem: Problem) -> list[str]:
    profiles = {node.name: node for node in problem.nodes}
    wrong = []
    if plan.num_layers != problem.num_layers:
        wrong.append(f"the plan covers {plan.num_layers} layers, the model has {problem.num_layers}")
    if len(plan.placement) != len(plan.stages):
        wrong.append("a node appears in two stages")
    for stage in plan.stages:
        profile = profiles.get(stage.node)
        if profile is None:
            wrong.append(f"{stage.node} is not a node of the job")
        elif stage.layers.stop > problem.num_layers:
            wrong.append(f"{stage.node} holds {stage.layers}, beyond layer {problem.num_layers}")
        elif len(stage.layers) > profile.max_layers:
            wrong.append(f"{stage.node} holds {len(stage.layers)} layers, but {profile.max_layers} fit")
        elif not _close(stage.tokens_per_s, problem.node_capacity(profile, len(stage.layers))):
            wrong.append(f"{stage.node} is said to serve {stage.tokens_per_s} tokens/s with {stage.layers}")
        elif stage.kv_tokens != profile.kv_tokens[len(stage.layers) - 1]:
            wrong.append(f"{stage.node} is said to keep {stage.kv_tokens} KV tokens with {stage.layers}")
    return wrong


def _flow_violations(plan: Plan, graph: FlowGraph) -> list[str]:
    capacity = {(edge.tail, edge.head): edge.capacity for edge in graph.edges}
    balance = dict.fromkeys([COORDINATOR, *(node.name for node in graph.nodes)], 0.0)
    inflow = dict.fromkeys(balance, 0.0)
    wrong = []
    for edge in plan.edges:
        if (edge.tail, edge.head) not in capacity:
            wrong.append(f"flow on {edge.tail} → {edge.head}, where no link or no fitting layers are")
            continue
        if not 0 <= edge.tokens_per_s <= capacity[edge.tail, edge.head] * (1 + 1e-9):
            wrong.append(f"flow on {edge.tail} → {edge.head} over its capacity {capacity[edge.tail, edge.head]}")
        balance[edge.tail] -= edge.tokens_per_s
        balance[edge.head] += edge.tokens_per_s
        inflow[edge.head] += edge.tokens_per_s
    wrong += [f"{name} gains or loses {lost} tokens/s" for name, lost in balance.items() if abs(lost) > 1e-3]
    wrong += [
        f"{node.name} passes {inflow[node.name]} tokens/s over its capacity {node.capacity}"
        for node in graph.nodes
        if inflow[node.name] > node.capacity * (1 + 1e-9)
    ]
    if not _close(inflow[COORDINATOR], plan.flow):
        wrong.append(f"the links carry {inflow[COORDINATOR]} tokens/s, the plan says {plan.flow}")
    return wrong


def _cut_violations(plan: Plan, graph: FlowGraph) -> list[str]:
    nodes = {node.name: node.capacity for node in graph.nodes}
    links = {(edge.tail, edge.head): edge.capacity for edge in graph.edges}
    missing = [str(item) for item in plan.cut.nodes if item not in nodes]
    missing += [str(item) for item in plan.cut.links if item not in links]
    if missing:
        return [f"the cut names what the graph doesn't have: {', '.join(missing)}"]
    total = sum(nodes[name] for name in plan.cut.nodes) + sum(links[pair] for pair in plan.cut.links)
    wrong = []
    if not _close(total, plan.flow):
        wrong.append(f"the cut's capacity {total} is not the flow {plan.flow}")
    if _reaches_sink(graph, frozenset(plan.cut.nodes), frozenset(plan.cut.links)):
        wrong.append("the cut leaves a way from source to sink")
    return wrong


def _reaches_sink(graph: FlowGraph, cut_nodes: frozenset[str], cut_links: frozenset[tuple[str, str]]) -> bool:
    heads: dict[str, list[str]] = {}
    for edge in graph.edges:
        if (edge.tail, edge.head) not in cut_links:
            heads.setdefault(edge.tail, []).append(edge.head)
    seen: set[str] = set()
    stack = list(heads.get(COORDINATOR, ()))
    while stack:
        name = stack.pop()
        if name == COORDINATOR:
            return True
        if name not in seen and name not in cut_nodes:
            seen.add(name)
            stack += heads.get(name, ())
    return False


def _bound_violations(plan: Plan, problem: Problem) -> list[str]:
    certificate = plan.certificate
    if certificate.kind != "covering":
        return [f"nobody here can check a certificate of kind {certificate.kind!r}"]
    wrong = []
    proven = max(covering_bound(problem), plan.flow)
    if not _close(certificate.bound, proven):
        wrong.append(f"the plan claims the bound {certificate.bound}, layer covering proves {proven}")
    if plan.flow > covering_bound(problem) * (1 + 1e-9):
        wrong.append(f"the flow {plan.flow} is over the bound that layer covering proves")
    return wrong


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-3)
