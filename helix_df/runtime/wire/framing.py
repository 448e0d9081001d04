"""Messages as frames: a msgpack header with version, secret and tag, and at most one tensor or payload behind it.

Owns the format and its checks. Doesn't know sockets, and never unpickles: a tensor is raw bytes whose dtype, shape and
codec the header names.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, Literal

import msgpack
import numpy as np

from helix_df.codecs import Codec
from helix_df.layers import LayerRange
from helix_df.rules.measured_links import LinkSeen
from helix_df.runtime.constraints import Constraint
from helix_df.runtime.requests import DrawnToken, EngineHealth, ScoredToken, StageSpeed, TopLogprobs
from helix_df.runtime.sampling import Shaping
from helix_df.runtime.tracing.spans import HopSum
from helix_df.runtime.wire.fields import WRONG_FIELDS, FrameError, Named, checked, packed_ids, shown, values_of
from helix_df.runtime.wire.message_kinds import KINDS, MOST_HEAD_BYTES, MOST_NAME, MOST_WELCOME_BYTES
from helix_df.runtime.wire.messages import (
    Bundle,
    FilePart,
    Forward,
    JobChanged,
    Message,
    Probe,
    PromptPooled,
    Route,
    Send,
    Welcome,
)
from helix_df.runtime.wire.packing import name_of, pack, unpack

VERSION = 4

Frames = list[Any]
"""What a socket sends or receives: the header, then the tensor's bytes if there is one (anything with a buffer)."""

_TYPES: dict[str, type[Any]] = {kind.TAG: kind for kind in KINDS}

_FIELDS = {tag: tuple(field.name for field in fields(kind)) for tag, kind in _TYPES.items()}

_NAMED: dict[str, Named] = {kind.TAG: tuple(kinds.items()) for kind, kinds in KINDS.items()}

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
    for name in _FIELDS[message.TAG]:
        value = getattr(message, name)
        if type(value) in _PLAIN:
            packed[name] = value
        elif isinstance(value, np.ndarray):
            tensor = value
            packed[name] = [name_of(tensor.dtype), tensor.shape]
        else:
            packed[name] = _pack(value)
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
                "traced": value.traced,
                "checkpoint": value.checkpoint,
            }
        case Constraint():
            return [value.kind, value.text]
        case Shaping():
            return [getattr(value, field.name) for field in fields(value)]
        case TopLogprobs():
            return [value.chosen, [list(pair) for pair in value.top]]
        case ScoredToken():
            return [value.logprob, value.rank, [list(pair) for pair in value.top]]
        case DrawnToken():
            return [value.token, _pack(value.logprobs)]
        case tuple() if value and isinstance(value[0], ScoredToken | DrawnToken):
            return [_pack(one) for one in value]
        case bytes() | memoryview():
            return len(value)  # follows in a frame of its own
        case tuple() if value and isinstance(value[0], LinkSeen):
            return [[getattr(one, field.name) for field in fields(one)] for one in value]
        case EngineHealth():
            return [getattr(value, field.name) for field in fields(value)]
        case HopSum():
            return [value.steps, value.arrived_s, value.waited_s, value.computed_s]
        case StageSpeed():
            return [value.prefill_tokens, value.prefill_s, value.decode_s]
        case _:
            return value
