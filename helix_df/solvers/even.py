"""``even``: what somebody would do by hand, the yardstick below every other solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from helix_df.graph.problem import NodeProfile, Placement, Problem
from helix_df.layers import LayerRange
from helix_df.solvers.api import SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.chain_search import ChainFinder
from helix_df.solvers.chains import even_lengths, lay_out, usable_nodes
from helix_df.solvers.options import read_extra, refuse_backend


@dataclass(frozen=True, slots=True)
class EvenOptions:
    """``pipelines``: how many copies of the model to make; by default as few as give every node a layer."""

    pipelines: int | None = None


class EvenSolver:
    """Chain the nodes and give each the same number of layers, whatever it could do; clip to what fits.

    The homogeneous split of pipeline parallelism (as in GPipe, arXiv 1811.06965), which the Helix paper (arXiv
    2406.01566, section 2) starts from. Layers that don't fit on a node are shared by the others. Where links are
    missing the chain follows the links and may leave nodes out.
    """

    name = "even"
    own_options = EvenOptions

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        refuse_backend(self.name, options)
        wanted = read_extra(self.name, options.extra, EvenOptions).pipelines
        finder = ChainFinder(problem)
        chain = finder.find(usable_nodes(problem))
        if chain is None:
            return SolveResult(None, Termination("finished", detail="links allow no chain of nodes with all layers"))
        default = -(-len(chain) // problem.num_layers)
        for pipelines in range(min(wanted or default, len(chain)), 0, -1):
            placement = _split(finder, chain, pipelines)
            if placement is not None:
                detail = f"{pipelines} pipeline(s) of equal shares"
                return SolveResult(placement, Termination("finished", detail=detail))
        raise AssertionError("a chain holds all layers, yet they don't fit")


def _split(finder: ChainFinder, chain: Sequence[NodeProfile], pipelines: int) -> Placement | None:
    """Cut the chain into consecutive pipelines; ``None`` when one of them can't hold or link all layers."""
    num_layers = finder.problem.num_layers
    ends = [len(chain) * i // pipelines for i in range(pipelines + 1)]
    result: dict[str, LayerRange] = {}
    for first, last in pairwise(ends):
        members = finder.find(chain[first:last], at_most=num_layers)
        if members is None:
            return None
        lengths = even_lengths([node.max_layers for node in members], num_layers)
        if lengths is None:
            return None
        result.update(lay_out(members, lengths))
    return result
