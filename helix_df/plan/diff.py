"""What changes from one plan to another: layers that move, bytes to load, flow, and traffic that takes another way.

Owns the comparison. Doesn't judge the plans (``violations``), or say in what order to change a running job.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from helix_df.errors import PlanError
from helix_df.graph.held_weights import held_weights, known_weights
from helix_df.layers import LayerRange
from helix_df.plan.moves import Near, load_bytes
from helix_df.plan.plan import Plan
from helix_df.profiles.read_geometry import read_geometry
from helix_df.spec.job import Job


@dataclass(frozen=True, slots=True)
class NodeMove:
    """A node whose layers change: what it held and will hold (``None``: nothing), and the bytes it has to load.

    ``replaced`` says that another machine goes by the node's name now, so that nothing it held is there.
    """

    node: str
    old: LayerRange | None
    new: LayerRange | None
    load_bytes: int
    replaced: bool = False

    @property
    def loaded(self) -> tuple[LayerRange, ...]:
        """The layers it has to load."""
        return _without(self.new, None if self.replaced else self.old)

    @property
    def dropped(self) -> tuple[LayerRange, ...]:
        """The layers it no longer needs."""
        return _without(self.old, None if self.replaced else self.new)


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """How two plans differ. Flows and bounds are in tokens/s; ``moves`` are in the order of the new plan's layers.
    Generated tokens/s and their bounds are ``None`` for plans that say nothing of them.

    ``rerouted_tokens_per_s`` is the old flow over pipelines that use a stage whose layers change: requests that have
    to be sent another way.
    """

    moves: tuple[NodeMove, ...]
    unchanged: int
    load_bytes: int
    flow_before: float
    flow_after: float
    bound_before: float
    bound_after: float
    rerouted_tokens_per_s: float
    generated_before: float | None = None
    generated_after: float | None = None
    ceiling_before: float | None = None
    ceiling_after: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every node keeps its layers."""
        return not self.moves

    @property
    def rerouted_share(self) -> float:
        """The share of the old flow that takes another way."""
        return self.rerouted_tokens_per_s / self.flow_before if self.flow_before > 0 else 0.0


def diff(old: Plan, new: Plan) -> PlanDiff:
    """Compare two plans of the same model.

    Raises:
        PlanError: when the models differ in source, dtype, weights or random seed, so that no weight could be kept.
        ModelError: when the model's geometry can't be read.
    """
    _require_same_model(old, new.job, new.num_layers)
    geometry = new.geometry
    before, after, weights = old.placement, new.placement, known_weights(new.job, geometry)
    replaced = {name for name in before.keys() & after.keys() if _is_another_machine(old.job, new.job, name)}
    moves = []
    for name in sorted({**before, **after}, key=lambda name: (after.get(name) or before[name], name)):
        held, holds = before.get(name), after.get(name)
        if held != holds or name in replaced:
            kept = None if name in replaced else held
            size = load_bytes(kept, holds, geometry, new.job.model.element_bytes, weights)
            moves.append(NodeMove(name, held, holds, size, name in replaced))
    changed = {move.node for move in moves}
    return PlanDiff(
        moves=tuple(moves),
        unchanged=len(after.keys() - changed),
        load_bytes=sum(move.load_bytes for move in moves),
        flow_before=old.flow,
        flow_after=new.flow,
        bound_before=old.certificate.bound,
        bound_after=new.certificate.bound,
        rerouted_tokens_per_s=sum(
            path.tokens_per_s for path in old.paths() if any(hop.node in changed for hop in path.hops)
        ),
        generated_before=None if old.goodput is None else old.goodput.generated.tokens_per_s,
        generated_after=None if new.goodput is None else new.goodput.generated.tokens_per_s,
        ceiling_before=None if old.goodput is None else old.goodput.bound,
        ceiling_after=None if new.goodput is None else new.goodput.bound,
    )


def stay_near(running: Plan, job: Job, tokens_per_s_per_gib: float) -> Near:
    """What a planner needs to stay near a running plan: each GiB that nodes load must gain so much flow.

    Raises:
        PlanError, ModelError: as ``diff``.
    """
    geometry = read_geometry(job.model.parsed_source)
    _require_same_model(running, job, geometry.num_layers)
    placement = {
        name: layers
        for name, layers in running.placement.items()
        if name in job.nodes and name not in job.limits.avoid and not _is_another_machine(running.job, job, name)
    }
    weights = held_weights(job, geometry)
    return Near(placement, geometry, job.model.element_bytes, tokens_per_s_per_gib, weights)


def diff_document(found: PlanDiff) -> dict[str, Any]:
    """The comparison as a JSON document."""
    moves = [
        {**asdict(move), "loaded": [asdict(part) for part in move.loaded], "dropped": [asdict(p) for p in move.dropped]}
        for move in found.moves
    ]
    return {**asdict(found), "moves": moves, "rerouted_share": found.rerouted_share}


def _require_same_model(old: Plan, job: Job, num_layers: int) -> None:
    a, b = old.job.model, job.model
    if (a.source, a.precision, a.seed) != (b.source, b.precision, b.seed) or old.num_layers != num_layers:
        raise PlanError(
            "the plans are of different models, so nothing carries over",
            found=f"{a.source} in {a.precision} ({old.num_layers} layers), {b.source} in {b.precision} ({num_layers})",
            expected="the same source, dtype, weights and seed in both",
            hint="take the old job down and apply the new plan",
        )


def _is_another_machine(old: Job, new: Job, name: str) -> bool:
    a, b = old.nodes[name], new.nodes[name]
    return (a.gpu, a.address) != (b.gpu, b.address)


def _without(layers: LayerRange | None, other: LayerRange | None) -> tuple[LayerRange, ...]:
    """``layers`` less ``other``: no, one or two ranges."""
    if layers is None or other is None:
        return () if layers is None else (layers,)
    parts = []
    if layers.start < min(layers.stop, other.start):
        parts.append(LayerRange(layers.start, min(layers.stop, other.start)))
    if max(layers.start, other.stop) < layers.stop:
        parts.append(LayerRange(max(layers.start, other.stop), layers.stop))
    return tuple(parts)
