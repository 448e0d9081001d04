"""How a simulation runs: the runtime's parameters, and every modelling choice with a name.

Owns the options and the presets. Doesn't know plans, traces or how events are handled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from helix_df.errors import SimulationError
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.rules.batching import longest_piece
from helix_df.rules.speculation import MOST_DRAFTS
from helix_df.spec.job import Job

MESSAGE_BYTES = 160
"""Of the runtime's messages, without the tensor: version, secret, request, position, dtype and shape."""


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """A node fails (``up=False``) or joins (``up=True``) at ``time_s``; if it joins first, it starts absent."""

    time_s: float
    node: str
    up: bool


@dataclass(frozen=True, slots=True)
class Saturate:
    """A next request waits at the door at all times; admission alone decides how many run."""


@dataclass(frozen=True, slots=True)
class HoldInFlight:
    """``count`` requests enter, ``spacing_s`` apart; each that ends is replaced ``delay_s`` later."""

    count: int
    spacing_s: float = 0.1
    delay_s: float = 0.1


@dataclass(frozen=True, slots=True)
class FeedByKv:
    """``initial`` requests enter; whenever a prefill or a request ends, one more, if the cache has room.

    The room: over all layers, the largest expected use of the KV cache of the nodes that hold the layer is at most
    ``below``. Each enters ``delay_s`` later.
    """

    initial: int = 20
    below: float = 0.8
    spacing_s: float = 0.1
    delay_s: float = 0.1


Feed = Saturate | HoldInFlight | FeedByKv
"""Where a saturating trace's next request comes from."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is simulated and by which rules; the defaults are the runtime's own. Times are in simulated seconds.

    Attributes:
        seconds: the window that is reported, after ``warmup_s``.
        drain: go on after the window until every request that arrived has ended (not for saturating traces).
        seed: of everything that is drawn at random.
        scheduler: a name of ``schedulers.registry``.
        sees: what a scheduler may look at: the coordinator's own requests, or the queues and links of all nodes, too.
        routing: the whole pipeline when a request is admitted, or hop by hop as its prompt travels.
        ways: which hops schedulers other than the flow's may take: every feasible one or only those with flow.
        admission: by expected KV use as the runtime does, or everything at once.
        when_full: a request that finds no room waits, or is dropped.
        kv_high_water, expected_output, shortest_first, max_queue, path_timeout, max_batch, max_prefill_tokens: as in
            the job's ``runtime``.
        mean_output: most tokens that a request is expected to generate.
        kv_by_layer: a request that runs only some layers of a node takes cache in those only.
        batching: decode steps first and prompts under the token budget, or all in the order they arrived.
        prefill_chunk: prompts travel in pieces of this many tokens; ``None`` = whole.
        merge_prefills: the prompts of a batch run as one prefill, or one after the other.
        rides: the longest piece of a prompt in a batch runs in one pass with the decode steps of the same layers, as in
            the runtime's engine; otherwise, or with merged prefills, prompts run on their own.
        context_per_slot: decode steps of a batch stop at this many tokens of context times the batch limit.
        layer_steps: nodes work layer by layer, and whoever skips layers joins at its first.
        micro_batches: the first stage of a pipeline decodes a share of its requests at a time, as the runtime does.
        bundles: what a batch, or the coordinator at a time, sends over one link arrives together, as one message;
            otherwise each step on its own, and that a request ends or starts over is known everywhere at once.
        message_bytes: what a message has beside its tensor: a header for every step, and for every piece of a prompt.
        kv_page_tokens: a request takes KV cache in pages of so many tokens.
        drafts: most drafted tokens that a decode step carries; for rules under which steps are messages.
        acceptance: probability that a drafted token is right, given that those before it are; what is drawn, and what
            the coordinator takes it for at first.
        coverage: share of the steps for which there are drafts.
        copy_bytes_per_s: speed at which a batch's incoming activations are copied before it starts; ``None`` = free.
        prefill_gives_token: the prefill ends with the first token; otherwise every token takes a decode step.
        backs_off: who found no KV cache waits longer each time before it is tried again, and is given up in the end, as
            the runtime does; otherwise at once, up to 50 times in all.
        feed: for saturating traces.
        events: nodes that fail and join.
        series: points of the time series in the outcome.
    """

    seconds: float = 600.0
    warmup_s: float = 60.0
    drain: bool = False
    seed: int = 0
    scheduler: str = "flow"
    sees: Literal["coordinator", "everything"] = "coordinator"
    routing: Literal["admission", "hop"] = "admission"
    ways: Literal["feasible", "flow"] = "feasible"
    admission: Literal["kv", "open"] = "kv"
    when_full: Literal["wait", "drop"] = "wait"
    kv_high_water: float = 0.9
    expected_output: float = 0.6
    mean_output: float = 240.0
    shortest_first: bool = False
    max_queue: int = 1024
    path_timeout: float = 60.0
    max_batch: int | None = 16
    max_prefill_tokens: int | None = 512
    kv_by_layer: bool = False
    batching: Literal["decode_first", "arrival"] = "decode_first"
    prefill_chunk: int | None = longest_piece(512)
    merge_prefills: bool = False
    rides: bool = True
    context_per_slot: int | None = None
    layer_steps: bool = False
    micro_batches: bool = True
    bundles: bool = True
    message_bytes: float = MESSAGE_BYTES
    kv_page_tokens: int = PAGE_TOKENS
    drafts: int = 0
    acceptance: float = 0.0
    coverage: float = 0.0
    copy_bytes_per_s: float | None = None
    prefill_gives_token: bool = True
    backs_off: bool = True
    feed: Feed = Saturate()
    events: tuple[NodeEvent, ...] = ()
    series: int = 60

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise SimulationError("the simulated time must be above zero", where="seconds", found=self.seconds)
        if self.warmup_s < 0:
            raise SimulationError("the warm-up can't be negative", where="warmup", found=self.warmup_s)
        if self.routing == "hop" and self.admission == "kv":
            raise SimulationError(
                "routing hop by hop can't admit by KV use, since the pipeline isn't known yet",
                where="routing",
                expected="admission open",
            )
        if not 0 <= self.drafts <= MOST_DRAFTS:
            raise SimulationError(
                "a step can't carry so many drafts", where="drafts", found=self.drafts, expected=f"0 to {MOST_DRAFTS}"
            )
        for name in ("acceptance", "coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise SimulationError("no share", where=name, found=getattr(self, name), expected="0 to 1")
        if self.drafts and not self.sends_messages:
            raise SimulationError(
                "steps carry drafts only where they are messages",
                where="drafts",
                found=self.drafts,
                expected="0 with these rules, or bundles, routing at admission and no layer steps",
            )

    @property
    def keeps_micro_batches(self) -> bool:
        """Whether ``micro_batches`` has a meaning: batches are whole, and a request's pipeline is known."""
        return self.micro_batches and not self.layer_steps and self.routing == "admission"

    @property
    def sends_messages(self) -> bool:
        """Whether ``bundles`` holds for all: what one decision sends over a link is one message, and nobody knows of a
        decision before a message tells."""
        return self.bundles and not self.layer_steps and self.routing == "admission"

    @property
    def end_s(self) -> float:
        """When the window closes."""
        return self.warmup_s + self.seconds


def options_of(job: Job, **changes: object) -> Options:
    """The rules by which the runtime serves a job; ``changes`` are fields of ``Options``."""
    runtime, speculation = job.runtime, job.runtime.speculation
    drafts = {} if speculation is None else speculation.model_dump(include={"drafts", "acceptance", "coverage"})
    options = Options(
        **drafts,
        scheduler=runtime.scheduler,
        kv_high_water=runtime.kv_high_water,
        expected_output=runtime.expected_output,
        mean_output=job.workload.output_length,
        shortest_first=runtime.shortest_first,
        max_queue=runtime.max_queue,
        path_timeout=runtime.path_timeout,
        max_batch=runtime.max_batch,
        max_prefill_tokens=runtime.max_prefill_tokens,
        prefill_chunk=longest_piece(runtime.max_prefill_tokens),
        micro_batches=runtime.micro_batches,
    )
    return replace(options, **changes)  # type: ignore[arg-type]
