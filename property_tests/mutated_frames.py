"""Frames that are nearly right: real ones with one thing wrong, from a seed, so that a campaign can be run again.

A frame is mutated on the level of its fields (any leaf becomes another thing, a field is missing or one too many) or of
its bytes (cut, flipped, repeated, nothing but noise), or is sent again as it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from helix_df.runtime.wire import framing

NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, -7, 63, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63),
    0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"),
    "", "x", "a", "first", "tcp://", "tcp://127.0.0.1:1", "tcp://10.1.2.3:80", "tcp://127.0.0.1:99999999", "ipc:///x",
    "\x00", "é" * 600, "x" * 5000, b"", b"\xff" * 9,
    [], [[]], [None], [0] * 40, [-1, 3], [3, 1], ["float32", [2, 63]], ["float32", [0, 64]], ["object", [1]],
    {}, {"": 1}, {"a": {"b": {"c": [1, {"d": 2}]}}}, msgpack.Timestamp(1), msgpack.ExtType(5, b"12"),
)  # fmt: skip


def nest(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


class Mutator:
    """Makes frames of recorded ones that somebody with, or without, the job's secret could send."""

    def __init__(self, recorded: Sequence[Sequence[bytes]], token: str, seed: int) -> None:
        self._recorded = [list(map(bytes, frames)) for frames in recorded]
        self._token = token
        self._chance = random.Random(seed)
        self._opening = bytes(msgpack.packb([framing.VERSION, token]))[1:]
        self._ways: tuple[Callable[[list[bytes]], list[bytes]], ...] = (
            self._field, self._field, self._field, self._field, self._two_fields, self._keys, self._cut, self._flip,
            self._noise_behind_secret, self._again, self._payload, self._extra_frame, self._bundled,
        )  # fmt: skip

    def with_secret(self) -> list[bytes]:
        """One recorded message or bundle with something wrong."""
        return self._chance.choice(self._ways)(list(self._chance.choice(self._recorded)))

    def without_secret(self) -> list[bytes]:
        """The same by somebody who doesn't know the secret, or nothing but noise."""
        chance = self._chance
        if chance.random() < 0.3:
            return [chance.randbytes(chance.choice((0, 1, 2, 3, 40, 300))) for _ in range(chance.choice((1, 1, 2, 5)))]
        frames = self.with_secret()
        wrong = chance.choice(("", "x", "f" * len(self._token), self._token[:-1], self._token + "0"))
        frames[0] = frames[0].replace(self._opening, bytes(msgpack.packb([framing.VERSION, wrong]))[1:])
        if self._token.encode() in frames[0]:
            frames[0] = b"\x94" + chance.randbytes(20)
        return frames

    def _field(self, frames: list[bytes]) -> list[bytes]:
        version, token, tag, fields = self._head(frames)
        return [self._packed([version, token, tag, self._changed(fields)]), *frames[1:]]

    def _two_fields(self, frames: list[bytes]) -> list[bytes]:
        return self._field(self._field(frames))

    def _keys(self, frames: list[bytes]) -> list[bytes]:
        version, token, tag, fields = self._head(frames)
        if not isinstance(fields, dict):
            return frames
        fields = dict(fields)
        if fields and self._chance.random() < 0.6:
            del fields[self._chance.choice(list(fields))]
        if self._chance.random() < 0.6:
            fields[self._chance.choice(["", "node", "more", "__class__", b"x"])] = self._nasty()
        return [self._packed([version, token, tag, fields]), *frames[1:]]

    def _cut(self, frames: list[bytes]) -> list[bytes]:
        if self._chance.random() < 0.3 and len(frames) > 1:
            return frames[: self._chance.randrange(1, len(frames))]
        at = self._chance.randrange(len(frames))
        frames[at] = frames[at][: self._chance.randrange(len(frames[at]) + 1)]
        return frames

    def _flip(self, frames: list[bytes]) -> list[bytes]:
        at = self._chance.randrange(len(frames))
        changed = bytearray(frames[at])
        start = min(len(self._opening) + 1, len(changed)) if at == 0 else 0
        for _ in range(self._chance.choice((1, 1, 2, 8))):
            if start < len(changed):
                changed[self._chance.randrange(start, len(changed))] = self._chance.randrange(256)
        frames[at] = bytes(changed)
        return frames

    def _noise_behind_secret(self, frames: list[bytes]) -> list[bytes]:
        return [b"\x94" + self._opening + self._chance.randbytes(self._chance.choice((0, 1, 7, 60, 900))), *frames[1:]]

    def _again(self, frames: list[bytes]) -> list[bytes]:
        return frames

    def _payload(self, frames: list[bytes]) -> list[bytes]:
        if len(frames) < 2:
            return self._field(frames)
        size = len(frames[1])
        frames[1] = self._chance.choice(
            (b"", b"\xff" * size, b"\x00" * size, self._chance.randbytes(size), frames[1] * 2, frames[1][:-1])
        )
        return frames

    def _extra_frame(self, frames: list[bytes]) -> list[bytes]:
        frames.insert(self._chance.randrange(len(frames) + 1), self._chance.choice((b"", b"\x00", b"x" * 100)))
        return frames

    def _bundled(self, frames: list[bytes]) -> list[bytes]:
        return [*self._chance.choice(self._recorded), *self._field(frames), *self._chance.choice(self._recorded)]

    def _head(self, frames: list[bytes]) -> list[Any]:
        try:
            head = msgpack.unpackb(frames[0], raw=False)
            return head if isinstance(head, list) and len(head) == 4 else [framing.VERSION, self._token, "stop", {}]
        except Exception:  # it was mutated before
            return [framing.VERSION, self._token, "stop", {}]

    def _changed(self, value: Any) -> Any:
        """The value with one leaf, or one branch, replaced."""
        chance = self._chance
        if isinstance(value, dict) and value and chance.random() < 0.9:
            key = chance.choice(list(value))
            return {**value, key: self._changed(value[key])}
        if isinstance(value, list) and value and chance.random() < 0.7:
            if chance.random() < 0.2:
                return chance.choice((value[:-1], [*value, value[-1]], value * 2, value[::-1]))
            at = chance.randrange(len(value))
            return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        if type(value) is int and chance.random() < 0.4:
            return max(-(2**63), min(2**64 - 1, value + chance.choice((-1, 1, 2, 16, -16, 1000))))
        if isinstance(value, str) and chance.random() < 0.3:
            return value + chance.choice(("x", "0", "/1", "\n"))
        return self._nasty()

    def _nasty(self) -> Any:
        return nest(self._chance.choice((3, 30, 400))) if self._chance.random() < 0.03 else self._chance.choice(NASTY)

    def _packed(self, head: list[Any]) -> bytes:
        return bytes(msgpack.packb(head, use_bin_type=True))
