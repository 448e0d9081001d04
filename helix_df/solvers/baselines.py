"""The baselines together: the best of their placements, as a start for solvers that search.

Owns which heuristics are tried and how the best is kept. Doesn't improve on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from helix_df.graph.judge import Judge
from helix_df.graph.problem import Placement, Problem
from helix_df.solvers.api import SolveOptions, Solver, Watch
from helix_df.solvers.chains import balanced_chain, usable_nodes
from helix_df.solvers.even import EvenSolver
from helix_df.solvers.petals import PetalsSolver
from helix_df.solvers.separate import SeparateSolver
from helix_df.solvers.swarm import SwarmSolver


@dataclass(frozen=True, slots=True)
class Candidate:
    """A placement, its exact max flow in tokens/s, and who made it."""

    placement: Placement
    flow: float
    source: str


def best_baseline(problem: Problem, options: SolveOptions, watch: Watch) -> Candidate | None:
    """The baseline placement with the most flow, or ``None`` when none carries any. Stops early when asked to."""
    best: Candidate | None = None
    judge = Judge(problem)
    for source, placement in baselines(problem, options, watch):
        flow = judge.flow(*judge.arrays(placement))
        if flow > (best.flow if best else 0.0):
            best = Candidate(placement, flow, source)
            watch.report(source, flow, None)
        if watch.stop.is_set():
            break
    return best


def baselines(problem: Problem, options: SolveOptions, watch: Watch) -> Iterator[tuple[str, Placement]]:
    """Every rule's placement with the rule's name; those that find none are left out."""
    plain = SolveOptions(options.time_limit_s, options.seed)
    solvers: tuple[Solver, ...] = (EvenSolver(), SwarmSolver(), PetalsSolver())
    for solver in solvers:
        placement = solver.solve(problem, plain, watch).placement
        if placement is not None:
            yield solver.name, placement
    mixed = SolveOptions(options.time_limit_s, options.seed, extra={"mixed": True})
    placement = SeparateSolver().solve(problem, mixed, watch).placement
    if placement is not None:
        yield "separate, mixed", placement
    chain = balanced_chain(problem, usable_nodes(problem))
    if chain:
        yield "one balanced chain", chain
