"""Everything that can be wrong with a plan, found without any solver.

Owns the check of a plan against its job: capacities are computed anew, the flow is checked link by link, the cut proves
that the placement carries no more, and the certificate's witness that no placement does by more than the gap; likewise
for generated tokens/s where the plan says how many (``goodput``). Trusts
nothing that the plan says about itself: a witness is evaluated, and no bound is searched for, but for plans of earlier
releases, which have none.
"""

from __future__ import annotations

import math

from helix_df.errors import PlanError
from helix_df.graph.bounds import best_bound
from helix_df.graph.compile import compile_problem
from helix_df.graph.flow_graph import FlowGraph
from helix_df.graph.limits import broken_limits
from helix_df.graph.problem import COORDINATOR, Problem
from helix_df.graph.witness import KINDS
from helix_df.plan.goodput import goodput_violations
from helix_df.plan.plan import Certificate, Plan
from helix_df.profiles.identity import differences, read_identity

BALANCE = 1e-3
"""Tokens/s that a node may gain or lose: the rounding of many links' flows."""

CLAIM = 1e-9
"""Share by which a claimed bound may be below what its witness proves, for rounding."""

SEARCHED_CLAIM = 1e-6
"""The same, where the bound has to be searched for again because the plan has no witness."""


def violations(plan: Plan, problem: Problem | None = None) -> list[str]:
    """Everything that is wrong with a plan, in words; empty for a right one.

    Recomputes capacities from the job and checks the flow (conservation, capacity), the cut (equal to the flow, and a
    real cut of the graph) and the bound (not below the flow, nor below what its witness proves: a weaker claim is true
    as well).
    """
    problem = problem or compile_problem(plan.job)
    wrong = _placement_violations(plan, problem)
    if wrong:
        return wrong
    wrong = broken_limits(problem, plan.placement)
    graph = plan.graph(problem)
    return [
        *wrong,
        *_flow_violations(plan, graph),
        *_cut_violations(plan, graph),
        *_bound_violations(plan, problem),
        *_claim_violations(plan),
        *([] if plan.goodput is None else goodput_violations(plan.job, problem, plan.goodput)),
    ]


def require_valid(plan: Plan, where: str = "plan", problem: Problem | None = None) -> Plan:
    """The plan itself, if nothing is wrong with it.

    Raises:
        PlanError: with what is wrong.
    """
    wrong = violations(plan, problem)
    if wrong:
        another = [] if plan.model is None else differences(plan.model, read_identity(plan.job.model.parsed_source))
        raise PlanError(
            "the model here is another than the plan was made for" if another else "the plan doesn't fit its job",
            where=where,
            found="; ".join([*another, *wrong][:5]),
            hint="make it again with `helix-df plan`",
        )
    return plan


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
        elif (stage.windowed, stage.kv_window) not in ((0, 0), problem.windowed(stage.layers)):
            said = f"in {stage.windowed} layers behind {stage.kv_window} tokens"
            wrong.append(f"{stage.node} is said to free KV cache {said} with {stage.layers}")
    return wrong


def _flow_violations(plan: Plan, graph: FlowGraph) -> list[str]:
    capacity = {(edge.tail, edge.head): edge.capacity for edge in graph.edges}
    balance = dict.fromkeys([COORDINATOR, *(node.name for node in graph.nodes)], 0.0)
    inflow = dict.fromkeys(balance, 0.0)
    wrong = []
    if len({(edge.tail, edge.head) for edge in plan.edges}) != len(plan.edges):
        wrong.append("a link's flow is listed twice")
    for edge in plan.edges:
        limit = capacity.get((edge.tail, edge.head))
        if limit is None:
            wrong.append(f"flow on {edge.tail} → {edge.head}, where no link, no fitting layers or a hop too many are")
            continue
        if not 0 <= edge.tokens_per_s <= limit * (1 + 1e-9):
            wrong.append(f"{edge.tokens_per_s} tokens/s on {edge.tail} → {edge.head}, which carries 0 to {limit}")
        balance[edge.tail] -= edge.tokens_per_s
        balance[edge.head] += edge.tokens_per_s
        inflow[edge.head] += edge.tokens_per_s
    wrong += [f"{name} gains or loses {lost} tokens/s" for name, lost in balance.items() if not abs(lost) <= BALANCE]
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
    if not _close(total, plan.cut.capacity):
        wrong.append(f"the cut's capacity is {total}, the plan says {plan.cut.capacity}")
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
    claimed, kind, witness = certificate.bound, certificate.kind, certificate.witness
    if kind not in KINDS or (witness is not None and witness.kind != kind):
        known = ", ".join(KINDS)
        return [f"the certificate is of the kind {kind!r}, its witness of another; kinds that can be checked: {known}"]
    if not math.isfinite(claimed):
        return [f"the plan claims the bound {claimed}, which is no bound"]
    if not claimed >= plan.flow * (1 - CLAIM):
        return [f"the plan claims the bound {claimed}, below its own flow {plan.flow}"]
    proven, tolerance = _proven(certificate, problem)
    if claimed >= proven * (1 - tolerance):
        return []
    if math.isinf(proven):
        return [f"the plan claims the bound {claimed}, and its witness ({kind}) proves none"]
    return [f"the plan claims the bound {claimed}, and its witness ({kind}) proves no less than {proven}"]


def _proven(certificate: Certificate, problem: Problem) -> tuple[float, float]:
    """The bound that can be proven of a certificate, and the share by which its claim may be below."""
    if certificate.witness is not None:
        return certificate.witness.evaluate(problem.favourable), CLAIM
    return best_bound(problem.favourable).bound, SEARCHED_CLAIM


def _claim_violations(plan: Plan) -> list[str]:
    claimed = plan.solver.bound
    if claimed is not None and not claimed >= plan.flow * (1 - 1e-6):
        return [f"the solver {plan.solver.name} claims the bound {claimed}, below the flow {plan.flow}"]
    return []


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-3)
