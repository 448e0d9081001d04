"""GGUF models that are split over several files: the header of all of them together.

Owns names of parts, ``NAME-00001-of-00003.gguf``, and the keys that tell them (llama.cpp's ``gguf-split``):
``split.no``, ``split.count`` and ``split.tensors.count``. Metadata is the first part's.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from helix_df.errors import ModelError
from helix_df.profiles.gguf_header import GgufHeader, GgufTensor, read_gguf_file

_NAME = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"


def read_gguf_header(path: Path, arrays: Collection[str] = ()) -> GgufHeader:
    """Read the header of the GGUF model at ``path``, which is one file or the first of several.

    Args:
        path: the file.
        arrays: keys of long arrays to keep, such as ``tokenizer.ggml.tokens``.

    Raises:
        ModelError: as ``read_gguf_file``, when a part is missing or of another model, or ``path`` isn't the first.
    """
    header = read_gguf_file(path, arrays)
    count = _number(header, COUNT, 1)
    return header if count <= 1 else _joined(header, count)


def is_later_part(path: Path) -> bool:
    """Whether a file is named as one that another one begins."""
    match = _NAME.fullmatch(path.name)
    return match is not None and int(match["number"]) > 1


def _joined(first: GgufHeader, count: int) -> GgufHeader:
    path = first.path
    match = _NAME.fullmatch(path.name)
    number = _number(first, NUMBER, 0)
    if match is None or int(match["count"]) != count or int(match["number"]) != number + 1:
        raise ModelError(
            "this GGUF file is one part of a model that is split over several, whose parts are found by their names",
            where=str(path),
            found=f"part {number + 1} of {count}",
            expected=f"NAME-{number + 1:05d}-of-{count:05d}.gguf",
        )
    parts = [path.with_name(f"{match['name']}-{part:05d}-of-{count:05d}.gguf") for part in range(1, count + 1)]
    if number:
        raise ModelError(
            "this GGUF file is a later part of a model that is split over several",
            where=str(path),
            found=f"part {number + 1} of {count}",
            expected=str(parts[0]),
        )
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise ModelError(
            f"of a GGUF model in {count} parts {len(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            where=str(path),
            expected=", ".join(map(str, missing[:3])),
            hint="all parts lie in one directory, under the names that they were made with",
        )
    tensors = dict(first.tensors)
    for index, part in enumerate(parts[1:], start=1):
        _add(tensors, read_gguf_file(part), index, count)
    told = _number(first, TENSORS, len(tensors))
    if told != len(tensors):
        raise ModelError(
            "the parts of a GGUF model hold another number of tensors than they say",
            where=str(path),
            found=len(tensors),
            expected=str(told),
        )
    return replace(first, tensors=tensors)


def _add(tensors: dict[str, GgufTensor], header: GgufHeader, index: int, count: int) -> None:
    found = _number(header, NUMBER, -1), _number(header, COUNT, -1)
    twice = tensors.keys() & header.tensors.keys()
    if found != (index, count) or twice:
        raise ModelError(
            "this file isn't the part of a GGUF model that its name says",
            where=str(header.path),
            found=f"{NUMBER} {found[0]}, {COUNT} {found[1]}" + (f", and {min(twice)} again" if twice else ""),
            expected=f"{NUMBER} {index}, {COUNT} {count}",
        )
    tensors |= header.tensors


def _number(header: GgufHeader, key: str, default: int) -> int:
    """A whole number of the metadata.

    Raises:
        ModelError: when it is something else.
    """
    value = header.metadata.get(key, default)
    if not isinstance(value, int):
        raise ModelError(f"the GGUF file's {key} isn't a whole number", where=str(header.path), found=value)
    return value
