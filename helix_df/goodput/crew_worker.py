"""The helper process of a search for goodput: tasks in, what they find out, one JSON line each.

Run as ``python -m helix_df.goodput.crew_worker``. Ends when its input does; the parent kills it to stop it.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from typing import TextIO

from helix_df.goodput.crew import read_task, read_workshop


def serve(lines: TextIO, output: TextIO) -> None:
    """Answer every task; the first line describes the workshop."""
    workshop = read_workshop(json.loads(next(lines)))
    for line in lines:
        found = workshop.perform(read_task(json.loads(line)), lambda: False)
        output.write(json.dumps([asdict(one) for one in found]) + "\n")
        output.flush()


if __name__ == "__main__":
    # Ctrl-C belongs to the parent, which takes the best so far and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin, sys.stdout)
