"""A plan as a person reads it: what flows, how good that is, who holds what, what binds.

Owns the words and the layout. Every number comes from the plan and its problem.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from helix_df.cli.console import print_trimmed
from helix_df.cli.words import count, labelled, names, number, plain_table
from helix_df.graph.compile import origin_of
from helix_df.graph.flow import FlowPath
from helix_df.graph.limits import requests_at_once
from helix_df.graph.problem import Problem
from helix_df.plan.goodput import GoodputCertificate
from helix_df.plan.plan import Plan, Stage
from helix_df.profiles.kv_windows import PAGE_TOKENS, held_tokens
from helix_df.profiles.throughput import Requests

if TYPE_CHECKING:
    from helix_df.simulator.outcome import Outcome

MAX_ROWS = 50
MAX_PATHS = 3
MAX_LINKS = 8
FULL = 1 - 1e-6
SAME = 1e-6
"""Share by which two bounds may differ and count as one."""

BINDING = 0.95
"""Share of its capacity from which a link counts as binding."""

_REASONS = {
    "optimal": "proved optimal",
    "gap": "close enough to its bound",
    "finished": "ran to its end",
    "time": "cut off by the time limit",
    "interrupt": "stopped by you",
    # As plans of before have it.
    "time_limit": "cut off by the time limit",
    "interrupted": "stopped by you",
}
"""By the limit that ended a solve, or else by the reason."""


def render_plan(plan: Plan, problem: Problem, console: Console, *, every_node: bool = False) -> None:
    """Print the plan: summary, nodes, binding links, pipelines."""
    requests = (problem.origin or origin_of(plan.job)).requests
    shown = plan.stages if every_node else plan.stages[:MAX_ROWS]
    left_out = len(plan.stages) - len(shown)
    paths = plan.paths()
    print_trimmed(
        console,
        labelled(_summary(plan, problem, requests, paths)),
        "",
        _node_table(plan, problem, shown, requests),
        *([f"… and {left_out} more nodes; --all lists them"] if left_out else []),
        "",
        labelled(_remarks(plan, problem, paths)),
        Padding(_path_table(paths), (0, 0, 0, 2)),
    )


def render_prediction(outcome: Outcome, console: Console) -> None:
    """Print what users of the plan would get, as ``helix-df simulate`` says of it."""
    until = "; stopped by you" if outcome.stopped else ""
    words = f"{number(outcome.decode_tokens_per_s)} generated tokens/s in simulation ({outcome.trace}{until})"
    late = f"time to first token p95 {outcome.percentile('ttft', 95):.3g} s"
    between = f"inter-token latency p95 {outcome.percentile('itl', 95):.3g} s"
    print_trimmed(console, "", labelled([("predicted", f"{words}; {late}, {between}")]))


def _summary(plan: Plan, problem: Problem, requests: Requests, paths: Sequence[FlowPath]) -> Iterator[tuple[str, str]]:
    job, solver = plan.job, plan.solver
    yield "job", job.name
    yield "model", f"{job.model.source}, {plan.num_layers} layers, {job.model.precision}"
    backend = f" ({solver.backend})" if solver.backend else ""
    reason = _REASONS.get(solver.limit or solver.reason, solver.reason)
    detail = f"; {solver.detail}" if solver.detail else ""
    yield "solver", f"{solver.name}{backend}: {reason} after {solver.seconds:.1f} s{detail}"
    length = f"{requests.input_tokens:.4g} + {requests.output_tokens:.4g} tokens"
    per_s = plan.flow / requests.tokens
    yield "flow", f"{number(plan.flow)} tokens/s (prompt and output): {per_s:.3g} requests/s of {length}"
    yield "bound", _bound(plan)
    if plan.goodput is not None:
        yield "generated", _generated(plan.goodput)
    yield "depth", _depth(plan, paths, problem.limits.max_hops)
    at_once = requests_at_once(problem, plan.placement)
    wanted = f"; {problem.limits.min_requests:,} asked for" if problem.limits.min_requests else ""
    if plan.rules is not None:
        yield "rules", f"{plan.rules}; chosen where the job says nothing"
    yield "KV cache", (f"{at_once:,} requests of that length at once" if at_once else "less than one request") + wanted


def _bound(plan: Plan) -> str:
    """The most that any placement has, and who says so where the certificate proves less than the solver's search."""
    certificate, claimed = plan.certificate, plan.solver.bound
    if claimed is None or claimed >= certificate.bound * (1 - SAME):
        return f"{number(certificate.bound)} tokens/s is the most any placement can have; gap {plan.gap:.1%}"
    most = max(claimed, plan.flow)
    return (
        f"{number(most)} tokens/s is the most any placement can have, as the solver's search says; gap "
        f"{1 - plan.flow / most:.1%} ({number(certificate.bound)} and {plan.gap:.1%} by the certificate alone)"
    )


def _generated(goodput: GoodputCertificate) -> str:
    load, served = goodput.generated.load, goodput.generated.tokens_per_s
    lengths = f"{load.prompt_tokens:.4g} + {load.output_tokens:.4g} mean tokens"
    return (
        f"{number(served)} tokens/s in simulation; {number(goodput.bound)} is the most that any placement, routing and "
        f"rules can generate of requests of {lengths}; gap {goodput.gap:.1%}"
    )


def _depth(plan: Plan, paths: Sequence[FlowPath], max_hops: int | None) -> str:
    depths = [len(path.hops) for path in paths]
    mean = sum(path.tokens_per_s * len(path.hops) for path in paths) / plan.flow if plan.flow else 0.0
    allowed = f"; {max_hops} allowed" if max_hops is not None else ""
    spread = f", {min(depths)} to {max(depths)}" if depths and min(depths) < max(depths) else ""
    return f"a request passes {mean:.3g} node{'s' if mean > 1 else ''} on average{spread}{allowed}"


def _node_table(plan: Plan, problem: Problem, stages: Sequence[Stage], requests: Requests) -> Table:
    with_regions = len({node.region for node in problem.nodes}) > 1
    figures = ("layers", "held", "capacity", "flow", "use", "KV tokens", "requests")
    table = plain_table("node", "GPU", *(["region"] if with_regions else []), *figures, numbers=figures)
    flows = _flow_by_node(plan)
    nodes = {node.name: node for node in problem.nodes}
    for stage in stages:
        node, flow = nodes[stage.node], flows.get(stage.node, 0.0)
        table.add_row(
            stage.node,
            node.gpu,
            *([node.region] if with_regions else []),
            str(stage.layers),
            str(len(stage.layers)),
            number(stage.tokens_per_s),
            number(flow),
            f"{flow / stage.tokens_per_s:.0%}",
            f"{stage.kv_tokens:,}",
            f"{int(stage.kv_tokens // _held(plan, stage, requests.tokens)):,}",
            style="dim" if flow == 0 else None,
        )
    return table


def _held(plan: Plan, stage: Stage, tokens: float) -> float:
    """KV cache that a request of so many tokens takes in each layer of a stage, on average."""
    few = min(tokens, held_tokens(10**9, stage.kv_window, plan.served.runtime.max_prefill_tokens, PAGE_TOKENS))
    return ((len(stage.layers) - stage.windowed) * tokens + stage.windowed * few) / len(stage.layers)


def _flow_by_node(plan: Plan) -> dict[str, float]:
    flows: dict[str, float] = {}
    for edge in plan.edges:
        flows[edge.head] = flows.get(edge.head, 0.0) + edge.tokens_per_s
    return flows


def _remarks(plan: Plan, problem: Problem, paths: Sequence[FlowPath]) -> Iterator[tuple[str, str]]:
    yield "bottleneck", _bottleneck(plan, problem)
    binding = _binding_links(plan, problem)
    if binding:
        rest = f", and {len(binding) - MAX_LINKS} more" if len(binding) > MAX_LINKS else ""
        yield "full links", ", ".join(binding[:MAX_LINKS]) + rest
    flows = _flow_by_node(plan)
    idle = [stage.node for stage in plan.stages if not flows.get(stage.node)]
    if idle:
        yield "idle", f"{names(idle)}: no flow passes; they stand in when others are busy"
    placed = plan.placement
    unused = [node for node in problem.nodes if node.name not in placed]
    if unused:
        excluded = problem.limits.excluded
        too_small = [node.name for node in unused if node.max_layers == 0 and node.name not in excluded]
        yield "unused", names([node.name for node in unused])
        if too_small:
            yield "", f"not one layer fits on {names(too_small)}"
        if excluded:
            yield "", f"limits.avoid leaves out {names(sorted(excluded))}"
    yield "pipelines", _pipelines(paths)


def _bottleneck(plan: Plan, problem: Problem) -> str:
    """The minimum cut in words."""
    profiles = {node.name: node for node in problem.nodes}
    lengths = {stage.node: len(stage.layers) for stage in plan.stages}
    slowest = _slowest_card(problem)
    cards = [name for name in plan.cut.nodes if slowest < profiles[name].throughput(lengths[name])]
    devices = [name for name in plan.cut.nodes if name not in cards]
    parts = []
    if devices:
        parts.append(f"{count(devices, 'node')} at full speed ({names(devices)})")
    if cards:
        parts.append(f"{count(cards, 'network card')} ({names(cards)})")
    if plan.cut.links:
        links = [f"{tail} → {head}" for tail, head in plan.cut.links]
        parts.append(f"{count(links, 'link')} ({names(links)})")
    if not parts:
        return "none found"
    flows = _flow_by_node(plan)
    full = {stage.node for stage in plan.stages if flows.get(stage.node, 0.0) >= stage.tokens_per_s * FULL}
    others = sorted(full - set(plan.cut.nodes))
    also = f" Also full: {names(others)}." if others else ""
    return f"{' and '.join(parts)}; more flow needs more capacity there.{also}"


def _slowest_card(problem: Problem) -> float:
    """Tokens/s of the slowest network card, of whichever node; infinite where none is said to be slow."""
    cards = (node.nic_bytes_per_s for node in problem.nodes if node.nic_bytes_per_s is not None)
    return min(cards, default=math.inf) / problem.activation_bytes


def _binding_links(plan: Plan, problem: Problem) -> list[str]:
    rows = []
    for edge in plan.edges:
        capacity = problem.link_capacity(edge.tail, edge.head)
        if edge.tokens_per_s >= BINDING * capacity:
            text = f"{edge.tail} → {edge.head} ({number(edge.tokens_per_s)} of {number(capacity)})"
            rows.append((edge.tokens_per_s / capacity, text))
    return [text for _, text in sorted(rows, key=lambda row: -row[0])]


def _pipelines(paths: Sequence[FlowPath]) -> str:
    if not paths:
        return "none"
    depths = [len(path.hops) for path in paths]
    deep = f"{min(depths)} to {max(depths)} nodes" if min(depths) < max(depths) else f"{depths[0]} nodes"
    if max(depths) == 1:
        deep = "1 node"
    widest = "" if len(paths) <= MAX_PATHS else f"; the widest {MAX_PATHS}:"
    return f"{len(paths)}, each of {deep}{widest or ':'}"


def _path_table(paths: Sequence[FlowPath]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for path in paths[:MAX_PATHS]:
        # No spaces inside a stop, so that lines only break between stops.
        stops = " → ".join(f"{hop.node}[{hop.layers.start},{hop.layers.stop})" for hop in path.hops)
        grid.add_row(f"{number(path.tokens_per_s)} tokens/s", stops)
    return grid
