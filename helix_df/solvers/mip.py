"""``mip``: the paper's mixed-integer program, through OR-Tools MathOpt.

Owns the search around a solve: start, links, bounds, when to stop, and the incumbent, which is never lost. Doesn't
know the formulation (``mip_model``) or how a backend is run (``mip_process``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from helix_df.errors import SolverError
from helix_df.graph.bounds import best_bound
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.solvers.api import Ending, SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.baselines import Candidate, best_baseline
from helix_df.solvers.chains import usable_nodes
from helix_df.solvers.cover import CoverOptions, CoverSearch
from helix_df.solvers.mip_links import all_pairs, prune
from helix_df.solvers.mip_process import MipChild, MipMessage, MipRequest, run_mip
from helix_df.solvers.options import nearest, read_extra
from helix_df.solvers.stopping import OPTIMAL, reason_to_stop

if TYPE_CHECKING:
    from helix_df.solvers.mip_model import Formulation

BACKENDS = ("highs", "gscip", "cp-sat")

POLL_S = 0.05
"""Seconds between looks at ``Watch.stop`` and the clock."""

GRACE_S = 1.0
"""Seconds that a backend may take past the time limit to hand over its bound before it is killed."""

WARM_UP = 0.2
"""Share of the time limit that finding a start may take."""

WORTH_TELLING = 1e-3
"""A bound that falls by less than this share is not reported by itself."""

LEAST_S = 0.5
"""Seconds without which it isn't worth starting a solve."""


@dataclass(frozen=True, slots=True)
class MipOptions:
    """``solver.options`` of mip.

    ``max_links_per_node``: links between nodes that each node keeps, 0 for all; ``warm_start``: begin with the best
    baseline or what ``cover`` finds soon; ``threads``: of HiGHS and CP-SAT, more than 1 makes the result depend on
    timing; ``certificate``: give the program our bound (``best_bound``) and stop where the flow meets it. Without, the
    backend must prove a bound from the paper's program alone, which takes far longer: for measurements.
    """

    max_links_per_node: int = 12
    warm_start: bool = True
    threads: int = 1
    certificate: bool = True

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise SolverError("mip needs a thread", where="solver.options.threads", found=0, expected="at least 1")


class MipSolver:
    """Place layers and route flow at once, exactly (Helix, arXiv 2406.01566, section 4.4 and 4.5).

    Same problem, options and seed give the same placement as long as the solve ends by itself. What a time limit or an
    interruption cuts off depends on the machine, as for every MIP solver with a wall clock.
    """

    name = "mip"
    own_options = MipOptions

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        own = read_extra(self.name, options.extra, MipOptions)
        backend = choose_backend(options)
        lacking = what_mip_lacks(problem)
        if lacking is not None:
            raise SolverError(f"mip can't keep {lacking}", where="solver.name", hint="the solver auto or cover")
        deadline_s = watch.elapsed_s() + options.time_limit_s
        start = _warm_start(problem, options, watch) if own.warm_start else None
        return MipSearch(problem, options, own, backend, watch, start).run(deadline_s)


def _warm_start(problem: Problem, options: SolveOptions, watch: Watch) -> Candidate | None:
    """The best of the baselines and of a short run of ``cover``."""
    limit_s = watch.elapsed_s() + WARM_UP * options.time_limit_s
    baseline = best_baseline(problem, options, watch)
    effort = CoverOptions(restarts=2, iterations=2000, polish=1000)
    search = CoverSearch(problem, options, effort, watch, limit_s, baseline)
    search.run()
    return Candidate(search.best, search.flow, search.incumbent.source) if search.best is not None else None


def what_mip_lacks(problem: Problem) -> str | None:
    """The limit of a problem that the formulation can't express, as a field of the job; ``None`` if it can."""
    if problem.limits.max_hops is not None:
        return "limits.max_hops"
    return "limits.min_requests" if problem.limits.min_requests else None


def choose_backend(options: SolveOptions) -> str:
    """The backend asked for, HiGHS by default.

    Raises:
        SolverError: for one that isn't known.
    """
    backend = options.backend or BACKENDS[0]
    if backend not in BACKENDS:
        raise SolverError(
            f"mip has no backend {backend!r}",
            where="solver.backend",
            expected=f"one of {', '.join(BACKENDS)}",
            hint=nearest(backend, BACKENDS),
        )
    return backend


class MipSearch:
    """One search: the best placement so far, the best bound so far, and what ends it."""

    def __init__(
        self,
        problem: Problem,
        options: SolveOptions,
        own: MipOptions,
        backend: str,
        watch: Watch,
        start: Candidate | None,
    ) -> None:
        self.problem = problem
        self.options = options
        self.own = own
        self.backend = backend
        self.watch = watch
        self.start = start
        self.best: Placement | None = start.placement if start else None
        self.flow = start.flow if start else 0.0
        self.bound = best_bound(problem).bound
        if not own.certificate and self.bound > 0:  # what is left is that every token passes some node
            self.bound = sum(max(node.tokens_per_s, default=0.0) for node in problem.nodes)
        self.pruned = 0
        self.notes = [f"backend {backend}"]

    def run(self, deadline_s: float) -> SolveResult:
        """Search until proven, told to stop, or ``deadline_s`` on the watch's clock."""
        if self.bound <= 0:
            return SolveResult(None, Termination("infeasible", 0.0, "the nodes can't hold all layers"))
        reason = self._enough()
        if reason is None and deadline_s - self.watch.elapsed_s() >= LEAST_S:
            reason = self._search(deadline_s)
        return SolveResult(self.best, self._termination(reason or "time"))

    def _enough(self) -> Ending | None:
        return reason_to_stop(self.flow, self.bound, self.options, self.watch)

    def _search(self, deadline_s: float) -> Ending:
        from helix_df.solvers.mip_model import Formulation, Unit, build_model

        formulation = Formulation(
            problem=self.problem,
            nodes=usable_nodes(self.problem),
            pairs=self._pairs(),
            flow_bound=self.bound,
            covering=self.own.certificate,
            unit=Unit(self.bound / 1e6, integral=True) if self.backend == "cp-sat" else Unit(self.bound / 1e3, False),
        )
        model = build_model(formulation).export_model().SerializeToString()
        request = MipRequest(
            model=model,
            backend=self.backend,
            time_limit_s=max(LEAST_S, deadline_s - self.watch.elapsed_s() - LEAST_S),
            seed=self.options.seed % 2**31,
            threads=self.own.threads,
            gap=max(self.options.gap, OPTIMAL / 10),
            decisions=formulation.decisions(),
            hint=formulation.hint(self.start.placement) if self.start else {},
        )
        try:
            with run_mip(request) as child:
                return self._follow(child, formulation, deadline_s + GRACE_S)
        except SolverError as error:
            if self.best is None:
                raise
            self.notes.append(f"{error.problem}: {error.found}")
            return "finished"

    def _pairs(self) -> tuple[tuple[int, int], ...]:
        nodes = usable_nodes(self.problem)
        pairs = all_pairs(self.problem, nodes)
        position = {node.name: i for i, node in enumerate(nodes)}
        edges = placement_flow(self.problem, self.start.placement).edges if self.start else ()
        used = {
            (min(position[edge.tail], position[edge.head]), max(position[edge.tail], position[edge.head]))
            for edge in edges
            if edge.tail in position and edge.head in position
        }
        kept = prune(self.problem, nodes, pairs, self.own.max_links_per_node, sorted(used), self.options.seed)
        self.pruned = len(pairs) - len(kept)
        return tuple(kept)

    def _follow(self, child: MipChild, formulation: Formulation, kill_s: float) -> Ending:
        while True:
            message = child.next(POLL_S)
            if message is not None:
                self._take(message, formulation)
            reason = self._enough()
            if reason is not None:
                return reason
            if message is not None and message.status is not None:
                return self._ending(message.status)
            if self.watch.elapsed_s() > kill_s:
                return "time"

    def _take(self, message: MipMessage, formulation: Formulation) -> None:
        if message.bound is not None and not self.pruned:
            bound = formulation.unit.bound(message.bound)
            lowered = max(min(self.bound, bound), self.flow)
            if lowered < self.bound * (1 - WORTH_TELLING):
                self.watch.report(f"mip/{self.backend}", self.flow or None, lowered)
            self.bound = lowered
        if message.values is not None:
            placement = formulation.placement(message.values)
            flow = placement_flow(self.problem, placement).value
            if flow > self.flow:
                self.best, self.flow = placement, flow
                self.watch.report(f"mip/{self.backend}", flow, self.bound)

    def _ending(self, status: str) -> Ending:
        if status == "optimal" and self.best is None:
            return self._nothing_flows()
        if status == "optimal":
            return "finished" if self.pruned else "gap" if self.options.gap else "optimal"
        if status == "infeasible" and not self.pruned and self.best is None:
            return "infeasible"
        if status in ("feasible", "no_solution_found"):
            return "time"
        if status == "infeasible":
            return "finished"
        raise SolverError(f"the backend {self.backend} failed", where="solver.backend", found=f"it ended with {status}")

    def _nothing_flows(self) -> Ending:
        """The end of a complete search without a placement: too little flow for the backend's arithmetic, if any."""
        if self.pruned or self.bound > 10 * OPTIMAL * best_bound(self.problem).bound:
            return "finished"
        self.notes.append(f"no placement carries more than {self.bound:.3g} tokens/s")
        return "infeasible"

    def _termination(self, ending: Ending) -> Termination:
        notes = list(self.notes)
        if self.best is None:
            notes.append("no placement found")
        elif self.start is not None and self.best is self.start.placement:
            notes.append(f"nothing better than {self.start.source}")
        if self.pruned:
            notes.append(f"{self.pruned} slow links left out (options: max_links_per_node)")
        return Termination.of(ending, self.bound, "; ".join(notes))
