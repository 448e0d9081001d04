"""The head of one GGUF file: its metadata and where each tensor lies.

Owns the file layout of GGUF versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): a magic
number, counts, key-value pairs, tensor descriptions, then aligned tensor data. Doesn't know what a key means or how a
quantized tensor becomes numbers. Long arrays (a vocabulary) are walked over unless they are asked for, which keeps
reading a header at tens of milliseconds.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from helix_df.errors import ModelError

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = MappingProxyType(
    {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
)
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SHORT_ARRAY = 64


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor's description.

    ``shape`` is row-major (slowest first), ``offset`` counts bytes from the start of ``file``.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    file: Path


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata by key and tensors by name.

    Arrays longer than 64 that weren't asked for are left out; ``array_lengths`` has the length of every array.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    array_lengths: dict[str, int]


class _Cursor:
    """Reads values one after another from a buffer."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self._buffer = buffer
        self._at = 0

    @property
    def at(self) -> int:
        return self._at

    def u32(self) -> int:
        (value,) = _U32.unpack_from(self._buffer, self._at)
        self._at += 4
        return int(value)

    def u64(self) -> int:
        (value,) = _U64.unpack_from(self._buffer, self._at)
        self._at += 8
        return int(value)

    def string(self) -> str:
        length = self.u64()
        start = self._at
        if start + length > len(self._buffer):
            raise struct.error("a string runs over the end of the file")
        self._at += length
        return self._buffer[start : self._at].decode("utf-8", errors="replace")

    def skip_strings(self, count: int) -> None:
        at, unpack, buffer = self._at, _U64.unpack_from, self._buffer
        for _ in range(count):
            at += 8 + unpack(buffer, at)[0]
        self._at = at

    def peek_length(self) -> int:
        """The length of the array here, after its element type."""
        (value,) = _U64.unpack_from(self._buffer, self._at + _U32.size)
        return int(value)

    def value(self, kind: int, wanted: bool) -> Any:
        """The value of type ``kind`` here; None for a long array that isn't wanted (it is skipped)."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(wanted)
        (value,) = struct.unpack_from(_SCALARS[kind], self._buffer, self._at)
        self._at += struct.calcsize(_SCALARS[kind])
        return value

    def _array(self, wanted: bool) -> Any:
        kind, count = self.u32(), self.u64()
        keep = wanted or count <= _SHORT_ARRAY
        if kind == _STRING:
            if keep:
                return tuple(self.string() for _ in range(count))
            self.skip_strings(count)
            return None
        if kind == _ARRAY:
            return tuple(self._array(keep) for _ in range(count))
        size = struct.calcsize(_SCALARS[kind]) * count
        start = self._at
        self._at += size
        return struct.unpack_from(f"<{count}{_SCALARS[kind][1]}", self._buffer, start) if keep else None


def read_gguf_file(path: Path, arrays: Collection[str] = ()) -> GgufHeader:
    """Read the header of the GGUF file at ``path``.

    Args:
        path: the file.
        arrays: keys of long arrays to keep, such as ``tokenizer.ggml.tokens``.

    Raises:
        ModelError: when the file is missing, isn't GGUF 2 or 3, or ends too early.
    """
    try:
        now = path.stat()
        return _read(path, (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns), frozenset(arrays))
    except (OSError, ValueError) as error:
        raise ModelError(
            "the GGUF file can't be read", where=str(path), found=str(error), expected="a readable .gguf file"
        ) from error
    except (struct.error, KeyError, OverflowError, MemoryError) as error:
        raise ModelError(
            "the GGUF file is cut short or damaged",
            where=str(path),
            found=str(error),
            hint="download the file again and compare its checksum",
        ) from error


@lru_cache(maxsize=16)
def _read(path: Path, _state: tuple[int, ...], arrays: frozenset[str]) -> GgufHeader:
    """Read once, as long as the file stays as it is: several ask for it, one after the other."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        return _parse(path, buffer, arrays)


def _parse(path: Path, buffer: mmap.mmap, arrays: Collection[str]) -> GgufHeader:
    cursor = _Cursor(buffer)
    magic = _U32.pack(cursor.u32())
    version = cursor.u32()
    if magic != _MAGIC or version not in (2, 3):
        raise ModelError(
            "this is not a GGUF file that helix-df reads",
            where=str(path),
            found=f"magic {magic!r}, version {version}",
            expected="magic b'GGUF', version 2 or 3, little-endian",
        )
    tensor_count, key_count = cursor.u64(), cursor.u64()
    metadata: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for _ in range(key_count):
        key, kind = cursor.string(), cursor.u32()
        if kind == _ARRAY:
            lengths[key] = cursor.peek_length()
        value = cursor.value(kind, key in arrays)
        if value is not None:
            metadata[key] = value
    described = [_describe(cursor) for _ in range(tensor_count)]
    alignment = int(metadata.get("general.alignment", 32))
    data_start = math.ceil(cursor.at / alignment) * alignment
    tensors = {
        name: GgufTensor(name, shape, ggml_type, data_start + offset, path)
        for name, shape, ggml_type, offset in described
    }
    return GgufHeader(path, metadata, tensors, lengths)


def _describe(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name, dimensions = cursor.string(), cursor.u32()
    fastest_first = [cursor.u64() for _ in range(dimensions)]
    return name, tuple(reversed(fastest_first)), cursor.u32(), cursor.u64()
