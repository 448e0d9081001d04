"""The child process of a search: attempts in, what they find out, one JSON line each.

Run as ``python -m helix_df.solvers.lane_worker``. Ends when its input does; the parent kills it to stop it.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any, TextIO

from helix_df.graph.judge import Judge
from helix_df.graph.problem_document import from_document, read_placement
from helix_df.plan.moves import Near
from helix_df.profiles.geometry import ModelGeometry
from helix_df.solvers.attempts import run_attempt
from helix_df.solvers.lanes import incumbent_document, read_attempt, read_incumbent
from helix_df.solvers.objective import Objective


def serve(lines: TextIO, output: TextIO) -> None:
    """Answer every attempt; the first line describes the problem."""
    setup = json.loads(next(lines))
    objective = Objective(Judge(from_document(setup["problem"])), _near(setup["near"]))
    for line in lines:
        asked = json.loads(line)
        best = read_incumbent(asked["best"])
        found = run_attempt(objective, read_attempt(asked["attempt"]), best, setup["bound"], lambda: False)
        output.write(json.dumps(incumbent_document(found)) + "\n")
        output.flush()


def _near(document: dict[str, Any] | None) -> Near | None:
    if document is None:
        return None
    # How rotary frequencies stretch has no bytes.
    geometry = ModelGeometry(**{**document["geometry"], "rope_scaling": None})
    return Near(**{**document, "geometry": geometry, "placement": read_placement(document["placement"])})


if __name__ == "__main__":
    # Ctrl-C belongs to the parent, which takes the best so far and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin, sys.stdout)
