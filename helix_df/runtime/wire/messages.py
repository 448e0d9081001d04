"""What travels between coordinator and workers, as what it means. Doesn't know bytes (``framing``) or sockets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from helix_df.codecs import Codec
from helix_df.graph.flow import Hop
from helix_df.layers import LayerRange
from helix_df.rules.measured_links import LinkSeen
from helix_df.rules.micro_batches import MicroBatches
from helix_df.runtime.requests import (
    NEW_ENGINE,
    DrawnToken,
    EngineHealth,
    History,
    Prefix,
    ScoredToken,
    StageSpeed,
    TopLogprobs,
)
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.tracing.spans import HopSum

HEARTBEAT_S = 0.5
"""How often a worker says that it lives, from a thread that no batch holds up; those of a large job less often."""

HEARTBEATS_PER_S = 500
"""Of a large job's workers together, as far as lost ones are noticed in time all the same."""

_HEARTBEATS_TO_MISS = 6
"""So many a worker says at least in the time after which it counts as lost."""

LOST_AFTER_S = 10.0
"""Silence of the coordinator after which a worker greets it again."""


def heartbeat_s(nodes: int, lost_after_s: float) -> float:
    """Seconds between two heartbeats of a worker in a job of so many nodes, where one counts as lost after so long."""
    return max(HEARTBEAT_S, min(nodes / HEARTBEATS_PER_S, lost_after_s / _HEARTBEATS_TO_MISS))


@dataclass(frozen=True, slots=True)
class Route:
    """A request's way as its workers need it: the hops, where each listens, and how the last one samples.

    ``micro_batches`` say how the first stage divides the requests of this pipeline. ``prefix`` is in every worker's KV
    cache already; the request's first position comes after it. ``history`` is there where drawing takes it. Of a
    ``traced`` request every hop tells its ``HopTimes`` in the end. Of its first ``checkpoint`` tokens every hop keeps
    what is seen behind them (``requests.checkpoint_name``); 0 for none.
    """

    hops: tuple[Hop, ...]
    addresses: tuple[str, ...]
    sampling: SamplingParams
    micro_batches: MicroBatches
    prefix: Prefix | None = None
    history: History | None = None
    traced: bool = False
    checkpoint: int = 0


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker → coordinator: I am up and listen at ``address``.

    ``life`` is a number that nobody can guess. What the coordinator then says of this worker's life names it, and so
    does a worker that fails: anybody of the job can send a message, or send it again, but isn't believed.
    """

    TAG: ClassVar[str] = "hello"
    node: str
    address: str
    life: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """Coordinator → worker: hold these layers and this many tokens of KV cache; ``job`` is as in a plan file.

    ``life`` is that of the greeting which this answers, ``kv_window`` as in ``Stage``.
    """

    TAG: ClassVar[str] = "welcome"
    node: str
    layers: LayerRange
    num_layers: int
    kv_tokens: int
    job: Mapping[str, Any]
    life: int = 0
    kv_window: int = 0


@dataclass(frozen=True, slots=True)
class JobChanged:
    """Coordinator → worker: your job has other nodes from now on; your layers, and what you go by, stay.

    ``life`` is yours.
    """

    TAG: ClassVar[str] = "changed"
    job: Mapping[str, Any]
    life: int = 0


@dataclass(frozen=True, slots=True)
class Loading:
    """Worker → coordinator: how far I am (0 to 1), and with what."""

    TAG: ClassVar[str] = "loading"
    node: str
    state: str
    progress: float
    detail: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker → coordinator: I serve, with room for this many tokens of KV cache, and this is what I timed.

    ``life`` is as in a heartbeat.
    """

    TAG: ClassVar[str] = "ready"
    node: str
    kv_tokens: int
    speed: StageSpeed | None = None
    life: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """Worker → coordinator: I can't go on. Coordinator → worker: you can't serve this node. ``life`` is a worker's."""

    TAG: ClassVar[str] = "failed"
    node: str
    reason: str
    life: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Worker → coordinator, and back: I am alive, and this is how I am; ``memory_bytes`` are those of my process.

    ``illegal_events`` have come to me so far that my machine has no transition for. ``life`` is a worker's: that of the
    greeting which was answered last. The coordinator's names it only once it knows that this worker serves. What a
    worker sends doesn't reach those who listen at ``unreachable`` addresses. ``clock_s`` is the sender's clock, and
    ``lead_s`` how far that is ahead at the least when heartbeats arrive (``tracing.clocks``). ``links`` are those of
    other workers to this one.
    """

    TAG: ClassVar[str] = "heartbeat"
    node: str
    health: EngineHealth = NEW_ENGINE
    memory_bytes: int = 0
    illegal_events: int = 0
    life: int = 0
    unreachable: tuple[str, ...] = ()
    clock_s: float = 0.0
    lead_s: float | None = None
    links: tuple[LinkSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class Forward:
    """Run the next layers on these tokens: token ids for the first stage, hidden states for the others.

    ``request`` names one attempt at a request. ``position`` is that of the tensor's first token. ``route`` comes with
    a request's first message to a worker; ``wants_token`` on the last piece of a prompt and on every decode step.
    ``codec`` is what the tensor is packed in on the way; it arrives unpacked. A decode step may carry ``drafts``: token
    ids that are believed to follow its token, and whose ids or hidden states stand behind its own in the tensor.
    """

    TAG: ClassVar[str] = "forward"
    request: str
    position: int
    wants_token: bool
    route: Route | None
    tensor: np.ndarray
    codec: Codec = "none"
    drafts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampled:
    """Last worker → coordinator: the next token of a request, which stands at ``position``.

    Where it is the first of the step's drafts, ``more`` follow: each drawn behind a draft that was drawn, too.
    """

    TAG: ClassVar[str] = "sampled"
    request: str
    position: int
    token: int
    logprobs: TopLogprobs | None
    more: tuple[DrawnToken, ...] = ()


RejectedReason = Literal["kv_full", "no_prefix", "not_finite", "stuck", "malformed"]


@dataclass(frozen=True, slots=True)
class Rejected:
    """Worker → coordinator: I couldn't run a step of this request; it has to be tried again.

    Where what I computed isn't finite (``not_finite``), or its constraint allows no token (``stuck``), trying again
    would give the same. ``malformed``: a message that names it was refused.
    """

    TAG: ClassVar[str] = "rejected"
    request: str
    node: str
    reason: RejectedReason


@dataclass(frozen=True, slots=True)
class Release:
    """Coordinator → worker: forget this request and free its KV cache, but for that of its first ``keep`` tokens."""

    TAG: ClassVar[str] = "release"
    request: str
    keep: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """Prober → worker, and on: send this to the first address of ``path``, without it. ``payload`` is only weight."""

    TAG: ClassVar[str] = "probe"
    number: int
    path: tuple[str, ...]
    payload: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Stop:
    """Coordinator → worker: exit, if ``life`` is yours."""

    TAG: ClassVar[str] = "stop"
    life: int = 0


@dataclass(frozen=True, slots=True)
class Locate:
    """Coordinator → worker: how far is this attempt at a request with you?"""

    TAG: ClassVar[str] = "locate"
    request: str


@dataclass(frozen=True, slots=True)
class Located:
    """Worker → coordinator: so far; ``computed`` tokens of it are in the KV cache, and its next step comes at ``due``.

    A step of it waits or is computed where ``due`` is more. Both are 0 if it isn't here.
    """

    TAG: ClassVar[str] = "located"
    request: str
    node: str
    computed: int
    due: int


@dataclass(frozen=True, slots=True)
class FileWanted:
    """Worker → coordinator: send me these bytes of a file of the model, which isn't on my host; ``life`` is mine.

    Without a name: say which files there are.
    """

    TAG: ClassVar[str] = "want"
    node: str
    name: str
    start: int
    stop: int
    life: int = 0


@dataclass(frozen=True, slots=True)
class FilePart:
    """Coordinator → worker: bytes of a file of the model, from ``start`` on.

    ``version`` is another one once the file has changed, ``digest`` that of the bytes (BLAKE2b, 16 bytes, in hex).
    ``life`` is the worker's.
    """

    TAG: ClassVar[str] = "part"
    name: str
    start: int
    version: str
    digest: str
    payload: bytes | memoryview
    life: int = 0


@dataclass(frozen=True, slots=True)
class PromptScored:
    """Last worker → coordinator: tokens of a request's prompt are this likely; the first of them is at ``position``."""

    TAG: ClassVar[str] = "scored"
    request: str
    position: int
    scores: tuple[ScoredToken, ...]


@dataclass(frozen=True, slots=True)
class PromptPooled:
    """Last worker → coordinator: the hidden states of ``tokens`` tokens of a request's prompt, from ``position`` on,
    behind the final norm and summed up; ``payload`` is little-endian float32 [hidden]."""

    TAG: ClassVar[str] = "pooled"
    request: str
    position: int
    tokens: int
    payload: bytes | memoryview


@dataclass(frozen=True, slots=True)
class HopTimes:
    """Worker → coordinator: how long an attempt at a traced request took here, which is over.

    Its first step came ``origin_s`` by my clock; arrivals are counted from there. ``prefill`` is the step after which
    its first token was drawn, for which earlier pieces of the prompt may have been computed here before; ``decode`` are
    the steps of later tokens.
    """

    TAG: ClassVar[str] = "times"
    attempt: str
    node: str
    origin_s: float
    prefill: HopSum
    decode: HopSum


@dataclass(frozen=True, slots=True)
class Departed:
    """Worker → worker, at the end of a bundle: ``node`` sent all of that when its clock was ``clock_s``."""

    TAG: ClassVar[str] = "departed"
    node: str
    clock_s: float


Message = (
    Hello
    | Welcome
    | JobChanged
    | Loading
    | Ready
    | Failed
    | Heartbeat
    | Forward
    | Sampled
    | Rejected
    | Release
    | Probe
    | Stop
    | Locate
    | Located
    | FileWanted
    | FilePart
    | PromptScored
    | PromptPooled
    | HopTimes
    | Departed
)


@dataclass(frozen=True, slots=True)
class Send:
    """An action of either machine: send a message to an address; ``bulk`` goes by itself, behind all that isn't."""

    address: str
    message: Message
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class Bundle:
    """Messages that leave for an address together, and so arrive together."""

    address: str
    messages: Sequence[Message]
    bulk: bool = False
