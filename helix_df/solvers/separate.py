"""``separate``: one pipeline for each GPU type, as somebody does who keeps unlike machines apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helix_df.graph.problem import NodeProfile, Placement, Problem
from helix_df.solvers.api import SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.chain_search import find_chain
from helix_df.solvers.chains import balanced_chain, even_lengths, lay_out, usable_nodes
from helix_df.solvers.options import read_extra, refuse_backend


@dataclass(frozen=True, slots=True)
class SeparateOptions:
    """``mixed``: chain the GPUs that are left over into one more pipeline (SP+)."""

    mixed: bool = False


class SeparateSolver:
    """Separate pipelines (SP): the nodes of each GPU type share the layers evenly; leftover types stay unused.

    Source: the baselines of the Helix paper (arXiv 2406.01566, section 6.2). A type whose nodes can't hold or link
    all layers is left over. With ``mixed`` (the paper's SP+) the leftovers form one pipeline, its layers split so that
    the slowest node is as fast as possible; the paper doesn't say how it splits them.
    """

    name = "separate"
    own_options = SeparateOptions

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        refuse_backend(self.name, options)
        mixed = read_extra(self.name, options.extra, SeparateOptions).mixed
        by_type: dict[str, list[NodeProfile]] = {}
        for node in usable_nodes(problem):
            by_type.setdefault(node.gpu, []).append(node)
        placement: Placement = {}
        leftover: list[NodeProfile] = []
        for nodes in by_type.values():
            pipeline = _pipeline(problem, nodes)
            placement = {**placement, **pipeline}
            leftover += [node for node in nodes if node.name not in pipeline]
        if mixed:
            placement = {**placement, **balanced_chain(problem, leftover)}
        if not placement:
            hint = "" if mixed else "; options: {mixed: true} chains unlike GPUs"
            detail = f"no GPU type alone holds and links all {problem.num_layers} layers{hint}"
            return SolveResult(None, Termination("finished", detail=detail))
        unused = len(problem.nodes) - len(placement)
        return SolveResult(placement, Termination("finished", detail=f"{unused} node(s) unused"))


def _pipeline(problem: Problem, nodes: Sequence[NodeProfile]) -> Placement:
    chain = find_chain(problem, nodes, at_most=problem.num_layers)
    lengths = even_lengths([node.max_layers for node in chain], problem.num_layers) if chain else None
    return lay_out(chain, lengths) if chain and lengths else {}
