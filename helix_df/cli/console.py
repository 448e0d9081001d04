"""Where commands write to: two terminals, and files.

Doesn't know what is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from helix_df.errors import HelixError

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


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document on stdout, its keys in order."""
    sys.stdout.write(json.dumps(document, indent=1, sort_keys=True) + "\n")


def write_file(path: Path, text: str, what: str, error: type[HelixError]) -> None:
    """Write a file; ``what`` names its contents where that fails.

    Raises:
        HelixError: of the kind ``error``, when it can't be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as failure:
        raise error(f"{what} can't be written", where=str(path), found=failure.strerror) from failure
