"""Running a solver with progress on stderr; the first Ctrl-C stops it, a second one aborts it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from helix_df.solvers.api import Incumbent, Watch

T = TypeVar("T")


def watched(work: Callable[[Watch], T], console: Console) -> T:
    """Run ``work`` with a watch that shows what is found, and what is being done, and hears Ctrl-C.

    Raises:
        KeyboardInterrupt: on the second Ctrl-C.
    """
    with _progress(console) as (show, say):
        watch = Watch(show, say)
        with _stopped_by_ctrl_c(watch, console):
            return _in_thread(lambda: work(watch))


def _in_thread(work: Callable[[], T]) -> T:
    """Run ``work`` beside the main thread, since signals are only heard there and a solver may sit in C for minutes."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="solver", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.1)
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def _stopped_by_ctrl_c(watch: Watch, console: Console) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if watch.stop.is_set():
            raise KeyboardInterrupt
        watch.stop.set()
        console.print("stopping with the best plan so far; Ctrl-C again to abort")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Lines:
    """Prints a line whenever the search has something new to say."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: str | None = None

    def show(self, incumbent: Incumbent) -> None:
        """Print what is new."""
        text = describe(incumbent)
        if incumbent.flow is not None and text != self._last:
            self._last = text
            self.say(incumbent.elapsed_s, text)

    def say(self, elapsed_s: float, text: str) -> None:
        """Print what the solver is at."""
        self._console.print(f"{elapsed_s:5.1f} s  {text}", soft_wrap=True)


@contextmanager
def _progress(console: Console) -> Iterator[tuple[Callable[[Incumbent], None], Callable[[float, str], None]]]:
    if not console.is_terminal:
        lines = _Lines(console)
        yield lines.show, lines.say
        return
    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as progress:
        task: TaskID = progress.add_task("looking for a placement")

        def describing(text: str) -> None:
            progress.update(task, description=text)

        yield lambda incumbent: describing(describe(incumbent)), lambda _elapsed_s, text: describing(text)


def describe(incumbent: Incumbent) -> str:
    """``mip: 1,289.6 tokens/s, bound 2,045.6, gap 37.0 %``."""
    if incumbent.flow is None:
        bound = f", bound {incumbent.bound:,.1f}" if incumbent.bound is not None else ""
        return f"{incumbent.solver}: no placement yet{bound}"
    text = f"{incumbent.solver}: {incumbent.flow:,.1f} tokens/s"
    if incumbent.bound is not None and incumbent.bound > 0:
        gap = max(0.0, 1 - incumbent.flow / incumbent.bound)
        text += f", bound {incumbent.bound:,.1f}, gap {gap:.1%}"
    return text
