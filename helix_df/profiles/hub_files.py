"""Files of weights that are fetched in parts: as long as the real one, with holes where nobody needed anything yet.

Beside a file there is a record: its URL and version, and which bytes are here. Bytes are written before they are
recorded, so an end in between costs those again, and nothing else. Processes of one machine take turns at a file.

Owns files, their records and the requests for their parts. Doesn't know models or the hub's names.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from helix_df.errors import ModelError

RECORD_SUFFIX = ".parts"
FIRST_BYTES = 64 * 1024
"""Asked for at first, which most headers fit into."""

PIECE_BYTES = 8 * 2**20
"""Recorded at a time."""

ATTEMPTS = 5
WAIT_S = 0.5
"""Before another attempt, and twice as long before each that follows."""

_LONGEST_HEADER = 100 * 2**20

Range = tuple[int, int]
"""First byte, and the one after the last."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """Where a file is from, in which version (an entity tag), its bytes, and which are here, in order and apart."""

    url: str
    version: str | None
    size: int
    here: tuple[Range, ...]

    def lacking(self, wanted: Iterable[Range]) -> list[Range]:
        """The parts of ``wanted`` that aren't here, in order, neighbours as one."""
        lacking: list[Range] = []
        for start, stop in merged(wanted):
            at = start
            for first, last in self.here:
                if last <= at or first >= stop:
                    continue
                if first > at:
                    lacking.append((at, first))
                at = last
            if at < stop:
                lacking.append((at, stop))
        return lacking


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same bytes as ranges in order that don't touch."""
    found: list[Range] = []
    for start, stop in sorted(ranges):
        if start >= stop:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return tuple(found)


class Remote(Protocol):
    """Where files are fetched from."""

    def version(self, url: str) -> tuple[str | None, int]:
        """A tag that another version of the file doesn't have, and the file's bytes.

        Raises:
            ModelError: when nobody can say.
        """

    def read(self, url: str, part: Range, size: int) -> bytes:
        """The bytes of a part.

        Raises:
            ModelError: when it can't be had.
        """


class _Hub:
    def version(self, url: str) -> tuple[str | None, int]:
        return _version_of(url)

    def read(self, url: str, part: Range, size: int) -> bytes:
        return _read_range(url, part, size)


HUB: Remote = _Hub()
"""Files by their URLs."""


def begin_file(path: Path, url: str) -> None:
    """Make the file at ``path`` with the header of the safetensors file at ``url``, unless it is there.

    Raises:
        ModelError: when it can't be had, or isn't such a file.
    """
    if is_begun(path):
        return
    version, size = _version_of(url)
    head = _read_range(url, (0, min(FIRST_BYTES, size)), size)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(_LONGEST_HEADER, size - 8):
        raise ModelError(
            "this is no safetensors file", where=url, found=f"a header of {length} bytes, of {size} in all"
        )
    if len(head) < 8 + length:
        head += _read_range(url, (len(head), 8 + length), size)
    begin_with(path, head[: 8 + length], PartRecord(url, version, size, ((0, 8 + length),)))


def is_begun(path: Path) -> bool:
    """Whether a file and its record are here."""
    return _record_path(path).is_file() and path.is_file()


def begin_with(path: Path, head: bytes, record: PartRecord) -> None:
    """Make the file of a record, of which ``head`` is here."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(record.size)
        file.flush()
        os.fsync(file.fileno())
    _write_record(path, record)


def fetch_parts(
    path: Path,
    wanted: Iterable[Range],
    on_bytes: Callable[[int], None] = lambda count: None,
    remote: Remote = HUB,
) -> None:
    """Fetch what isn't here of the parts ``wanted`` of a file that has been begun.

    Args:
        path: the file.
        wanted: parts of it.
        on_bytes: told how many bytes have come, each time some have.
        remote: where it is fetched from.

    Raises:
        ModelError: when they can't be had, or the file has changed since.
    """
    with locked(path):
        record = read_record(path)
        lacking = record.lacking(wanted)
        if not lacking:
            return
        version, size = remote.version(record.url)
        if (version, size) != (record.version, record.size):
            raise ModelError(
                "the file has changed since its header was fetched",
                where=record.url,
                found=f"version {version}, {size} bytes",
                expected=f"version {record.version}, {record.size} bytes",
                hint=f"delete {path.parent} to begin anew",
            )
        with path.open("r+b") as file:
            for part in lacking:
                record = _fetch_part(path, file.fileno(), record, part, on_bytes, remote)


def lacking_bytes(path: Path, wanted: Iterable[Range]) -> int:
    """How many bytes of the parts ``wanted`` aren't here."""
    return sum(stop - start for start, stop in read_record(path).lacking(wanted))


def read_record(path: Path) -> PartRecord:
    """The record of a file.

    Raises:
        ModelError: when there is none that can be read.
    """
    try:
        document = json.loads(_record_path(path).read_text())
        here = tuple((int(start), int(stop)) for start, stop in document["here"])
        return PartRecord(document["url"], document["version"], int(document["size"]), here)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "nobody knows which parts of the file are here",
            where=str(_record_path(path)),
            found=str(error),
            hint=f"delete {path.parent} to begin anew",
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one of this machine at a file."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_part(
    path: Path, descriptor: int, record: PartRecord, part: Range, on_bytes: Callable[[int], None], remote: Remote
) -> PartRecord:
    for start in range(part[0], part[1], PIECE_BYTES):
        piece = (start, min(start + PIECE_BYTES, part[1]))
        os.pwrite(descriptor, remote.read(record.url, piece, record.size), start)
        os.fsync(descriptor)
        record = PartRecord(record.url, record.version, record.size, merged([*record.here, piece]))
        _write_record(path, record)
        on_bytes(piece[1] - piece[0])
    return record


def _read_range(url: str, part: Range, size: int) -> bytes:
    """The bytes of a part; asks again where a connection breaks, from there on.

    Raises:
        ModelError: when it can't be had.
    """
    read = bytearray()
    for attempt in range(ATTEMPTS):
        try:
            for chunk in _stream(url, (part[0] + len(read), part[1]), size):
                read += chunk
            if len(read) == part[1] - part[0]:
                return bytes(read)
            problem = f"{len(read)} of {part[1] - part[0]} bytes came"
        except ModelError:
            raise
        except Exception as error:
            problem = (str(error) or type(error).__name__).splitlines()[0][:200]
        if attempt + 1 < ATTEMPTS:
            time.sleep(WAIT_S * 2**attempt)
    raise ModelError("the weights can't be fetched", where=url, found=problem)


def _stream(url: str, part: Range, size: int) -> Iterator[bytes]:
    from huggingface_hub.utils import build_hf_headers, get_session

    location = _metadata(url).location
    headers = build_hf_headers()
    if urlsplit(location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # whoever stores the file for the hub isn't told
    headers |= {"Range": f"bytes={part[0]}-{part[1] - 1}", "Accept-Encoding": "identity"}
    with get_session().stream("GET", location, headers=headers, follow_redirects=True) as response:
        response.raise_for_status()
        expected = f"bytes {part[0]}-{part[1] - 1}/{size}"
        if response.status_code != 206 or response.headers.get("content-range") != expected:
            raise ModelError(
                "the server doesn't give parts of files",
                where=location,
                found=f"status {response.status_code}, {response.headers.get('content-range')}",
                expected=expected,
            )
        yield from response.iter_bytes()


def _version_of(url: str) -> tuple[str | None, int]:
    metadata = _metadata(url)
    if metadata.size is None:
        raise ModelError("the server doesn't say how long the file is", where=url)
    return metadata.etag, metadata.size


def _metadata(url: str) -> _Metadata:
    from huggingface_hub import get_hf_file_metadata

    found = get_hf_file_metadata(url)
    return _Metadata(found.location, found.etag, found.size)


@dataclass(frozen=True, slots=True)
class _Metadata:
    location: str
    etag: str | None
    size: int | None


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + RECORD_SUFFIX)


def _write_record(path: Path, record: PartRecord) -> None:
    document = {"url": record.url, "version": record.version, "size": record.size, "here": record.here}
    new = path.with_name(f"{path.name}{RECORD_SUFFIX}.new")
    new.write_text(json.dumps(document))
    new.replace(_record_path(path))
