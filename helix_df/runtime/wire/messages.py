"""What travels between coordinator and workers: tagged, versioned messages of a msgpack header and at most one tensor.

Owns the wire format and its checks. Doesn't know sockets, and never unpickles: a tensor is raw bytes whose dtype,
shape and codec the header names.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import msgpack
import numpy as np

from helix_df.codecs import Codec
from helix_df.graph.flow import Hop
from helix_df.layers import LayerRange
from helix_df.rules.micro_batches import NO_LIMIT, MicroBatches
from helix_df.runtime.constraints import MOST_CONSTRAINT_BYTES, Constraint, ConstraintKind
from helix_df.runtime.requests import NEW_ENGINE, EngineHealth, History, Prefix, ScoredToken, StageSpeed, TopLogprobs
from helix_df.runtime.sampling import (
    LONGEST_BAD_WORD,
    MAX_LOGPROBS,
    MOST_BAD_WORDS,
    MOST_BIASES,
    MOST_HELD_BACK,
    Pooling,
    SamplingParams,
    Shaping,
)
from helix_df.runtime.wire.fields import (
    WRONG_FIELDS,
    FrameError,
    Kind,
    Named,
    checked,
    document,
    flag,
    many,
    number,
    one_of,
    optional,
    packed_ids,
    record,
    row,
    shown,
    text,
    token_ids,
    values_of,
    whole,
)
from helix_df.runtime.wire.packing import name_of, pack, unpack

VERSION = 4

HEARTBEAT_S = 0.5
"""How often a worker says that it lives, from a thread that no batch holds up."""

LOST_AFTER_S = 10.0
"""Silence of the coordinator after which a worker greets it again."""

TENSOR_DTYPES = frozenset({"int32", "float32", "float16", "bfloat16"})

Frames = list[Any]
"""What a socket sends or receives: the header, then the tensor's bytes if there is one (anything with a buffer)."""


@dataclass(frozen=True, slots=True)
class Route:
    """A request's way as its workers need it: the hops, where each listens, and how the last one samples.

    ``micro_batches`` say how the first stage divides the requests of this pipeline. ``prefix`` is in every worker's KV
    cache already; the request's first position comes after it. ``history`` is there where drawing takes it.
    """

    hops: tuple[Hop, ...]
    addresses: tuple[str, ...]
    sampling: SamplingParams
    micro_batches: MicroBatches
    prefix: Prefix | None = None
    history: History | None = None


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

    ``life`` is that of the greeting which this answers.
    """

    TAG: ClassVar[str] = "welcome"
    node: str
    layers: LayerRange
    num_layers: int
    kv_tokens: int
    job: Mapping[str, Any]
    life: int = 0


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
    worker sends doesn't reach those who listen at ``unreachable`` addresses.
    """

    TAG: ClassVar[str] = "heartbeat"
    node: str
    health: EngineHealth = NEW_ENGINE
    memory_bytes: int = 0
    illegal_events: int = 0
    life: int = 0
    unreachable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forward:
    """Run the next layers on these tokens: token ids for the first stage, hidden states for the others.

    ``request`` names one attempt at a request. ``position`` is that of the tensor's first token. ``route`` comes with
    a request's first message to a worker; ``wants_token`` on the last piece of a prompt and on every decode step.
    ``codec`` is what the tensor is packed in on the way; it arrives unpacked.
    """

    TAG: ClassVar[str] = "forward"
    request: str
    position: int
    wants_token: bool
    route: Route | None
    tensor: np.ndarray
    codec: Codec = "none"


@dataclass(frozen=True, slots=True)
class Sampled:
    """Last worker → coordinator: the next token of a request, which stands at ``position``."""

    TAG: ClassVar[str] = "sampled"
    request: str
    position: int
    token: int
    logprobs: TopLogprobs | None


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


MOST_NAME = 512
"""Characters of the name of a node or of an attempt at a request."""

MOST_WORDS = 16_384
"""Characters of what a worker says in words."""

MOST_HOPS = 4096
MOST_LAYERS = 100_000
MOST_UNREACHABLE = 64
MOST_TOKENS = 2**31 - 1
MOST_HEAD_BYTES = 2**18
"""Of a message without its tensor; those that carry a job, or the tokens of a request, may have more."""

MOST_WELCOME_BYTES = 2**22

PROBE_BYTES = 2**22
"""Of the largest payload that is ever sent."""


def frame_limit(hidden_size: int, max_prefill_tokens: int) -> int:
    """Bytes of the largest frame that a worker is ever sent: a piece of a prompt as hidden states, at 4 bytes a number
    if not packed, or whatever else there is."""
    return max(4 * hidden_size * max_prefill_tokens, MOST_WELCOME_BYTES, PROBE_BYTES) + MOST_HEAD_BYTES


_NAME = text(MOST_NAME)
_WORDS = text(MOST_WORDS, least=0)
_ADDRESS = text(MOST_NAME)
_FILE = text(MOST_NAME, least=0)
_TOKEN = whole(0, MOST_TOKENS)
_LAYER = whole(0, MOST_LAYERS)
_SECONDS = number(1e-7, 1e6)
_DTYPE = one_of(*sorted(TENSOR_DTYPES))


def _route(
    hops: tuple[Hop, ...],
    addresses: tuple[str, ...],
    sampling: SamplingParams,
    micro_batches: MicroBatches,
    prefix: Prefix | None,
    history: History | None,
) -> Route:
    """A route that leads somewhere: layers without a gap from the first on, an address for each hop, no node twice; and
    with what drawing takes."""
    if len(hops) != len(addresses):
        raise FrameError(WRONG_FIELDS, found=f"{len(addresses)} addresses for {len(hops)} hops")
    if len({hop.node for hop in hops}) != len(hops):
        raise FrameError(WRONG_FIELDS, where="hops", found="a node that comes twice")
    if hops[0].layers.start != 0 or any(a.layers.stop != b.layers.start for a, b in pairwise(hops)):
        raise FrameError(WRONG_FIELDS, where="hops", expected="layers without a gap, from the first")
    if sampling.needs_history and history is None:
        raise FrameError(WRONG_FIELDS, where="history", found="none", expected="the tokens so far")
    return Route(hops, addresses, sampling, micro_batches, prefix, history)


def _history(tokens: tuple[int, ...], prompt: int) -> History:
    if prompt > len(tokens):
        raise FrameError(WRONG_FIELDS, where="prompt", found=str(prompt), expected=f"at most {len(tokens)}")
    return History(tokens, prompt)


def _hop(node: str, start: int, stop: int) -> Hop:
    return Hop(node, LayerRange(start, stop))


_SHAPING = row(
    Shaping,
    min_p=number(),
    presence_penalty=number(),
    frequency_penalty=number(),
    repetition_penalty=number(),
    logit_bias=many(row(lambda token, bias: (token, bias), token=_TOKEN, bias=number()), MOST_BIASES),
    min_tokens=whole(),
    held_back=many(_TOKEN, MOST_HELD_BACK),
    bad_words=many(many(_TOKEN, LONGEST_BAD_WORD, least=1), MOST_BAD_WORDS),
)
_ROUTE = record(
    _route,
    hops=many(row(_hop, node=_NAME, start=_LAYER, stop=_LAYER), MOST_HOPS, least=1),
    addresses=many(_ADDRESS, MOST_HOPS),
    # Their ranges are for SamplingParams to say.
    sampling=record(
        SamplingParams,
        temperature=number(),
        top_p=number(),
        top_k=whole(),
        seed=whole(),
        logprobs=optional(whole()),
        constraint=optional(
            row(Constraint, kind=one_of(*get_args(ConstraintKind)), text=text(MOST_CONSTRAINT_BYTES, least=0))
        ),
        shaping=optional(_SHAPING),
        prompt_logprobs=optional(whole()),
        pooling=optional(one_of(*get_args(Pooling))),
    ),
    micro_batches=row(MicroBatches, shares=whole(1, NO_LIMIT), most=whole(1, NO_LIMIT)),
    prefix=optional(row(Prefix, parent=_NAME, tokens=whole(1, MOST_TOKENS))),
    history=optional(row(_history, tokens=token_ids, prompt=whole(1, MOST_TOKENS))),
)
_TENSOR = row(lambda dtype, shape: (dtype, shape), dtype=_DTYPE, shape=many(whole(1, MOST_TOKENS), 2, least=1))
_TOP = many(row(lambda token, logprob: (token, logprob), token=_TOKEN, logprob=number()), MAX_LOGPROBS)

MOST_SCORES = 512
"""Of one message, with the likeliest tokens of each."""

_SCORE = row(ScoredToken, logprob=number(), rank=whole(1, MOST_TOKENS), top=_TOP)

_JOB = document(depth=12, elements=500_000)

_KINDS: dict[type[Any], dict[str, Kind[Any]]] = {
    Hello: {"node": _NAME, "address": _ADDRESS, "life": whole()},
    Welcome: {
        "node": _NAME,
        "layers": row(LayerRange, start=_LAYER, stop=_LAYER),
        "num_layers": whole(1, MOST_LAYERS),
        "kv_tokens": whole(),
        "job": _JOB,
        "life": whole(),
    },
    JobChanged: {"job": _JOB, "life": whole()},
    Loading: {"node": _NAME, "state": one_of("loading", "compiling"), "progress": number(0, 1), "detail": _WORDS},
    Ready: {
        "node": _NAME,
        "kv_tokens": whole(1),
        "speed": optional(row(StageSpeed, prefill_tokens=whole(1, MOST_TOKENS), prefill_s=_SECONDS, decode_s=_SECONDS)),
        "life": whole(),
    },
    Failed: {"node": _NAME, "reason": _WORDS, "life": whole()},
    Heartbeat: {
        "node": _NAME,
        "health": row(EngineHealth, cold_shapes=whole(), compiled_programs=whole(), kv_held_tokens=whole()),
        "memory_bytes": whole(),
        "illegal_events": whole(),
        "life": whole(),
        "unreachable": many(_ADDRESS, MOST_UNREACHABLE),
    },
    Forward: {
        "request": _NAME,
        "position": whole(0, MOST_TOKENS),
        "wants_token": flag,
        "route": optional(_ROUTE),
        "tensor": _TENSOR,
        "codec": one_of(*get_args(Codec)),
    },
    Sampled: {
        "request": _NAME,
        "position": whole(0, MOST_TOKENS),
        "token": _TOKEN,
        "logprobs": optional(row(TopLogprobs, chosen=number(), top=_TOP)),
    },
    Rejected: {"request": _NAME, "node": _NAME, "reason": one_of(*get_args(RejectedReason))},
    Release: {"request": _NAME, "keep": whole(0, MOST_TOKENS)},
    Probe: {"number": whole(), "path": many(_ADDRESS, 64), "payload": whole(0, PROBE_BYTES)},
    Stop: {"life": whole()},
    Locate: {"request": _NAME},
    Located: {"request": _NAME, "node": _NAME, "computed": whole(0, MOST_TOKENS), "due": whole(0, MOST_TOKENS)},
    FileWanted: {"node": _NAME, "name": _FILE, "start": whole(), "stop": whole(), "life": whole()},
    FilePart: {
        "name": _FILE,
        "start": whole(),
        "version": _FILE,
        "digest": _FILE,
        "payload": whole(0, PROBE_BYTES),
        "life": whole(),
    },
    PromptScored: {"request": _NAME, "position": whole(1, MOST_TOKENS), "scores": many(_SCORE, MOST_SCORES, least=1)},
    PromptPooled: {
        "request": _NAME,
        "position": whole(0, MOST_TOKENS),
        "tokens": whole(1, MOST_TOKENS),
        "payload": whole(4, PROBE_BYTES),
    },
}
"""What each field of each message may be. Of a tensor and a payload it is what the head says; they follow."""

_TYPES: dict[str, type[Any]] = {kind.TAG: kind for kind in _KINDS}

_FIELDS = {tag: tuple(field.name for field in fields(kind)) for tag, kind in _TYPES.items()}

_NAMED: dict[str, Named] = {kind.TAG: tuple(kinds.items()) for kind, kinds in _KINDS.items()}

_TENSOR_AT, _CODEC_AT = _FIELDS[Forward.TAG].index("tensor"), _FIELDS[Forward.TAG].index("codec")
_PAYLOAD_AT = {kind.TAG: _FIELDS[kind.TAG].index("payload") for kind in (Probe, FilePart, PromptPooled)}

_LARGE = frozenset({Welcome.TAG, JobChanged.TAG, Forward.TAG})

_IN_TWO_FRAMES = frozenset({Forward.TAG, *_PAYLOAD_AT})


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda message: tuple([getattr(message, name) for name in names])


_VALUES = {tag: _getter(names) for tag, names in _FIELDS.items()}


def encode(message: Message, token: str) -> Frames:
    """The frames of a message. ``token`` is the job's secret, so that strangers and stale workers are not heard."""
    packed: dict[str, Any] = {}
    tensor: np.ndarray | None = None
    for field in fields(message):
        value = getattr(message, field.name)
        if isinstance(value, np.ndarray):
            tensor = value
            packed[field.name] = [name_of(tensor.dtype), tensor.shape]
        else:
            packed[field.name] = _pack(value)
    head = msgpack.packb([VERSION, token, message.TAG, packed], use_bin_type=True)
    if isinstance(message, Probe | FilePart | PromptPooled):
        return [head, message.payload]
    return [head] if tensor is None else [head, pack(tensor, packed["codec"]).data]


@cache
def _opening(token: str) -> bytes:
    """What the head of every message of a job begins with: four things follow, of which these are the first two."""
    return b"\x94" + bytes(msgpack.packb(VERSION)) + bytes(msgpack.packb(token))


def is_of_job(head: Any, token: str) -> bool:
    """Whether the sender of a head knows the job's secret; nothing is unpacked, and no byte tells by its time."""
    opening = _opening(token)
    return hmac.compare_digest(bytes(head[: len(opening)]), opening)


def decode(frames: Sequence[Any], token: str) -> Message:
    """The message of received frames; its tensor is a view of the received buffer, unless a codec packed it.

    Raises:
        FrameError: for another version, another job, an unknown tag, or fields that aren't what they may be.
    """
    head = memoryview(frames[0])
    return _decoded(head, *_tag(head, token), frames[1:])


def _decoded(head: memoryview, tag: str, start: int, rest: Sequence[Any]) -> Message:
    """The message of a tag whose fields begin at ``start`` of its head, and of the frames that follow."""
    if len(head) > (MOST_WELCOME_BYTES if tag in _LARGE else MOST_HEAD_BYTES):
        raise FrameError("a message that is too large", "size", where=tag, found=f"{len(head)} bytes")
    try:
        packed = msgpack.unpackb(head[start:], raw=False)
    except Exception as error:  # its many kinds of error have no common name
        raise FrameError("a message that can't be read", "unreadable", where=tag, found=type(error).__name__) from error
    try:
        return _message(tag, packed, rest)
    except FrameError as error:
        request = packed.get("request") if type(packed) is dict else None
        error.request = request if type(request) is str and len(request) <= MOST_NAME else None
        raise error.under(tag) from None


def _tag(head: memoryview, token: str) -> tuple[str, int]:
    """What kind of message a head is of, and where its fields begin; nothing is unpacked for a stranger."""
    if not is_of_job(head, token):
        raise _stranger(head)
    start = len(_opening(token))
    size = head[start] & 0x1F if start < len(head) and head[start] >> 5 == 0b101 else 0  # a short text's
    tag = bytes(head[start + 1 : start + 1 + size]).decode("ascii", "replace")
    if tag not in _TYPES:
        raise FrameError("an unknown message", "unknown", found=shown(tag), expected=", ".join(sorted(_TYPES)))
    return tag, start + 1 + size


def stranger_fault(head: Any) -> Literal["stranger", "version"]:
    """Why a head that isn't of this job is refused."""
    return "version" if len(head) > 1 and head[0] == 0x94 and head[1] != VERSION else "stranger"


def _stranger(head: memoryview) -> FrameError:
    if len(head) < 2 or head[0] != 0x94:
        return FrameError("not a helix-df message", "stranger", found=f"{len(head)} bytes")
    if stranger_fault(head) == "version":
        return FrameError("a message of another protocol version", "version", found=str(head[1]), expected=str(VERSION))
    return FrameError(
        "a message of another job", "stranger", hint="the worker was started for another job or an older run"
    )


def _message(tag: str, packed: Any, rest: Sequence[Any]) -> Message:
    """The message of a tag, each of its fields checked, with what follows its head in frames of their own."""
    kind, named = _TYPES[tag], _NAMED[tag]
    values = checked(named, values_of(named, packed))
    if len(rest) != (tag in _IN_TWO_FRAMES):
        raise FrameError(WRONG_FIELDS, found=f"{1 + len(rest)} frames")
    if kind is Forward:
        values[_TENSOR_AT] = _tensor(values[_TENSOR_AT], values[_CODEC_AT], rest[0])
    elif tag in _PAYLOAD_AT:
        at = _PAYLOAD_AT[tag]
        values[at] = _payload(values[at], rest[0])
    message: Message = kind(*values)
    return message


def field_names(tag: str) -> tuple[str, ...]:
    """The fields of the messages of a tag, in their order; none for what isn't a message."""
    return _FIELDS.get(tag, ())


def pack_values(message: Message) -> tuple[Any, ...]:
    """The values of a message in the order of its fields, as msgpack can hold them; of a tensor dtype and shape."""
    return tuple([_pack(value) for value in _VALUES[message.TAG](message)])


def unpack_values(tag: str, values: Sequence[Any]) -> Message:
    """The message of a tag and its values; a tensor is what stands for it.

    Raises:
        FrameError: when they don't fit.
    """
    if tag not in _TYPES or len(values) != len(_FIELDS[tag]):
        raise FrameError(WRONG_FIELDS, where=tag, found=f"{len(values)} fields")
    named = [(name, (lambda value: value) if name == "tensor" else kind) for name, kind in _NAMED[tag]]
    try:
        message: Message = _TYPES[tag](*checked(named, values))
    except FrameError as error:
        raise error.under(tag) from None
    return message


def bundles(sends: Iterable[Send]) -> list[Bundle]:
    """One bundle an address, its messages in order; behind them each of the bulk in one of its own.

    What left together arrives together: a receiver that starts on whatever has come would else run the first request
    of a batch alone and let the others wait.
    """
    together: dict[str, list[Message]] = {}
    bulk: list[Bundle] = []
    for send in sends:
        if send.bulk:
            bulk.append(Bundle(send.address, (send.message,), bulk=True))
        else:
            together.setdefault(send.address, []).append(send.message)
    return [*(Bundle(address, messages) for address, messages in together.items()), *bulk]


def encode_bundle(messages: Iterable[Message], token: str) -> Frames:
    """The frames of a bundle."""
    return [frame for message in messages for frame in encode(message, token)]


def decode_bundle(frames: Sequence[Any], token: str) -> list[Message]:
    """The messages of a bundle.

    Raises:
        FrameError: as ``decode``; no message of the bundle counts then.
    """
    messages = []
    for found in read_bundle(frames, token):
        if isinstance(found, FrameError):
            raise found
        messages.append(found)
    return messages


def read_bundle(frames: Sequence[Any], token: str) -> Iterator[Message | FrameError]:
    """Each message of a bundle, or why it is refused; behind one of which no kind can be told, nothing counts."""
    at = 0
    while at < len(frames):
        head = memoryview(frames[at])
        try:
            tag, start = _tag(head, token)
        except FrameError as error:
            yield error
            return
        stop = at + 1 + (tag in _IN_TWO_FRAMES)
        try:
            yield _decoded(head, tag, start, frames[at + 1 : stop])
        except FrameError as error:
            yield error
        at = stop


def _tensor(head: Any, codec: Codec, packed: Any) -> np.ndarray:
    dtype, shape = head
    if codec != "none" and dtype == "int32":
        raise FrameError(WRONG_FIELDS, where="codec", found=codec, expected="none for token ids")
    try:
        return unpack(packed, dtype, shape, codec)
    except ValueError as error:
        found = f"{memoryview(packed).nbytes} bytes for {dtype} of shape {shown(shape)}, codec {codec}"
        raise FrameError(WRONG_FIELDS, where="tensor", found=found) from error


def _payload(size: Any, payload: Any) -> Any:
    if len(payload) != size:
        found = f"{len(payload)} bytes, not {size}"
        raise FrameError(WRONG_FIELDS, where="payload", found=found)
    return payload


_PLAIN = frozenset({str, int, float, bool, type(None)})


def _pack(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.ndarray):
        return [name_of(value.dtype), None, *value.shape]
    match value:
        case LayerRange():
            return [value.start, value.stop]
        case Route():
            hops = [[hop.node, hop.layers.start, hop.layers.stop] for hop in value.hops]
            sampling = {field.name: _pack(getattr(value.sampling, field.name)) for field in fields(value.sampling)}
            prefix = None if value.prefix is None else [value.prefix.parent, value.prefix.tokens]
            return {
                "hops": hops,
                "addresses": list(value.addresses),
                "sampling": sampling,
                "micro_batches": [value.micro_batches.shares, value.micro_batches.most],
                "prefix": prefix,
                "history": None if value.history is None else [packed_ids(value.history.tokens), value.history.prompt],
            }
        case Constraint():
            return [value.kind, value.text]
        case Shaping():
            return [getattr(value, field.name) for field in fields(value)]
        case TopLogprobs():
            return [value.chosen, [list(pair) for pair in value.top]]
        case ScoredToken():
            return [value.logprob, value.rank, [list(pair) for pair in value.top]]
        case tuple() if value and isinstance(value[0], ScoredToken):
            return [_pack(one) for one in value]
        case bytes() | memoryview():
            return len(value)  # follows in a frame of its own
        case EngineHealth():
            return [value.cold_shapes, value.compiled_programs, value.kv_held_tokens]
        case StageSpeed():
            return [value.prefill_tokens, value.prefill_s, value.decode_s]
        case _:
            return value
