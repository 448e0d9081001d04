"""From `helix-df apply` of the quickstart to its first token, phase by phase, and the longest silence on the terminal.

    python -m benchmarks.startup_table               # three cold starts and five warm ones, about three minutes
    python -m benchmarks.startup_table --cold 1 --warm 3
    python -m benchmarks.startup_table --tree ../before --cold 3 --warm 5    # another checkout, beside this one

Cold: with an empty `HELIX_DF_CACHE`, so that everything is compiled; the system's page cache is as it is. Warm: started
before. Both commands, `apply` and `generate`, run on a terminal of their own (a pty), as people run them. A line of a
phase is the median over the starts: when it was over, in seconds from the start of `apply`, for workers that of the
last one; and the processor seconds of its process by then. Silence is the longest time between two changes of what the
terminal shows, the cursor's movements aside. A tree that has no marks (`helix_df.marks`) has only the last rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pty
import re
import resource
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NAME = "startup-table"
PROMPT = "The capital of France is"
PHASES = {
    "command line": "interpreter of `apply`",
    "job read": "its imports, job read",
    "plan made": "plan made and shown",
    "coordinator's imports": "coordinator: imports",
    "workers' imports": "workers: imports",
    "coordinator begins": "coordinator: begins",
    "coordinator listens": "coordinator: workers ordered",
    "worker welcomed": "workers: welcomed",
    "worker loaded": "workers: weights loaded",
    "worker compiled": "workers: first shapes compiled",
    "worker ready": "workers: timed and ready",
    "job ready": "`apply` knows that it is ready",
    "asking": "`generate`: its imports",
    "worker's first batch": "workers: first prefill",
    "token": "first token",
}
"""Marks, in the order in which they mostly come."""

_MEASURED = {"traced_s": "of that: tracing, one worker", "compiled_s": "of that: compiling, or loading it"}

_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|[\r\n\s]")


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was reached: seconds from the start, processor seconds of its process, and what else was said."""

    reached: str
    s: float
    cpu_s: float
    said: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Start:
    """One start: what was reached, when `apply` was over, when the first token was there, the longest silence, and
    processor seconds of both commands (theirs alone)."""

    marks: tuple[Mark, ...]
    ready_s: float
    first_token_s: float
    silence_s: float
    silent_from_s: float
    commands_cpu_s: float

    def last(self, reached: str) -> Mark | None:
        """The last process that reached something; the first where both commands do, and of tokens."""
        found = [mark for mark in self.marks if mark.reached == reached]
        pick = min if reached in ("token", "command line") else max
        return pick(found, key=lambda mark: mark.s, default=None)


class Screen:
    """The times at which what a terminal shows has changed."""

    def __init__(self, began_s: float) -> None:
        self.times = [began_s]

    def run(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> float:
        """Run a command on a terminal; returns when it wrote first what isn't only movement of the cursor.

        Raises:
            RuntimeError: when it fails, with what it wrote.
        """
        ours, theirs = pty.openpty()
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=cwd)
        os.close(theirs)
        before, first_s, written = b"", 0.0, b""
        while True:
            if not select.select([ours], [], [], 0.05)[0]:
                if process.poll() is not None:
                    break
                continue
            try:
                text = os.read(ours, 1 << 16)
            except OSError:  # nobody has the other end any more
                break
            written += text
            seen = _CONTROL.sub(b"", text)
            if seen and seen != before:
                now = time.monotonic()
                first_s = first_s or now
                self.times.append(now)
                before = seen
        os.close(ours)
        if process.wait() != 0:
            raise RuntimeError(f"{' '.join(command)}\n{written.decode(errors='replace')}")
        return first_s


def main() -> None:
    """Start and ask, cold and warm, and print the timeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cold", type=int, default=3, help="starts with nothing compiled")
    parser.add_argument("--warm", type=int, default=5, help="starts after one of those")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to measure")
    parser.add_argument("--job", type=Path, default=ROOT / "spec/examples/quickstart.yaml", help="the job to start")
    parser.add_argument("--max-tokens", type=int, default=1)
    options = parser.parse_args()
    tree = options.tree.resolve()
    with tempfile.TemporaryDirectory(prefix="helix-df-startup-") as folder:
        place = Path(folder)
        found = {"cold": [one_start(place, tree, options, fresh=True) for _ in range(options.cold)]}
        if options.warm and not options.cold:
            one_start(place, tree, options, fresh=True)
        found["warm"] = [one_start(place, tree, options, fresh=False) for _ in range(options.warm)]
    for line in table({kind: starts for kind, starts in found.items() if starts}):
        print(line)


def one_start(place: Path, tree: Path, options: argparse.Namespace, *, fresh: bool) -> Start:
    """Apply the job, ask it, and take it down again."""
    cache, marks = place / "cache", place / "marks"
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    marks.unlink(missing_ok=True)
    environment = os.environ | {
        "HELIX_DF_CACHE": str(cache),
        "HELIX_DF_STATE": str(place / "state"),
        "HELIX_DF_MARKS": str(marks),
        "PYTHONPATH": str(tree),
        "TERM": "xterm",
        "COLUMNS": "120",
    }
    job = place / "job.yaml"
    job.write_text(re.sub(r"port: \d+", "port: 0", options.job.read_text()))
    command = [sys.executable, "-m", "helix_df"]
    asked = ["generate", NAME, "--max-tokens", str(options.max_tokens), "--temperature", "0", PROMPT]
    used_s, began_s = _children_cpu_s(), time.monotonic()
    screen = Screen(began_s)
    with _down_after([*command, "down", NAME], environment, tree):
        screen.run([*command, "apply", str(job), "--name", NAME], environment, tree)
        ready_s = time.monotonic()
        first_s = screen.run([*command, *asked], environment, tree)
        commands_s = _children_cpu_s() - used_s
        told = marks.read_text().splitlines() if marks.exists() else []
    silence_s, at_s = max((after - before, before) for before, after in itertools.pairwise(screen.times))
    return Start(
        tuple(_mark(line, began_s) for line in told),
        ready_s - began_s,
        first_s - began_s,
        silence_s,
        at_s - began_s,
        commands_s,
    )


def table(found: Mapping[str, Sequence[Start]]) -> Iterator[str]:
    """Rows of phases, with columns for each kind of start."""
    heads = [f"{kind}: s (cpu s), {len(starts)} starts" for kind, starts in found.items()]
    yield _row("", heads)
    for reached, words in PHASES.items():
        marks = [[mark for start in starts if (mark := start.last(reached))] for starts in found.values()]
        if any(marks):
            yield _row(words, [_both([mark.s for mark in each], [mark.cpu_s for mark in each]) for each in marks])
    for what, words in _MEASURED.items():
        told = [
            [mark.said[what] for start in starts for mark in start.marks if what in mark.said]
            for starts in found.values()
        ]
        if any(told):
            yield _row(words, [_one(each) for each in told])
    yield _row("`apply` returned", [_one([start.ready_s for start in starts]) for starts in found.values()])
    yield _row(
        "first token on the terminal", [_one([start.first_token_s for start in starts]) for starts in found.values()]
    )
    yield _row("longest silence", [_silence(starts) for starts in found.values()])
    yield _row("cpu of both commands", [_one([start.commands_cpu_s for start in starts]) for starts in found.values()])


def _silence(starts: Sequence[Start]) -> str:
    worst = max(starts, key=lambda start: start.silence_s)
    median = statistics.median(start.silence_s for start in starts)
    return f"{median:6.2f}, most {worst.silence_s:.2f} from {worst.silent_from_s:.2f} on"


def _one(values: Sequence[float]) -> str:
    return f"{statistics.median(values):6.2f}" if values else "–"


def _both(seconds: Sequence[float], cpu_s: Sequence[float]) -> str:
    return f"{_one(seconds)} ({statistics.median(cpu_s):.2f})" if seconds else "–"


def _row(words: str, cells: Sequence[str]) -> str:
    return f"{words:<36}" + "".join(f"{cell:<38}" for cell in cells).rstrip()


def _mark(line: str, began_s: float) -> Mark:
    said: dict[str, Any] = json.loads(line)
    return Mark(said.pop("reached"), said.pop("s") - began_s, said.pop("cpu_s"), said)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _down_after(command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> Iterator[None]:
    try:
        yield
    finally:
        subprocess.run(command, env=environment, cwd=cwd, check=False, capture_output=True)


if __name__ == "__main__":
    main()
