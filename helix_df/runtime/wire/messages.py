"""What travels between coordinator and workers: tagged, versioned messages of a msgpack header and at most one tensor.

Owns the wire format and its checks. Doesn't know sockets, and never unpickles: a tensor is raw bytes whose dtype,
shape and codec the header names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import msgpack
import numpy as np

from helix_df.codecs import Codec
from helix_df.errors import ProtocolError
from helix_df.graph.flow import Hop
from helix_df.layers import LayerRange
from helix_df.rules.micro_batches import MicroBatches
from helix_df.runtime.requests import NEW_ENGINE, EngineHealth, Prefix, StageSpeed, TopLogprobs
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.packing import name_of, pack, unpack

VERSION = 4

HEARTBEAT_S = 2.0
"""How often a worker says that it lives."""

LOST_AFTER_S = 30.0
"""Silence after which the other side counts as lost. Compiling can hold up a heartbeat, so this is generous; the exit
of a local process is noticed at once."""

TENSOR_DTYPES = frozenset({"int32", "float32", "float16", "bfloat16"})

Frames = list[Any]
"""What a socket sends or receives: the header, then the tensor's bytes if there is one (anything with a buffer)."""


@dataclass(frozen=True, slots=True)
class Route:
    """A request's way as its workers need it: the hops, where each listens, and how the last one samples.

    ``micro_batches`` say how the first stage divides the requests of this pipeline. ``prefix`` is in every worker's KV
    cache already; the request's first position comes after it.
    """

    hops: tuple[Hop, ...]
    addresses: tuple[str, ...]
    sampling: SamplingParams
    micro_batches: MicroBatches
    prefix: Prefix | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker → coordinator: I am up and listen at ``address``."""

    TAG: ClassVar[str] = "hello"
    node: str
    address: str
    pid: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """Coordinator → worker: hold these layers and this many tokens of KV cache; ``job`` is as in a plan file."""

    TAG: ClassVar[str] = "welcome"
    node: str
    layers: LayerRange
    num_layers: int
    kv_tokens: int
    job: Mapping[str, Any]


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
    """Worker → coordinator: I serve, with room for this many tokens of KV cache, and this is what I timed."""

    TAG: ClassVar[str] = "ready"
    node: str
    kv_tokens: int
    speed: StageSpeed | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Worker → coordinator: I can't go on. Coordinator → worker: you can't serve this node."""

    TAG: ClassVar[str] = "failed"
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Worker → coordinator, and back: I am alive, and this is how I am; ``memory_bytes`` are those of my process.

    ``illegal_events`` have come to me so far that my machine has no transition for.
    """

    TAG: ClassVar[str] = "heartbeat"
    node: str
    health: EngineHealth = NEW_ENGINE
    memory_bytes: int = 0
    illegal_events: int = 0


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


@dataclass(frozen=True, slots=True)
class Rejected:
    """Worker → coordinator: I couldn't run a step of this request; it has to be tried again.

    Where what I computed isn't finite (``not_finite``), trying again would give the same.
    """

    TAG: ClassVar[str] = "rejected"
    request: str
    node: str
    reason: Literal["kv_full", "no_prefix", "not_finite"]


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
    """Coordinator → worker: exit."""

    TAG: ClassVar[str] = "stop"


Message = Hello | Welcome | Loading | Ready | Failed | Heartbeat | Forward | Sampled | Rejected | Release | Probe | Stop


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


_TYPES: dict[str, type[Any]] = {
    kind.TAG: kind
    for kind in (Hello, Welcome, Loading, Ready, Failed, Heartbeat, Forward, Sampled, Rejected, Release, Probe, Stop)
}


_FIELDS = {tag: tuple(field.name for field in fields(kind)) for tag, kind in _TYPES.items()}


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
    if isinstance(message, Probe):
        return [head, message.payload]
    return [head] if tensor is None else [head, pack(tensor, packed["codec"]).data]


def decode(frames: Sequence[Any], token: str) -> Message:
    """The message of received frames; its tensor is a view of the received buffer, unless a codec packed it.

    Raises:
        ProtocolError: for another version, another job, an unknown tag, or fields that don't fit.
    """
    try:
        version, sender, tag, packed = msgpack.unpackb(frames[0], raw=False)
    except Exception as error:
        raise ProtocolError("not a helix-df message", found=f"{type(error).__name__}") from error
    if version != VERSION:
        raise ProtocolError("a message of another protocol version", found=version, expected=str(VERSION))
    if sender != token:
        raise ProtocolError("a message of another job", hint="the worker was started for another job or an older run")
    if tag not in _TYPES:
        raise ProtocolError("an unknown message", found=tag, expected=", ".join(sorted(_TYPES)))
    try:
        message: Message = _TYPES[tag](**{name: _unpack(name, value, packed, frames) for name, value in packed.items()})
        return message
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise ProtocolError(f"a {tag} message with wrong fields", found=str(error)) from error


def field_names(tag: str) -> tuple[str, ...]:
    """The fields of the messages of a tag, in their order; none for what isn't a message."""
    return _FIELDS.get(tag, ())


def pack_values(message: Message) -> tuple[Any, ...]:
    """The values of a message in the order of its fields, as msgpack can hold them; of a tensor dtype and shape."""
    return tuple([_pack(value) for value in _VALUES[message.TAG](message)])


def unpack_values(tag: str, values: Sequence[Any]) -> Message:
    """The message of a tag and its values.

    Raises:
        ProtocolError: when they don't fit.
    """
    try:
        named = dict(zip(_FIELDS[tag], values, strict=True))
        message: Message = _TYPES[tag](**{name: _unpack(name, value, named, ()) for name, value in named.items()})
        return message
    except (TypeError, ValueError, KeyError) as error:
        raise ProtocolError(f"a {tag} message with wrong fields", found=str(error)) from error


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
        ProtocolError: as ``decode``; no message of the bundle counts then.
    """
    messages: list[Message] = []
    at = 0
    while at < len(frames):
        message = decode(frames[at : at + 2], token)
        messages.append(message)
        at += 2 if isinstance(message, Forward | Probe) else 1
    return messages


def _tensor(dtype: str, shape: Sequence[int], codec: Codec, frames: Sequence[Any]) -> np.ndarray:
    if dtype not in TENSOR_DTYPES or len(frames) != 2:
        raise ValueError(f"a tensor of {dtype} in {len(frames)} frames")
    return unpack(frames[1], dtype, tuple(shape), codec)


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
            sampling = {field.name: getattr(value.sampling, field.name) for field in fields(value.sampling)}
            prefix = None if value.prefix is None else [value.prefix.parent, value.prefix.tokens]
            return {
                "hops": hops,
                "addresses": list(value.addresses),
                "sampling": sampling,
                "micro_batches": [value.micro_batches.shares, value.micro_batches.most],
                "prefix": prefix,
            }
        case TopLogprobs():
            return [value.chosen, [list(pair) for pair in value.top]]
        case bytes() | memoryview():
            return len(value)  # follows in a frame of its own
        case EngineHealth():
            return [value.cold_shapes, value.compiled_programs, value.kv_held_tokens]
        case StageSpeed():
            return [value.prefill_tokens, value.prefill_s, value.decode_s]
        case _:
            return value


def _unpack(name: str, value: Any, packed: Mapping[str, Any], frames: Sequence[Any]) -> Any:
    if value is None:
        return None
    match name:
        case "tensor":
            dtype, shape = value
            return _tensor(dtype, shape, packed["codec"], frames)
        case "layers":
            return LayerRange(*value)
        case "route":
            hops = tuple(Hop(node, LayerRange(start, stop)) for node, start, stop in value["hops"])
            return Route(
                hops,
                tuple(value["addresses"]),
                SamplingParams(**value["sampling"]),
                MicroBatches(*value["micro_batches"]),
                None if value["prefix"] is None else Prefix(*value["prefix"]),
            )
        case "health":
            return EngineHealth(*value)
        case "speed":
            return StageSpeed(*value)
        case "payload":
            if len(frames) != 2 or len(frames[1]) != value:
                raise ValueError(f"a payload of {value} bytes in {len(frames)} frames")
            return frames[1]
        case "path":
            return tuple(value)
        case "logprobs":
            chosen, top = value
            return TopLogprobs(chosen, tuple((token, logprob) for token, logprob in top))
        case _:
            return value
