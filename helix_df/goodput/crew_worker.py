"""The helper process of a search for goodput: tasks in, what they find out, one JSON line each.

Run as ``python -m helix_df.goodput.crew_worker``. Ends when its input does; the parent kills it to stop it.
"""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
from dataclasses import asdict
from typing import Any, TextIO

from helix_df.goodput.crew import STOP, read_task, read_workshop


def serve(lines: TextIO, output: TextIO) -> None:
    """Answer every task; the first line describes the workshop."""
    workshop = read_workshop(json.loads(next(lines)))
    tasks: queue.Queue[dict[str, Any] | None] = queue.Queue()
    stopped = threading.Event()
    threading.Thread(target=listen, args=(lines, tasks, stopped), daemon=True).start()
    while (task := tasks.get()) is not None:
        found = workshop.perform(read_task(task), stopped.is_set)
        output.write(json.dumps([asdict(one) for one in found]) + "\n")
        output.flush()


def listen(lines: TextIO, tasks: queue.Queue[dict[str, Any] | None], stopped: threading.Event) -> None:
    """Queue the tasks, and note when the one under way is to stop; ``None`` ends the queue."""
    for line in lines:
        document = json.loads(line)
        if document == STOP:
            stopped.set()
        else:
            # There is never more than one on its way, so a stop that came too late was meant for an earlier one.
            stopped.clear()
            tasks.put(document)
    tasks.put(None)


if __name__ == "__main__":
    # Ctrl-C belongs to the parent, which takes the best so far and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin, sys.stdout)
