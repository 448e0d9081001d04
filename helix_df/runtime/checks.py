"""Whether this process checks itself as it runs: that machines' sums are right, and that one thread alone moves them.

On in the tests, off in production, where the checks would cost more than the work. Doesn't know what is checked.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

VARIABLE = "HELIX_DF_CHECKS"
"""Set it to 1 to switch the checks on, in child processes, too."""

CHECKED = os.environ.get(VARIABLE) == "1"


@dataclass(slots=True)
class OneThread:
    """The only thread that may touch something, once it is ``bound``."""

    _owner: int | None = None

    def bind(self) -> None:
        """From now on it is this thread."""
        self._owner = threading.get_ident()

    def check(self) -> None:
        """Make sure that this is the thread.

        Raises:
            AssertionError: when it is another one.
        """
        if CHECKED and self._owner not in (None, threading.get_ident()):
            raise AssertionError(f"thread {threading.current_thread().name} touches what is the event loop's alone")
