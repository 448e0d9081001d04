"""What a change of placement costs: the weights that nodes have to load anew.

Owns the count of a stage's bytes and of those that a node doesn't hold yet. Doesn't know plans, flows or how
weights are read; a planner may price moves with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from helix_df.graph.problem import Placement
from helix_df.layers import LayerRange
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.weight_bytes import WeightBytes, computed_bytes

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Near:
    """A placement to stay near to, because it runs.

    ``tokens_per_s_per_gib``: the flow that a plan must gain for each GiB of weights that nodes have to load.
    """

    placement: Placement
    geometry: ModelGeometry
    element_bytes: int
    tokens_per_s_per_gib: float
    weights: WeightBytes | None = None

    def cost(self, placement: Placement) -> float:
        """What moving to a placement costs, in tokens/s."""
        moved = sum(
            load_bytes(self.placement.get(name), layers, self.geometry, self.element_bytes, self.weights)
            for name, layers in placement.items()
        )
        return moved / GIB * self.tokens_per_s_per_gib


def load_bytes(
    old: LayerRange | None,
    new: LayerRange | None,
    geometry: ModelGeometry,
    element_bytes: int,
    weights: WeightBytes | None = None,
) -> int:
    """Bytes a node has to load to hold ``new`` when it holds ``old``; ``None`` stands for nothing.

    From nothing, that is all of the stage: its layers, and at the model's ends the vocabulary matrices and final norm.

    Layers held before and after stay where they are. The first stage also holds the input embedding, the last one the
    final norm and the output head, which is the embedding again where they are tied. Weights are numbers of
    ``element_bytes`` unless ``weights`` says more.
    """
    held = weights or computed_bytes(geometry, element_bytes)
    if new is None:
        return 0
    layers = held.of(geometry, new)
    if old is not None and max(old.start, new.start) < min(old.stop, new.stop):
        layers -= held.of(geometry, LayerRange(max(old.start, new.start), min(old.stop, new.stop)))
    sizes = {"norm": geometry.hidden_size * element_bytes}
    before = set() if old is None else _ends(old, geometry)
    return round(layers + sum(sizes.get(name, held.vocabulary) for name in _ends(new, geometry) - before))


def move_bytes(old: Placement, new: Placement, geometry: ModelGeometry, element_bytes: int) -> dict[str, int]:
    """Bytes that each node of ``new`` has to load when the nodes hold ``old``; nodes that load nothing are left out.

    The sum over nodes is what changing the plan costs: ``sum(move_bytes(…).values())``.
    """
    loads = {name: load_bytes(old.get(name), layers, geometry, element_bytes) for name, layers in new.items()}
    return {name: size for name, size in loads.items() if size}


def _ends(layers: LayerRange, geometry: ModelGeometry) -> set[str]:
    """Tensors outside the layers that a stage holds."""
    first, last = layers.start == 0, layers.stop == geometry.num_layers
    held = {"norm"} if last else set()
    if first or (last and geometry.tie_embeddings):
        held.add("embedding")
    if last and not geometry.tie_embeddings:
        held.add("head")
    return held
