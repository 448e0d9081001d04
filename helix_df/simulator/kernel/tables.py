"""What a simulation is made of, as tables of numbers: what is fixed, the rules, and what moves.

A table is a list of rows when the loop runs as plain Python, and an array of records when it is compiled; both are read
and written alike. Stages are numbered from 0; vertex 0 is the coordinator, vertex ``i + 1`` is stage ``i``. ``NOTHING``
stands for none: no stage, no run, no limit. Tables of two dimensions are flat, row after row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

NOTHING = -1
NO_LIMIT = 10**9
NEVER = float("inf")

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class Table(Protocol[R_co]):
    """Rows, which are changed in place."""

    def __getitem__(self, at: int, /) -> R_co: ...
    def __len__(self) -> int: ...


class Cells(Protocol[T]):
    """Numbers."""

    def __getitem__(self, at: int, /) -> T: ...
    def __setitem__(self, at: int, value: T, /) -> None: ...
    def __len__(self) -> int: ...


# ---------------------------------------------------------------------- what is fixed


@dataclass(slots=True)
class FixedStage:
    """A node with its layers.

    Attributes:
        start, width: its layers, the first and how many.
        capacity: of KV cache, in tokens times layers.
        layered: it works layer by layer; ``mixed``: requests join it at more than one layer.
        max_batch, max_prompts, max_context, prefill_budget: of one batch; ``max_context`` and the budget of prompts in
            tokens.
        only_link: the link by which everything leaves, or ``NOTHING``.
        windowed, window: in so many of its layers cache is freed behind so many tokens.
        more_s: seconds of a layer that the coordinator takes a token more of a step for.
        decode_first, decode_points, prefill_first, prefill_points: its curves among ``Fixed.curve_x`` and ``curve_y``.
    """

    start: int = 0
    width: int = 1
    capacity: int = 0
    layered: bool = False
    mixed: bool = False
    max_batch: int = NO_LIMIT
    max_prompts: int = NO_LIMIT
    max_context: int = NOTHING
    prefill_budget: int = NO_LIMIT
    only_link: int = NOTHING
    windowed: int = 0
    window: int = 0
    more_s: float = 0.0
    decode_first: int = 0
    decode_points: int = 0
    prefill_first: int = 0
    prefill_points: int = 0


@dataclass(slots=True)
class FixedLink:
    """One direction of a hop, first come first served, one transfer at a time; ``NOTHING`` is the coordinator.

    Attributes:
        tail, head: stages.
        run_layers: layers of the head that a request which came this way runs there.
        skipped: layers of the head that it has been through already.
        token_s, message_s: seconds of a token's activation and of a header on the wire.
        token_bytes, message_bytes: their sizes.
        latency_s: until what was sent arrives.
        out_nic, in_nic: shared by links of its ends, where they could want more than there is.
        control: no request takes it; only word between coordinator and stage.
        apart: decode steps go first, and every piece of a prompt is a message of its own that waits for the link.
    """

    tail: int = NOTHING
    head: int = NOTHING
    run_layers: int = 0
    skipped: int = 0
    token_s: float = 0.0
    message_s: float = 0.0
    latency_s: float = 0.0
    token_bytes: float = 0.0
    message_bytes: float = 0.0
    out_nic: int = NOTHING
    in_nic: int = NOTHING
    control: bool = False
    apart: bool = False


@dataclass(slots=True)
class FixedRequest:
    """A request of the trace, in tokens; ``most`` it may come to, ``answer`` it is expected to generate."""

    arrival_s: float = 0.0
    inputs: int = 0
    outputs: int = 0
    most: int = 0
    answer: int = 0


class Fixed(NamedTuple):
    """What doesn't move.

    ``next_link`` and ``weight`` are the links that lead on from every vertex, ``fanout`` places each of which
    ``next_links`` are used, with the flow over each. ``weight`` has all of them once for every flow that is in force at
    some time, and so has ``open_links``, which tells whether a link is taken at all; ``by_stop`` are the stages by
    their last layer, ``to_stage`` and ``from_stage`` the links between them and the coordinator.
    """

    stages: Table[FixedStage]
    links: Table[FixedLink]
    requests: Table[FixedRequest]
    curve_x: Cells[float]
    curve_y: Cells[float]
    next_link: Cells[int]
    weight: Cells[float]
    open_links: Cells[int]
    nic_bytes_per_s: Cells[float]
    by_stop: Cells[int]
    to_stage: Cells[int]
    from_stage: Cells[int]


class Rules(NamedTuple):
    """Options as numbers; names as in ``Options``.

    ``routes`` and ``feed`` are among the constants below; where ``routes`` is ``BY_ASKING`` the router outside may be
    one that ``observes``, or ``counts_tokens``. ``messages``: what is decided is known when a message tells, see
    ``outbox``. ``depth`` are the model's layers; ``fanout``, ``layers``, ``longest`` and ``vertices`` the widths of
    tables.
    """

    end_s: float
    warmup_s: float
    sample_s: float
    series: int
    drains: bool
    high_water: float
    open: bool
    saturating: bool
    feed: int
    feed_initial: int
    feed_below: float
    feed_spacing_s: float
    feed_delay_s: float
    drops: bool
    shortest_first: bool
    max_queue: int
    patience_s: float
    by_layer: bool
    routes: int
    by_hop: bool
    observes: bool
    counts_tokens: bool
    sees_all: bool
    decode_first: bool
    prefill_chunk: int
    merge_prefills: bool
    rides: bool
    micro_batches: bool
    bundles: bool
    messages: bool
    page_tokens: int
    copy_s: float
    drafts: int
    acceptance: float
    coverage: float
    seed: int
    gives_token: bool
    backs_off: bool
    records: bool
    fanout: int
    depth: int
    layers: int
    longest: int
    vertices: int


BY_TURNS, BY_TOKENS, BY_ASKING = 0, 1, 2
"""Who finds pipelines: weighted turns, the same by tokens, or a router outside."""

SATURATE, HOLD, BY_KV = 0, 1, 2
"""Feeds, as in ``options``."""

# ---------------------------------------------------------------------- what moves


@dataclass(slots=True)
class Counts:
    """The clock, and how many there are of everything.

    Attributes:
        now_s: the simulated time.
        order: of what was scheduled last; ties in time are broken by it.
        happened: events.
        drawn, requests, attempts, paths, branches, kinds: rows in use.
        runs, events, batches: rows that were ever in use; free ones are chains from ``free_run`` and so on.
        queued: events in the heap.
        first_waiting, waiting, delayed: the queue, a ring, and how many will come back to it. ``stranded``: requests
            that fit nothing that is up.
        largest: tokens of the largest request that fits a pipeline of nodes that are up; ``largest_whole``: of all.
        returning: what is still to be heard of a message that came to the coordinator; ``drawing``: then, requests are
            to be drawn. ``posted``: links that carry something when that is done. ``releases``: on their way.
        active: attempts that run. ``afloat``: steps and pieces on their way, ``dead`` those of attempts that don't run.
        flow: which of the flows that are in force at some time is now.
        joins_left: nodes that will still join; ``path_up``: some pipeline leads through nodes that are up.
        decoded, prompted: tokens in the window; ``all_decoded``: and outside; ``rejected``: requests.
        acceptance: of drafted tokens, as the coordinator takes it; of ``drafted`` tokens ``accepted`` were right.
        gaps, tokens, observed: rows to be taken away, together ``noted``.
        pending: paths that were given tokens which the router doesn't know of.
        epoch: how often a node went down.
        admitting, arriving: to be done before the next event: let requests in, and schedule the next arrival.
        sender, passing: a stage whose batch is being passed on, and the run whose turn it is.
        asked_vertex, asked_tokens, asked_request: a question to the router; ``answer`` its answer.
        sampled: number of the latest sample; ``needed``: pieces of the prompt that starts next.
        room_*: how many may be in use before tables have to grow.
    """

    now_s: float = 0.0
    order: int = 0
    happened: int = 0
    drawn: int = 0
    requests: int = 0
    attempts: int = 0
    paths: int = 0
    branches: int = 1
    kinds: int = 0
    runs: int = 0
    free_run: int = NOTHING
    events: int = 0
    free_event: int = NOTHING
    batches: int = 0
    free_batch: int = NOTHING
    free_path: int = NOTHING
    queued: int = 0
    first_waiting: int = 0
    waiting: int = 0
    delayed: int = 0
    stranded: int = 0
    active: int = 0
    afloat: int = 0
    dead: int = 0
    largest: int = 0
    largest_whole: int = 0
    returning: int = NOTHING
    drawing: bool = False
    posted: int = 0
    releases: int = 0
    flow: int = 0
    joins_left: int = 0
    path_up: bool = True
    decoded: int = 0
    prompted: int = 0
    all_decoded: int = 0
    rejected: int = 0
    acceptance: float = 0.0
    drafted: int = 0
    accepted: int = 0
    gaps: int = 0
    tokens: int = 0
    observed: int = 0
    noted: int = 0
    pending: int = 0
    admitting: bool = False
    arriving: bool = False
    sender: int = NOTHING
    passing: int = NOTHING
    asked_vertex: int = NOTHING
    asked_tokens: int = 0
    asked_request: int = NOTHING
    answer: int = NOTHING
    sampled: int = 0
    needed: int = 0
    room_afloat: int = 0
    room_requests: int = 0
    room_attempts: int = 0
    room_paths: int = 0
    room_branches: int = 0
    room_kinds: int = 0
    room_events: int = 0
    room_noted: int = 0


@dataclass(slots=True)
class EventRow:
    """What happens at a time; ``next`` of free ones."""

    time_s: float = 0.0
    order: int = 0
    kind: int = 0
    what: int = 0
    number: int = 0
    next: int = NOTHING


@dataclass(slots=True)
class RunRow:
    """Decode steps, or one piece of a prompt of ``tokens`` tokens, that arrive over one link.

    Steps are a chain of attempts from ``first`` to ``last`` through ``step_next``, ``apart_s`` apart: a request has one
    decode step on its way at most. A piece has its attempt as ``first``, begins at token ``start`` and ``ends`` a
    prompt or not. One without steps or tokens tells that its ``first`` is over. ``refused``: there was no cache for it.
    Runs are themselves chained through ``next`` and ``before``, in one of the queues or in the inbox.
    """

    arrive_s: float = 0.0
    order: int = 0
    link: int = NOTHING
    first: int = NOTHING
    last: int = NOTHING
    steps: int = 0
    tokens: int = 0
    apart_s: float = 0.0
    sent_s: float = 0.0
    start: int = 0
    ends: bool = False
    refused: bool = False
    next: int = NOTHING
    before: int = NOTHING


@dataclass(slots=True)
class RequestRow:
    """A request from its arrival to its end, over all its attempts; times are NaN until they happen.

    ``wanted`` is its place in the trace. ``worst_case``: reserve all that it may come to. ``rejections``: how often a
    stage had no room for it; after one it is ``delayed``. ``stranded``: it fits nothing that is up. ``due_s``: when it
    is tried again, or given up. ``attempt`` is its latest. ``rank``: of its place in the queue (``waiting_order``).
    """

    wanted: int = 0
    generated: int = 0
    attempts: int = 0
    rejections: int = 0
    arrived_s: float = 0.0
    admitted_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    finished_s: float = 0.0
    rank: float = 0.0
    attempt: int = NOTHING
    worst_case: bool = False
    delayed: bool = False
    stranded: bool = False
    due_s: float = 0.0
    rejected: bool = False


@dataclass(slots=True)
class AttemptRow:
    """One try at serving a request.

    ``flying`` steps of it are on their way; ``confirmed`` counts the tokens whose cache every stage holds, ``left`` the
    tokens still to come; ``batch`` is the micro-batch that its last step entered its pipeline with. Where messages are
    simulated, the decode step on its way has taken cache at the first ``stepped`` hops, and ``pages`` says whether that
    is another page.

    Where steps carry drafts, ``drafts`` is how many this one does; a stage without cache for them computes none, and on
    the way home they are those that were right. ``sent`` were there when it left, ``expects`` may be compared with what
    comes, and ``acceptance`` is what the coordinator makes of them. What stages hold is in ``holds`` then.
    """

    request: int = 0
    path: int = 0
    prompt: int = 0
    left: int = 0
    confirmed: int = 0
    flying: int = 0
    expected: int = 0
    step_next: int = NOTHING
    batch: int = NOTHING
    stepped: int = 0
    drafts: int = 0
    sent: int = 0
    expects: int = 0
    acceptance: float = 0.0
    last_s: float = 0.0
    pages: bool = False
    alive: bool = False


@dataclass(slots=True)
class PathRow:
    """A pipeline: stages, its kind of micro-batches, tokens that the router doesn't know of, and its leaf.

    ``step_s``: a decode step of one request once around, as the coordinator takes it; ``token_s``: each token more.
    """

    hops: int = 0
    step_s: float = 0.0
    token_s: float = 0.0
    kind: int = 0
    pending: int = 0
    turn: int = 0
    branch: int = 0


@dataclass(slots=True)
class HopRow:
    """A hop of a pipeline: its link, which choice of its tail, cache a token takes there, and the stage's epoch."""

    link: int = NOTHING
    choice: int = 0
    weight: int = 0
    epoch: int = 0


@dataclass(slots=True)
class StageRow:
    """What changes on a stage.

    Attributes:
        up, epoch: whether it is there, and how often it went.
        busy, batch_number, batch_first, batch_steps, busy_until_s: its batch.
        layer: at which a layered stage works.
        received: tokens since the last batch.
        kv_used, kv_peak: tokens times layers in its cache.
        used: tokens that requests are expected to come to, times layers where these differ or are counted.
        inbox_first, inbox_last: runs on their way here, by arrival.
        wake_s: when it looks at its inbox next.
        under_way: micro-batches that entered here; ``through``: attempts that pass.
        busy_s, decode_batches, decode_steps, prompt_tokens: what it has done.
        seen: requests that a router sees wait here; ``eligible``: a router may send a request here.
        dead_end, fits: of searches for a pipeline, and for the most that fits through one.
    """

    up: bool = True
    epoch: int = 0
    busy: bool = False
    batch_number: int = 0
    batch_first: int = NOTHING
    batch_steps: int = 0
    busy_until_s: float = NEVER
    layer: int = 0
    received: int = 0
    kv_used: int = 0
    kv_peak: int = 0
    used: int = 0
    inbox_first: int = NOTHING
    inbox_last: int = NOTHING
    wake_s: float = NEVER
    under_way: int = 0
    through: int = 0
    busy_s: float = 0.0
    decode_batches: int = 0
    decode_steps: int = 0
    prompt_tokens: int = 0
    seen: int = 0
    eligible: bool = True
    dead_end: bool = False
    fits: int = 0


@dataclass(slots=True)
class QueueRow:
    """First and last of the runs that wait at a layer of a stage, decode steps or prompts."""

    first: int = NOTHING
    last: int = NOTHING


@dataclass(slots=True)
class LinkRow:
    """When a link or NIC is free, how long a link was busy, and how long a router sees it busy for.

    ``posted`` are the runs of the message that it carries next, with the tokens and headers that it weighs; ``pieces``
    those of prompts that go apart from it. ``waiting`` are pieces that have been sent and wait for the link, ``passed``
    the bytes that went before the first of them since it is first; ``woken``: it will be looked at when it is free.
    """

    free_s: float = 0.0
    busy_s: float = 0.0
    seen_s: float = 0.0
    posted_first: int = NOTHING
    posted_last: int = NOTHING
    posted_tokens: int = 0
    posted_headers: int = 0
    pieces_first: int = NOTHING
    pieces_last: int = NOTHING
    waiting_first: int = NOTHING
    waiting_last: int = NOTHING
    passed_bytes: float = 0.0
    woken: bool = False


@dataclass(slots=True)
class KindRow:
    """A kind of micro-batches: shares, and the most under way."""

    shares: int = 1
    most: int = 1


@dataclass(slots=True)
class BatchRow:
    """A micro-batch: where it entered, its requests that aren't back, and whether all are still under way."""

    stage: int = 0
    members: int = 0
    under_way: bool = False
    next: int = NOTHING


@dataclass(slots=True)
class TurnRow:
    """A step of a search for a pipeline: the vertex and the choice there."""

    vertex: int = 0
    choice: int = 0


@dataclass(slots=True)
class TokenRow:
    """A token's return to the coordinator: its request, its number from 0, and when."""

    request: int = 0
    index: int = 0
    time_s: float = 0.0


@dataclass(slots=True)
class HopTimeRow:
    """How long ``steps`` steps took from being sent over a link to being through its head."""

    link: int = 0
    steps: int = 0
    seconds: float = 0.0


class State(NamedTuple):
    """Everything that moves.

    Attributes:
        counts: one row.
        heap: events by time, then order.
        waiting: requests, a ring, the lowest rank first.
        branches: pipelines as a tree of choices, ``leaf`` the path that ends there, plus 1.
        holds: by attempt and hop, what its stage knows of it, see ``hearing``; ``hop_at``: by path and stage, which.
        behind: by attempt and hop, the first page that its stage holds; those before have left its window.
        posted: links that carry something when what is being decided is.
        hops: of paths, ``vertices`` places each; ``leaves_by``: by vertex the link that a path leaves it by.
        load: of every choice of every vertex, or its credit.
        tried, walk: of the search for a pipeline.
        queues: by stage, layer and kind.
        kind_requests: by kind and stage.
        taken, refused, groups: scratch; ``layer_used`` and ``layer_total`` too.
        gaps, tokens, hop_times: until they are taken away.
    """

    counts: Table[Counts]
    heap: Cells[int]
    events: Table[EventRow]
    runs: Table[RunRow]
    requests: Table[RequestRow]
    waiting: Cells[int]
    attempts: Table[AttemptRow]
    branches: Cells[int]
    leaf: Cells[int]
    paths: Table[PathRow]
    hops: Table[HopRow]
    leaves_by: Cells[int]
    hop_at: Cells[int]
    holds: Cells[int]
    behind: Cells[int]
    posted: Cells[int]
    load: Cells[float]
    tried: Cells[bool]
    walk: Table[TurnRow]
    links: Table[LinkRow]
    nics: Table[LinkRow]
    stages: Table[StageRow]
    queues: Table[QueueRow]
    kinds: Table[KindRow]
    kind_requests: Cells[int]
    batches: Table[BatchRow]
    taken: Cells[int]
    refused: Cells[int]
    groups: Cells[int]
    layer_used: Cells[float]
    layer_total: Cells[float]
    gaps: Cells[float]
    tokens: Table[TokenRow]
    hop_times: Table[HopTimeRow]


DECODES, PROMPTS = 0, 1
"""Kinds of queues."""
