"""The child process that runs one MathOpt solve: a request in, an answer for every improvement out.

Owns the differences between backends: HiGHS calls nobody back, so its file of improving solutions is followed; GSCIP
and CP-SAT report through callbacks. A process of its own, because HiGHS can't be interrupted: the parent kills it and
has lost nothing. Knows nothing of placements. Run as ``python -m helix_df.solvers.mip_worker``.
"""

from __future__ import annotations

import datetime
import shutil
import threading
from pathlib import Path
from typing import Any

from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt

from helix_df.solvers.child import Parent, be_child
from helix_df.solvers.mip_process import MipMessage, MipRequest

FOLLOW_S = 0.05
"""Seconds between looks at HiGHS' file of improving solutions."""


class MipWorker:
    """One solve."""

    def __init__(self, request: MipRequest, parent: Parent) -> None:
        self.request, self.parent = request, parent
        self.wanted = set(request.decisions)
        self.model = mathopt.Model.from_model_proto(model_pb2.ModelProto.FromString(request.model))

    def run(self) -> None:
        solve = {"highs": self._solve_highs, "gscip": self._solve_gscip, "cp-sat": self._solve_cp_sat}
        result = solve[self.request.backend]()
        reason = result.termination.reason
        values = self._named(result.variable_values()) if result.has_primal_feasible_solution() else None
        bound = _finite(result.termination.objective_bounds.dual_bound)
        self.parent.answer(MipMessage(values, bound, reason.name.lower()))

    def _named(self, values: dict[Any, float]) -> dict[str, float]:
        return {x.name: value for x, value in values.items() if x.name in self.wanted and value > 0.5}

    def _parameters(self) -> Any:
        return mathopt.SolveParameters(
            time_limit=datetime.timedelta(seconds=self.request.time_limit_s),
            random_seed=self.request.seed,
            relative_gap_tolerance=self.request.gap,
        )

    def _hint(self) -> Any:
        values = self.request.hint
        if not values:
            return mathopt.ModelSolveParameters()
        hint = mathopt.SolutionHint(variable_values={x: values[x.name] for x in self.model.variables()})
        return mathopt.ModelSolveParameters(solution_hints=[hint])

    def _solve_highs(self) -> Any:
        improving = Path(self.request.scratch) / "improving.sol"
        parameters = self._parameters()
        parameters.highs.int_options["threads"] = self.request.threads
        parameters.highs.bool_options["mip_improving_solution_save"] = True
        parameters.highs.string_options["mip_improving_solution_file"] = str(improving)
        follower = _Follower(improving, self)
        follower.start()
        try:
            return mathopt.solve(self.model, mathopt.SolverType.HIGHS, params=parameters, model_params=self._hint())
        finally:
            follower.finish()

    def _solve_gscip(self) -> Any:
        return self._solve_with_callback(mathopt.SolverType.GSCIP, self._parameters())

    def _solve_cp_sat(self) -> Any:
        parameters = self._parameters()
        parameters.threads = self.request.threads
        return self._solve_with_callback(mathopt.SolverType.CP_SAT, parameters)

    def _solve_with_callback(self, solver: Any, parameters: Any) -> Any:
        def improved(data: Any) -> Any:
            stats = data.mip_stats
            begun = stats.number_of_solutions_found > 0  # GSCIP checks a hint before it solves, with a bound of 0
            bound = _finite(stats.dual_bound) if begun else None
            self.parent.answer(MipMessage(self._named(data.solution), bound))
            return mathopt.CallbackResult()

        return mathopt.solve(
            self.model,
            solver,
            params=parameters,
            model_params=self._hint(),
            callback_reg=mathopt.CallbackRegistration(events={mathopt.Event.MIP_SOLUTION}),
            cb=improved,
        )


def _finite(bound: float) -> float | None:
    """Backends without a bound say infinity, or 1e30."""
    return bound if abs(bound) < 1e30 else None


class _Follower(threading.Thread):
    """Sends on what HiGHS appends to its file of improving solutions.

    A solution there is ``Objective X``, ``# Columns N`` and N lines ``name value``; it is sent once all N are there.
    """

    def __init__(self, path: Path, worker: MipWorker) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.worker = worker
        self.position = 0
        self.expected = 0
        self.values: dict[str, float] = {}
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(FOLLOW_S):
            self._look()

    def finish(self) -> None:
        """Send the rest; returns once nothing more will be sent."""
        self.done.set()
        self.join()
        self._look()

    def _look(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            written = file.read()
        whole = written[: written.rfind(b"\n") + 1]  # the last line may be half written
        self.position += len(whole)
        for line in whole.decode().splitlines():
            self._take(line)

    def _take(self, line: str) -> None:
        if line.startswith("Objective "):
            self.values = {}
        elif line.startswith("# Columns "):
            self.expected = int(line.removeprefix("# Columns "))
        else:
            name, value = line.split()
            self.values[name] = float(value)
            if len(self.values) == self.expected:
                wanted = self.worker.wanted
                found = {x: v for x, v in self.values.items() if x in wanted and v > 0.5}
                self.worker.parent.answer(MipMessage(found))


def serve(parent: Parent) -> None:
    """Run the solve; a failure is an answer too."""
    request = parent.ask(MipRequest)
    # Then nobody else cleans up.
    parent.end_when_gone(lambda: shutil.rmtree(request.scratch, ignore_errors=True))
    try:
        MipWorker(request, parent).run()
    except Exception as error:  # MathOpt turns every status into some other exception; the parent explains it
        reason = error.__context__ or error
        parent.answer(MipMessage(error=f"{type(reason).__name__}: {reason}"))


if __name__ == "__main__":
    be_child(serve)
