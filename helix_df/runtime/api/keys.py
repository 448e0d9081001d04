"""API keys: a file of them, and who may come in with which.

A key is 256 random bits, and only its SHA-256 is kept. Passwords need a slow hash, since people choose few of them;
nobody can try 2**256 keys, so a fast one is as safe, and it is computed at every request. Owns the file, the comparison
and the limits of each key; doesn't know HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helix_df.errors import DeploymentError, RequestError
from helix_df.runtime.access import operator_key

log = logging.getLogger(__name__)

PREFIX = "hdf-"
LOOK_EVERY_S = 1.0
"""So often at most it is looked whether the file has changed."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_VERSION = 1


class LimitReached(RequestError):
    """Something is full; there may be room again in ``retry_after_s`` seconds."""

    def __init__(self, problem: str, code: str, retry_after_s: float) -> None:
        super().__init__(problem, code=code, status=429)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: ``sha256`` in hexadecimal digits, ``created`` in Unix seconds, and its limits, if any."""

    name: str
    sha256: str
    created: int
    max_in_flight: int | None = None
    requests_per_minute: int | None = None


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys in a file.

    Raises:
        DeploymentError: when it can't be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']!r}")
        return tuple(_checked(ApiKey(**one)) for one in document["keys"])
    except OSError as error:
        raise DeploymentError(
            "the file of API keys can't be read",
            where=str(path),
            found=error.strerror,
            hint=f"`helix-df api-keys add NAME --file {path}` makes it",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DeploymentError("this is not a file of API keys", where=str(path), found=str(error)) from error


def add_key(path: Path, name: str, *, max_in_flight: int | None = None, requests_per_minute: int | None = None) -> str:
    """Make a key; the file is made with the first. The answer is the key itself, which is kept nowhere.

    Raises:
        DeploymentError: when the file can't be read or has a key of that name, or the name can't be one.
    """
    if not _NAME.fullmatch(name):
        raise DeploymentError(
            "this can't be the name of a key", found=repr(name), expected="letters, digits, '.', '_' or '-'"
        )
    known = read_keys(path) if path.exists() else ()
    if any(key.name == name for key in known):
        raise DeploymentError("there is a key of this name already", where=str(path), found=name)
    text = PREFIX + secrets.token_urlsafe(32)
    _write(path, (*known, ApiKey(name, _digest(text), int(time.time()), max_in_flight, requests_per_minute)))
    return text


def remove_key(path: Path, name: str) -> None:
    """Revoke a key; a job that runs with the file notices within a second.

    Raises:
        DeploymentError: when there is none of that name.
    """
    known = read_keys(path)
    left = tuple(key for key in known if key.name != name)
    if left == known:
        raise DeploymentError(
            "there is no key of this name",
            where=str(path),
            found=name,
            expected=", ".join(key.name for key in known) or None,
        )
    _write(path, left)


@dataclass(slots=True)
class KeyUse:
    """What a key has taken: requests in flight, and what is left of those of a minute."""

    in_flight: int = 0
    left: float = math.inf
    counted_s: float = field(default=0.0)

    def take(self, key: ApiKey, now: float) -> None:
        """Count a request.

        Raises:
            LimitReached: when the key has no more.
        """
        if key.max_in_flight is not None and self.in_flight >= key.max_in_flight:
            raise LimitReached(
                f"The API key '{key.name}' has {self.in_flight} requests in flight, as many as it may.",
                "key_in_flight_full",
                1,
            )
        if key.requests_per_minute is not None:
            rate = key.requests_per_minute / 60
            self.left = min(key.requests_per_minute, self.left + rate * (now - self.counted_s))
            self.counted_s = now
            if self.left < 1:
                raise LimitReached(
                    f"The API key '{key.name}' has had its {key.requests_per_minute} requests of a minute.",
                    "key_rate_full",
                    (1 - self.left) / rate,
                )
            self.left -= 1
        self.in_flight += 1


class KeyRing:
    """The keys of a job that runs, read anew when their file changes; what was read last holds while it can't be.

    Args:
        path: the file.
        secret: the job's, from which the key of its own tools follows.
        clock: seconds of a monotonic clock.

    Raises:
        DeploymentError: when the file can't be read.
    """

    def __init__(self, path: Path, secret: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._own = ApiKey("", _digest(operator_key(secret)), 0)
        self._keys = read_keys(path)
        self._stamp = _stamp(path)
        self._looked_s = clock()
        self._use: dict[str, KeyUse] = {}

    def find(self, authorization: str) -> ApiKey:
        """Whose key is in an ``Authorization`` header.

        Raises:
            RequestError: 401, when it is nobody's.
        """
        self._look()
        kind, _, text = authorization.partition(" ")
        digest = _digest(text.strip()) if kind.lower() == "bearer" else ""
        # All of them, so that the time tells nothing; and hashes, of which nobody chooses the beginning.
        found = [key for key in (self._own, *self._keys) if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise RequestError(
                "Incorrect API key provided." if text else "You didn't provide an API key.",
                code="invalid_api_key",
                status=401,
                expected="Authorization: Bearer KEY",
            )
        return found[0]

    @contextmanager
    def counted(self, key: ApiKey) -> Iterator[None]:
        """A request that is in flight for as long as the block lasts.

        Raises:
            LimitReached: when the key may have no more.
        """
        use = self._use.setdefault(key.name, KeyUse())
        use.take(key, self._clock())
        try:
            yield
        finally:
            use.in_flight -= 1

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except DeploymentError as error:
            log.error("the API keys stay as they were: %s", error)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _checked(key: ApiKey) -> ApiKey:
    limits = (key.max_in_flight, key.requests_per_minute)
    right: list[Any] = [
        isinstance(key.name, str) and _NAME.fullmatch(key.name),
        isinstance(key.sha256, str) and re.fullmatch("[0-9a-f]{64}", key.sha256),
        isinstance(key.created, int),
        *(limit is None or (isinstance(limit, int) and limit >= 1) for limit in limits),
    ]
    if not all(right):
        raise ValueError(f"an entry that is no key: {str(key.name)[:80]!r}")
    return key


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    """Replace the file in one step; only the user reads it."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    document = {"version": _VERSION, "keys": [asdict(key) for key in keys]}
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1) + "\n")
        scratch.replace(path)
    except OSError as error:
        raise DeploymentError("the file of API keys can't be written", where=str(path), found=error.strerror) from error
