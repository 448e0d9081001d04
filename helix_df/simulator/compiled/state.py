"""What changes while a compiled simulation runs, as arrays.

Steps of a run are a chain through ``step_next``: a request has one decode step on its way at most. Runs are chained
through ``run_next``, in one of the queues or in the inbox, and are used again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from helix_df.simulator.compiled.plant import NEVER, NOTHING, Flags, Floats, Ints, Plant, Records

EVENTS, RUNS, REQUESTS, ATTEMPTS, PATHS, BRANCHES = 1 << 15, 1 << 16, 1 << 18, 1 << 18, 1 << 15, 1 << 18
GAPS = 1 << 19
KINDS, UNDER_WAY = 256, 1024
STEPS_A_HOME = GAPS // 2
"""Gaps that are taken away before the next event."""

DECODES, PROMPTS = 0, 1

# Places in ``counts``.
ORDER, DRAWN, REQUEST, ATTEMPT, RUN, FREE, EVENT, FIRST_WAITING, WAITING, ACTIVE = range(10)
DEAD, DECODED, PROMPTED, GAP, PATH, BRANCH, PENDING, FULL, KIND, BATCH, REJECTED = range(10, 21)
COUNTS = 21


def _record(ints: str = "", floats: str = "", flags: str = "") -> np.dtype[np.void]:
    names = ((ints, np.int64), (floats, np.float64), (flags, np.bool_))
    return np.dtype([(name, kind) for some, kind in names for name in some.split()], align=True)


_EVENT = _record("order kind what number", "time_s")
_RUN = _record("order link first last steps tokens next before", "arrive_s apart_s", "ends")
_REQUEST = _record("wanted generated attempts", "arrived_s first_token_s last_token_s", "cautious")
_TRY = _record("job path prompt left confirmed flying expected step_next batch_of", "last_s", "alive")
_PATH = _record("hops kind pending turn")
_HOP = _record("link choice weight")
_STAGE = _record(
    "layer kv_used received batch_number batch_first inbox_first inbox_last used under_ways", "wake_s", "busy dead_end"
)
_KIND = _record("shares most")


class State(NamedTuple):
    """Everything that moves.

    Attributes:
        now: one entry.
        counts: by the places above.
        events: a heap.
        runs: see ``Run``; ``first`` to ``last`` are its steps, or the attempt of a piece of ``tokens`` tokens.
        requests: see ``RequestState``.
        waiting: requests, as a ring.
        tries: see ``Attempt``.
        branch: pipelines as a tree of choices, ``branch_path`` the pipeline that ends there, plus 1.
        paths: pipelines, with their ``hops`` and by vertex the link that they leave it by.
        load: of every way, or its credit.
        tried, walk, choice: of the search for a pipeline.
        free_s, nic_free_s: of links and of NICs.
        stages: see ``Stage``, with the first and last run of the queues by layer and kind.
        kinds: of micro-batches, with the requests of each by stage; ``under_way`` are the batches of each stage.
        taken, refused, groups, layers: scratch.
        gaps: between tokens, until they are taken away.
    """

    now: Floats
    counts: Ints
    events: Records
    runs: Records
    requests: Records
    waiting: Ints
    tries: Records
    branch: Ints
    branch_path: Ints
    paths: Records
    hops: Records
    leaves_by: Ints
    load: Floats
    tried: Flags
    walk: Ints
    choice: Ints
    free_s: Floats
    nic_free_s: Floats
    stages: Records
    queue_first: Ints
    queue_last: Ints
    kinds: Records
    kind_requests: Ints
    under_way: Ints
    taken: Ints
    refused: Ints
    groups: Ints
    layers: Floats
    gaps: Floats


def new_state(plant: Plant) -> State:
    """Nothing has happened yet. Most of it is never touched, and so takes no memory."""
    stages, links = len(plant.stages), len(plant.links)
    vertices, ways = plant.way.shape
    layers = int(plant.stages["width"].max()) if plant.stages["layered"].any() else 1

    def ints(*shape: int) -> Ints:
        return np.zeros(shape, dtype=np.int64)

    def floats(*shape: int) -> Floats:
        return np.zeros(shape, dtype=np.float64)

    def records(kind: np.dtype[np.void], *shape: int) -> Records:
        return np.zeros(shape, dtype=kind)

    state = State(
        now=floats(1),
        counts=ints(COUNTS),
        events=records(_EVENT, EVENTS),
        runs=records(_RUN, RUNS),
        requests=records(_REQUEST, REQUESTS),
        waiting=ints(REQUESTS),
        tries=records(_TRY, ATTEMPTS),
        branch=ints(BRANCHES, ways),
        branch_path=ints(BRANCHES),
        paths=records(_PATH, PATHS),
        hops=records(_HOP, PATHS, stages + 1),
        leaves_by=ints(PATHS, vertices),
        load=floats(vertices, ways),
        tried=np.zeros((stages + 1, ways), dtype=np.bool_),
        walk=ints(stages + 1),
        choice=ints(stages + 1),
        free_s=floats(links),
        nic_free_s=floats(len(plant.nic_bytes_per_s)),
        stages=records(_STAGE, stages),
        queue_first=np.full((stages, layers, 2), NOTHING),
        queue_last=np.full((stages, layers, 2), NOTHING),
        kinds=records(_KIND, KINDS),
        kind_requests=ints(stages, KINDS),
        under_way=ints(stages, UNDER_WAY),
        taken=ints(RUNS),
        refused=ints(RUNS),
        groups=ints(ways),
        layers=floats(int((plant.stages["start"] + plant.stages["width"]).max()), 2),
        gaps=floats(GAPS),
    )
    state.counts[FREE] = NOTHING
    state.counts[BRANCH] = 1
    state.stages["wake_s"] = NEVER
    for name in ("batch_first", "inbox_first", "inbox_last"):
        state.stages[name] = NOTHING
    return state
