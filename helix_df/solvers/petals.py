"""``petals``: nodes join one after another, each where the swarm is weakest, then move while that helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helix_df.graph.problem import NodeProfile, Placement, Problem
from helix_df.layers import LayerRange
from helix_df.solvers.api import SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.chains import usable_nodes
from helix_df.solvers.options import read_extra, refuse_backend


@dataclass(frozen=True, slots=True)
class PetalsOptions:
    """``rounds``: how often every node may move to a better place after all have joined."""

    rounds: int = 8


class PetalsSolver:
    """Every node holds as many layers as fit, in the window that serves least when it joins.

    Source: Petals (Borzunkov et al., arXiv 2312.08361, section 3.2) as the Helix paper (arXiv 2406.01566, section 6.2)
    places it: a joining node takes the contiguous window whose worst-served layers are worst; afterwards nodes leave
    and join again until no move helps. A layer's throughput is the sum over the nodes that hold it. Nodes join in the
    order of what they serve, the fastest first. Links play no part in the choice.
    """

    name = "petals"
    own_options = PetalsOptions

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        refuse_backend(self.name, options)
        rounds = read_extra(self.name, options.extra, PetalsOptions).rounds
        served = _ServedLayers(problem)
        nodes = sorted(usable_nodes(problem), key=lambda node: -served.speed(node))
        for node in nodes:
            served.join(node)
        for done in range(rounds):
            if watch.stop.is_set():
                detail = f"after {done} rounds of moves"
                return SolveResult(served.placement, Termination.of("interrupt", detail=detail))
            if not served.rebalance(nodes):
                break
        return SolveResult(served.placement, Termination("finished", detail="no node gains by moving"))


class _ServedLayers:
    """Who holds what while nodes join and move, and the tokens/s each layer is served with."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.held: dict[str, LayerRange] = {}
        self.served = [0.0] * problem.num_layers

    @property
    def placement(self) -> Placement:
        return dict(self.held)

    def width(self, node: NodeProfile) -> int:
        return min(node.max_layers, self.problem.num_layers)

    def speed(self, node: NodeProfile) -> float:
        return self.problem.node_capacity(node, self.width(node))

    def join(self, node: NodeProfile) -> None:
        width = self.width(node)
        starts = range(self.problem.num_layers - width + 1)
        start = min(starts, key=lambda start: sorted(self.served[start : start + width]))
        self._serve(LayerRange(start, start + width), self.speed(node))
        self.held[node.name] = LayerRange(start, start + width)

    def leave(self, node: NodeProfile) -> None:
        self._serve(self.held.pop(node.name), -self.speed(node))

    def rebalance(self, nodes: Sequence[NodeProfile]) -> bool:
        """Let every node leave and join again; it goes back unless the worst-served layers gain. Whether one moved."""
        moved = False
        for node in nodes:
            before, served = self.held[node.name], list(self.served)
            self.leave(node)
            self.join(node)
            if sorted(round(x, 6) for x in self.served) > sorted(round(x, 6) for x in served):
                moved = True
            else:
                self.held[node.name], self.served = before, served
        return moved

    def _serve(self, layers: LayerRange, tokens_per_s: float) -> None:
        for layer in range(layers.start, layers.stop):
            self.served[layer] += tokens_per_s
