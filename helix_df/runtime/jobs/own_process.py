"""What a process of Linux can say of itself: what it looks like, whose end is its own, and who gets its orphans.

Elsewhere nothing of that can be said, which every function here tells. Imports little: processes begin with it.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Sequence
from pathlib import Path

ROOM = " " * 4096
"""The last word of a command whose process is to look like another one later (``rename``): that needs the memory."""

_SET_PARENT_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36
"""Of Linux's ``prctl``."""

_ARGUMENTS_AT = 45
"""Of the fields of ``/proc/self/stat`` after the process' name: where the words of its command begin, and end."""


def adopt_orphans(wanted: bool = True) -> bool:
    """Become the parent of processes whose own parent dies, or don't any more; whether this system can do that."""
    return _prctl(_SET_CHILD_SUBREAPER, int(wanted))


def end_with_parent(wanted: bool = True) -> bool:
    """Be killed when the parent ends, or don't be any more; whether this system can do that."""
    return _prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL) if wanted else 0)


def rename(words: Sequence[str]) -> bool:
    """Look as if this process had been started with ``words``, of which those are seen that there is room for.

    The memory where the system reads a process' command is its own to write to.
    """
    try:
        fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
        start, stop = map(int, fields[_ARGUMENTS_AT : _ARGUMENTS_AT + 2])
    except (OSError, ValueError):
        return False
    if not 0 < start < stop:
        return False
    text = b""
    for word in words:
        longer = text + word.encode() + b"\0"
        if len(longer) > stop - start:
            break
        text = longer
    ctypes.memmove(start, text.ljust(stop - start, b"\0"), stop - start)
    return True


def _prctl(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False
