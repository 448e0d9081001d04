"""Admission by expected KV use: the runtime's ledger, and the same counted layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from helix_df.layers import LayerRange
from helix_df.rules.routing import KvLedger, Pipeline


@dataclass(slots=True)
class LayerLedger(KvLedger):
    """A ledger in tokens times layers: a request that runs only some layers of a node takes room in those only.

    Whether a node admits is asked as if the request ran all of its layers.
    """

    layers: Mapping[str, LayerRange] = field(default_factory=dict)
    _parts: dict[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)

    def admitting(self, expected: int, most: int) -> Callable[[str], bool]:
        layers, capacities, in_use, high_water = self.layers, self.capacity.get, self.used.get, self.high_water

        def admits(node: str) -> bool:
            width = len(layers[node])
            capacity = capacities(node, 0) * width
            if most * width > capacity:
                return False
            used = in_use(node, 0)
            return used == 0 or used + expected * width <= high_water * capacity

        return admits

    def reserve_pipeline(self, request: str, pipeline: Pipeline, expected: int) -> None:
        """Count a request on the layers that it runs."""
        parts = tuple((hop.node, expected * len(hop.layers)) for hop in pipeline)
        self._parts[request] = parts
        for node, amount in parts:
            self.used[node] = self.used.get(node, 0) + amount

    def release(self, request: str) -> None:
        for node, amount in self._parts.pop(request, ()):
            self.used[node] -= amount

    def fullest_layer(self) -> float:
        """Over all layers, the largest share of expected use in what the nodes that hold the layer have together."""
        used: dict[int, float] = {}
        total: dict[int, float] = {}
        for node, capacity in self.capacity.items():
            layers = self.layers[node]
            share = self.used.get(node, 0) / len(layers)
            for layer in range(layers.start, layers.stop):
                used[layer] = used.get(layer, 0.0) + share
                total[layer] = total.get(layer, 0.0) + capacity
        return max((used[layer] / total[layer] for layer in total), default=0.0)


def reserve(ledger: KvLedger, request: str, pipeline: Pipeline, expected: int) -> None:
    """Count a request on the nodes of its pipeline."""
    if isinstance(ledger, LayerLedger):
        ledger.reserve_pipeline(request, pipeline, expected)
    else:
        ledger.reserve(request, _names(pipeline), expected)


def _names(pipeline: Pipeline) -> Iterable[str]:
    return (hop.node for hop in pipeline)
