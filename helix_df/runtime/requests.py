"""What is asked of a running job, and what comes back, in tokens.

Text, templates and HTTP live above (``generation``, ``api``); routes and workers below (``coordinator.state``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from helix_df.runtime.sampling import SamplingParams

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request. ``id`` is unique in the life of a job; ``prompt`` holds at least one token id. With ``max_tokens`` 0
    it ends once its prompt is computed.

    ``stop_ids`` end the generation and are not part of the answer. Whoever asks waits ``timeout_s`` seconds at most for
    the whole answer; ``None`` is as long as the job's ``runtime.request_timeout`` allows. ``so_far`` are tokens of the
    answer that there are already, by a coordinator that has died, say; they count for ``max_tokens``. ``owner`` is the
    name of the API key that it came with, if it did: requests of several are started in turn. If it ``tells_stop``, a
    stop id that ends the answer is its last token after all. ``traceparent`` is that of the span which it is a part of
    (W3C Trace Context), if it is traced.
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    stop_ids: frozenset[int] = frozenset()
    timeout_s: float | None = None
    so_far: tuple[int, ...] = ()
    owner: str | None = None
    tells_stop: bool = False
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """KV cache to begin with: that of the first ``tokens`` tokens of ``parent``, another attempt at a request."""

    parent: str
    tokens: int


def checkpoint_name(attempt: str) -> str:
    """Under which name workers keep the KV cache where the prompt of an attempt parts from others."""
    return f"{attempt}@checkpoint"


@dataclass(frozen=True, slots=True)
class History:
    """The tokens of a request when an attempt begins; the first ``prompt`` of them are the prompt's."""

    tokens: tuple[int, ...]
    prompt: int

    @property
    def answer(self) -> tuple[int, ...]:
        """Those that were drawn."""
        return self.tokens[self.prompt :]


@dataclass(frozen=True, slots=True)
class TopLogprobs:
    """Log-probabilities of one sampled token: its own, and the likeliest ``(token id, logprob)`` pairs, best first."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class DrawnToken:
    """A token that was drawn behind others in the same step; log-probabilities are there where they are asked for."""

    token: int
    logprobs: TopLogprobs | None = None


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """What the model thought of a token of the prompt, given those before it: its log-probability (natural), its place
    among all tokens (1 is the likeliest), and the likeliest ``(token id, logprob)`` pairs, best first."""

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One generated token, or the end of the answer.

    ``token`` is ``None`` on an end without a token (a stop id was sampled); ``finish`` is set on the last event only.
    ``cached_tokens``, on the first event only, are those of the prompt that were in KV cache already: how an answer
    came about, and no part of it. ``prompt_scores``, there too where they were asked for, are of the prompt's tokens
    from the second on. ``pooled``, where that was asked for, are sums of hidden states over stretches of the prompt in
    their order: little-endian float32 [hidden] each. ``waited_s`` is how long the request was in the queue, on the
    first event only.
    """

    token: int | None
    finish: FinishReason | None = None
    logprobs: TopLogprobs | None = None
    cached_tokens: int = field(default=0, compare=False)
    prompt_scores: tuple[ScoredToken, ...] | None = field(default=None, compare=False)
    pooled: tuple[bytes | memoryview, ...] = field(default=(), compare=False)
    waited_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class StageSpeed:
    """What a worker timed once it was warm: seconds of a batch of one request through all the layers it holds."""

    prefill_tokens: int
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """What an engine says of itself: shapes still to be compiled, programs compiled or loaded by its process so far,
    tokens of KV cache in pages that somebody owns, how long all its batches took and were planned to take on its GPU
    type at full speed, and the kernels of its attention (``profiles.attention_kernels``)."""

    cold_shapes: int = 0
    compiled_programs: int = 0
    kv_held_tokens: int = 0
    busy_s: float = 0.0
    planned_busy_s: float = 0.0
    attention: str = ""


NEW_ENGINE = EngineHealth()

NodeState = Literal["waiting", "joined", "loading", "compiling", "ready", "lost", "failed"]
NodeRole = Literal["serving", "coming", "leaving", "spare"]
JobState = Literal["starting", "ready", "degraded", "failed", "stopping"]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One worker as the coordinator sees it; ``progress`` goes from 0 to 1 while it loads and compiles.

    ``cold_shapes`` are those that a ready worker still compiles while it holds no request. ``speed`` is what it
    timed before it said that it is ready. ``kv_used_tokens`` is what running requests are expected to use,
    ``kv_kept_tokens`` what is kept beside it of those that are over; both are the coordinator's count. What the worker
    last said of itself: ``kv_held_tokens`` in pages that somebody owns, ``compiled_programs`` so far, and the
    ``memory_bytes`` that its process has, and ``illegal_events`` that its machine has no transition for. Of
    ``not_finite`` requests it computed numbers that aren't: 0, unless its weights or its device are damaged.
    ``restarts`` is how often its worker was started again after it had ended by itself. ``role``: ``coming`` for one of
    a plan that is to take over, ``leaving`` for one that only ends what it began, ``spare`` for one that was lost, and
    that the plan does without until it is back. One that is ``drained`` gets no new requests. ``busy_s`` and
    ``planned_busy_s`` are as in ``EngineHealth``, and so is ``attention``.
    """

    name: str
    state: NodeState
    layers: tuple[int, int]
    address: str | None
    progress: float
    detail: str
    kv_used_tokens: int
    kv_capacity_tokens: int
    running: int
    join_command: str | None = None
    cold_shapes: int = 0
    speed: StageSpeed | None = None
    kv_kept_tokens: int = 0
    kv_held_tokens: int = 0
    compiled_programs: int = 0
    memory_bytes: int = 0
    illegal_events: int = 0
    not_finite: int = 0
    restarts: int = 0
    role: NodeRole = "serving"
    drained: bool = False
    busy_s: float = 0.0
    planned_busy_s: float = 0.0
    attention: str = ""


@dataclass(frozen=True, slots=True)
class HopStatus:
    """What goes from one node to another, either of which may be the coordinator: tokens/s that the plan sends there,
    tokens of prompts and answers that went there so far, and requests that run over it now; and what their link does,
    where that was measured of late (``rules.measured_links``)."""

    tail: str
    head: str
    planned_tokens_per_s: float
    tokens: int
    running: int
    bytes_per_s: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A running job at one moment. ``ready`` means that a full path through the layers is up.

    ``missing_layers`` are ranges, half-open, that no worker holds who is up; ``cut_hops`` are pairs of nodes that are
    up, of which the first doesn't reach the second; ``waiting`` counts requests that wait for
    room and those that wait for nodes. ``change`` says how far another plan is that is to take over, ``replanned``
    what was done, or can't be, about nodes that are lost for long.
    Of ``drafted_tokens`` that steps carried, ``accepted_tokens`` were drawn. Where a job speculates, drafts were sought
    for ``decode_steps``, there were some for ``draftable_steps``, and ``drafted_steps`` carried any.
    ``prefix_hits`` attempts at requests began with KV cache of others, and didn't compute ``cached_tokens`` of theirs.
    ``illegal_events`` are those that the coordinator's machines have no transition for: 0, unless something is wrong.
    ``refused_frames`` are messages that the coordinator didn't let in, by fault (``runtime.wire.fields``).
    ``restarts`` is how often the coordinator was started again after it had ended by itself, ``last_restart`` why it
    last was. The plan's flow through ``num_layers`` layers is ``planned_tokens_per_s``; ``hops`` are planned
    or were used. All requests that came asked for ``asked_tokens`` of prompts and expected answers; the one that has
    waited longest for its start has for ``longest_wait_s``. ``scaled`` is the last step of a job whose nodes come and
    go, and why; ``slower`` says which nodes and links aren't as fast as planned, and what was done, or could be, about
    it.
    """

    name: str
    model: str
    state: JobState
    ready: bool
    detail: str
    nodes: tuple[NodeStatus, ...]
    waiting: int
    running: int
    finished: int
    failed: int
    prompt_tokens: int
    generated_tokens: int
    prefix_hits: int = 0
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    decode_steps: int = 0
    draftable_steps: int = 0
    drafted_steps: int = 0
    illegal_events: int = 0
    refused_frames: Mapping[str, int] = field(default_factory=dict)
    missing_layers: tuple[tuple[int, int], ...] = ()
    change: str = ""
    restarts: int = 0
    last_restart: str = ""
    replanned: str = ""
    cut_hops: tuple[tuple[str, str], ...] = ()
    num_layers: int = 0
    planned_tokens_per_s: float = 0.0
    hops: tuple[HopStatus, ...] = ()
    asked_tokens: int = 0
    longest_wait_s: float = 0.0
    scaled: str = ""
    slower: str = ""


GIVEN_UP = "another plan was given up"
"""How ``JobStatus.change`` begins if the plan that was to take over will not."""


MOST_NAMED = 8
"""Nodes of which a sentence says the same."""


def some(names: Sequence[str]) -> list[str]:
    """The first few, and how many more there are: a fleet has thousands."""
    rest = len(names) - MOST_NAMED
    return list(names) if rest <= 0 else [*names[:MOST_NAMED], f"and {rest:,} more"]


def what_is_missing(
    nodes: Mapping[str, NodeState], gaps: Iterable[tuple[int, int]], cut: Iterable[tuple[str, str]] = ()
) -> str:
    """Why no full path through the layers is up, in words: ``gaps`` are layers, half-open, that nobody holds, ``cut``
    hops that carry nothing."""
    away = [f"{name} is {state}" for name, state in nodes.items() if state != "ready"]
    away += [f"{tail} doesn't reach {head}" for tail, head in cut]
    away = some(away)
    layers = [f"layers {start} to {stop - 1}" for start, stop in gaps]
    what = f"nobody who is up holds {', '.join(layers)}" if layers else "no full path through the layers is up"
    return f"{what} ({', '.join(away)})"


class TokenService(Protocol):
    """Whatever turns token requests into token streams: the coordinator, or a stand-in in tests."""

    def submit(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        """Stream the answer. Closing the iterator early cancels the request and frees its KV cache.

        Raises:
            RequestError: when the request can never be served, the queue is full, or no full path is up.
        """
        ...

    def waiting(self, owner: str | None = None) -> int:
        """Requests that wait now: all, or those of the API key of this name. Costs little."""
        ...

    def snapshot(self) -> JobStatus:
        """The job at this moment."""
        ...
