"""The paper's program through every MathOpt backend, with and without our start: flow and bound over time.

python -m benchmarks.mip_start_table [--seconds 60] [--clusters single24 geo24 hetero42] [--links 0] [--markdown]

The solver ``mip`` runs without our certificate (``certificate: false``), so the bounds are the backends' own. The flow
is the exact max flow of the best placement so far. Every run is a process of its own: one that fails, hangs or takes
too much memory is a row like any other. Progress and the load of the machine go to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten

from benchmarks.plan_table import CASES
from helix_df.errors import HelixError
from helix_df.graph.bounds import best_bound
from helix_df.graph.compile import compile_problem
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import Problem
from helix_df.load import load_job
from helix_df.solvers.api import Incumbent, SolveOptions, Watch
from helix_df.solvers.mip import BACKENDS
from helix_df.solvers.planner import check_placement
from helix_df.solvers.registry import get_solver

CLUSTERS = ("single24", "geo24", "hetero42")
TIMES_S = (1.0, 5.0, 15.0, 30.0, 60.0)
LOOK_S = 0.1
"""Seconds between looks at the memory of the backend's process."""

PATIENCE_S = 60.0
"""Seconds past its limit after which a run counts as hung."""


WIDEST = 100
"""Characters of an explanation in the table."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One run: job, backend, whether it begins with our start, and what it may use."""

    cluster: str
    backend: str
    warm: bool
    seconds: float
    links: int
    memory_gib: float


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended; ``peak_mib`` is of the backend's process."""

    seconds: float
    flow: float | None
    bound: float | None
    reason: str
    detail: str
    peak_mib: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """What was heard of a run, and its end or else why there is none."""

    setup: Setup
    heard: tuple[Incumbent, ...]
    end: End | None
    failure: str = ""

    def flow_at(self, time_s: float) -> float | None:
        flows = [moment.flow for moment in self.heard if moment.elapsed_s <= time_s and moment.flow is not None]
        if self.end is not None and self.end.flow is not None and self.end.seconds <= time_s:
            flows.append(self.end.flow)
        return max(flows, default=None)

    def bound_at(self, time_s: float, trivial: float) -> float | None:
        """The backend's own bound, once it is lower than the ``trivial`` one that it begins with."""
        own = [moment for moment in self.heard if moment.solver.startswith("mip/") and moment.elapsed_s <= time_s]
        bounds = [moment.bound for moment in own if moment.bound is not None]
        if self.end is not None and self.end.bound is not None and self.end.seconds <= time_s:
            bounds.append(self.end.bound)
        return min((bound for bound in bounds if bound < trivial * (1 - 1e-6)), default=None)

    def start(self) -> float | None:
        """The flow that the backend began with."""
        return max((m.flow for m in self.heard if m.flow is not None and not m.solver.startswith("mip/")), default=None)


def load_problem(cluster: str) -> Problem:
    """A case of ``plan_table``, or the problem of a job file."""
    return CASES[cluster]() if cluster in CASES else compile_problem(load_job(Path(cluster)))


def trivial_bound(problem: Problem) -> float:
    """What ``mip`` begins with without our certificate: every token passes some node."""
    return sum(max(node.tokens_per_s, default=0.0) for node in problem.nodes)


def record(setup: Setup) -> None:
    """Run in this process; prints every incumbent and then the end, a line of JSON each."""
    limit = int(setup.memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    problem = load_problem(setup.cluster)
    extra = {"warm_start": setup.warm, "max_links_per_node": setup.links, "certificate": False}
    options = SolveOptions(setup.seconds, backend=setup.backend, extra=extra)
    memory = _ChildMemory()
    memory.start()
    watch = Watch(lambda incumbent: print(json.dumps(asdict(incumbent)), flush=True))
    result = get_solver("mip").solve(problem, options, watch)
    seconds = watch.elapsed_s()
    check_placement(problem, result.placement or {}, "mip")
    flow = placement_flow(problem, result.placement).value if result.placement else None
    why = result.termination
    end = End(seconds, flow, why.bound, why.limit or why.reason, why.detail, memory.peak_mib)
    print(json.dumps({"end": asdict(end)}), flush=True)


class _ChildMemory(threading.Thread):
    """The most memory that a child of this process had, from Linux' own high-water mark."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mib: float | None = None

    def run(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_S):
            for peak in _peaks_mib():
                self.peak_mib = max(peak, self.peak_mib or 0.0)


def _peaks_mib() -> Iterator[float]:
    for children in Path("/proc/self/task").glob("*/children"):
        try:
            for pid in children.read_text().split():
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        yield int(line.split()[1]) / 1024
        except OSError:  # a thread or a child that just ended
            continue


def run(setup: Setup) -> Run:
    """Run in a process of its own; whatever goes wrong there is part of the answer."""
    command = [sys.executable, "-m", "benchmarks.mip_start_table", "--record", json.dumps(asdict(setup))]
    root = Path(__file__).parent.parent
    limit_s = setup.seconds + PATIENCE_S
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as expired:
        said = expired.stdout.decode() if isinstance(expired.stdout, bytes) else expired.stdout or ""
        return read_run(setup, said, f"killed after {limit_s:.0f} s")
    said_last = done.stderr.strip().splitlines()[-1:]
    return read_run(setup, done.stdout, "; ".join([f"ended with {done.returncode}", *said_last]))


def read_run(setup: Setup, output: str, failure: str) -> Run:
    """A run from the lines of ``record``; ``failure`` explains a missing end."""
    heard, end = [], None
    for line in output[: output.rfind("\n") + 1].splitlines():  # a killed run may leave half a line
        message = json.loads(line)
        if "end" in message:
            end = End(**message["end"])
        else:
            heard.append(Incumbent(**message))
    return Run(setup, tuple(heard), end, "" if end else failure)


def columns(seconds: float) -> list[float]:
    """The times of a table, of which the last is the end of the run."""
    return [*(time_s for time_s in TIMES_S if time_s < seconds), seconds]


def header(seconds: float) -> list[str]:
    return ["backend", "start", "", *(f"{time_s:g} s" for time_s in columns(seconds)), "ended", "s", "MiB"]


def rows(done: Run, trivial: float) -> list[list[str]]:
    """Two rows: flow and the backend's bound."""
    times = [*columns(done.setup.seconds)[:-1], float("inf")]
    start = _shown(done.start()) if done.setup.warm else "none"
    end = done.end
    ending = [_ending(done), f"{end.seconds:.0f}" if end else "", _shown(end.peak_mib, 0) if end else ""]
    flows = [_shown(done.flow_at(time_s), none="none") for time_s in times]
    bounds = [_shown(done.bound_at(time_s, trivial)) for time_s in times]
    return [[done.setup.backend, start, "flow", *flows, *ending], ["", "", "bound", *bounds, "", "", ""]]


def _ending(done: Run) -> str:
    if done.end is None:
        return shorten(f"failed: {done.failure}", WIDEST)
    return shorten(done.end.detail, WIDEST) if done.end.reason == "finished" else done.end.reason.replace("_", " ")


def _shown(value: float | None, digits: int = 1, none: str = "–") -> str:
    return none if value is None else f"{value:,.{digits}f}"


def table(lines: Sequence[Sequence[str]], markdown: bool) -> str:
    """The first line is the header."""
    if markdown:
        head, *rest = (f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([head, "|---" * len(lines[0]) + "|", *rest])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each run, our start included")
    parser.add_argument("--clusters", nargs="+", default=CLUSTERS, help="cases of plan_table, or job files")
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--links", type=int, default=0, help="max_links_per_node; with any but 0 no bound is proven")
    parser.add_argument("--memory-gib", type=float, default=6.0, help="address space of a run")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--record", metavar="JSON", help="one run, as lines of JSON (the table starts these itself)")
    arguments = parser.parse_args()
    if arguments.record:
        try:
            record(Setup(**json.loads(arguments.record)))
        except HelixError as error:
            sys.exit(" ".join(str(error).split()))
        return
    for cluster in arguments.clusters:
        problem = load_problem(cluster)
        bound, trivial = best_bound(problem), trivial_bound(problem)
        lines = [header(arguments.seconds)]
        for warm in (True, False):
            for backend in arguments.backends:
                setup = Setup(cluster, backend, warm, arguments.seconds, arguments.links, arguments.memory_gib)
                done = run(setup)
                lines += rows(done, trivial)
                load = os.getloadavg()[0]
                print(cluster, backend, "warm" if warm else "cold", _ending(done), f"load {load:.1f}", file=sys.stderr)
        print(f"\n**{cluster}**: {len(problem.nodes)} nodes, {problem.num_layers} layers; ", end="")
        print(f"our certificate {bound.bound:,.1f} ({bound.kind}), all nodes' speeds together {trivial:,.1f}\n")
        print(table(lines, arguments.markdown), flush=True)


if __name__ == "__main__":
    main()
