"""When a job's processes reach what: a line each in the file that ``HELIX_DF_MARKS`` names, for measuring start-up.

Nothing is written where it names none. A line is JSON: seconds of the system's monotonic clock, which all processes
share, the process, the seconds of processor time that it has taken, and what was reached.
"""

from __future__ import annotations

import json
import os
import time

VARIABLE = "HELIX_DF_MARKS"


def mark(reached: str, **measured: float) -> None:
    """Say that this process has reached something, with what else was measured on the way."""
    path = os.environ.get(VARIABLE)
    if path:
        line = {"s": time.monotonic(), "pid": os.getpid(), "cpu_s": time.process_time(), "reached": reached, **measured}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
