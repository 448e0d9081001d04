"""What a picture of a plan shows, before it is known how: a row a node, the traffic between rows, a title.

Owns the order of rows and what is marked. Doesn't know SVG, terminals or colours.
"""

from __future__ import annotations

from dataclasses import dataclass

from helix_df.graph.problem import COORDINATOR
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A node with its layers, tokens/s through it and tokens/s it serves; ``binds`` if the minimum cut has it."""

    node: str
    gpu: str
    layers: LayerRange
    flow: float
    capacity: float
    binds: bool

    @property
    def use(self) -> float:
        """The share of its capacity that flows."""
        return self.flow / self.capacity if self.capacity > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Wire:
    """Traffic between two rows in tokens/s, at the layer where it changes hands; ``None`` is the coordinator."""

    tail: int | None
    head: int | None
    layer: int
    flow: float
    binds: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """A plan as rows in the order of their layers."""

    title: str
    facts: tuple[str, ...]
    num_layers: int
    flow: float
    rows: tuple[PlanRow, ...]
    wires: tuple[Wire, ...]
    unused: tuple[str, ...]

    @property
    def gpus(self) -> tuple[str, ...]:
        """GPU types by name, which is the order of their colours."""
        return tuple(sorted({row.gpu for row in self.rows}))


def lay_out(plan: Plan) -> Layout:
    """The layout of a plan."""
    job = plan.job
    passing: dict[str, float] = {}
    for edge in plan.edges:
        passing[edge.head] = passing.get(edge.head, 0.0) + edge.tokens_per_s
    stages = sorted(plan.stages, key=lambda stage: (stage.layers, stage.node))
    rows = tuple(
        PlanRow(
            stage.node,
            job.nodes[stage.node].gpu,
            stage.layers,
            passing.get(stage.node, 0.0),
            stage.tokens_per_s,
            stage.node in plan.cut.nodes,
        )
        for stage in stages
    )
    place: dict[str, int | None] = {row.node: i for i, row in enumerate(rows)}
    stops = {row.node: row.layers.stop for row in rows} | {COORDINATOR: 0}
    wires = tuple(
        Wire(
            place.get(edge.tail), place.get(edge.head), stops[edge.tail], edge.tokens_per_s,
            (edge.tail, edge.head) in plan.cut.links,
        )
        for edge in plan.edges
    )  # fmt: skip
    backend = f" ({plan.solver.backend})" if plan.solver.backend else ""
    facts = (
        f"{number(plan.flow)} of at most {number(plan.certificate.bound)} tokens/s, gap {plan.gap:.1%}",
        f"{model_name(plan)}, {plan.num_layers} layers",
        f"{len(rows)} nodes",
        f"solver {plan.solver.name}{backend}",
    )
    unused = tuple(sorted(job.nodes.keys() - plan.placement.keys()))
    return Layout(job.name, facts, plan.num_layers, plan.flow, rows, wires, unused)


def model_name(plan: Plan) -> str:
    """The model without the folders of its path."""
    return plan.job.model.parsed_source.short_name


def number(value: float) -> str:
    """Tokens/s with as many digits as they deserve."""
    return f"{value:,.1f}" if value < 1_000 else f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        # From here on three digits would round to the next unit.
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
