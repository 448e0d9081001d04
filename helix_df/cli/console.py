"""The terminals that commands write to."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType

PIPED_WIDTH = 120


def output() -> Console:
    """Where results go. Piped output is as wide as a wide terminal, so that nothing wraps in a log."""
    piped = not sys.stdout.isatty()
    return Console(file=sys.stdout, highlight=False, markup=False, width=PIPED_WIDTH if piped else None)


def messages() -> Console:
    """Where progress goes, so that results can be piped."""
    return Console(file=sys.stderr, highlight=False, markup=False)


def print_trimmed(console: Console, *parts: RenderableType) -> None:
    """Print the parts below one another, without the blanks that tables leave at the end of a line."""
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    console.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))
