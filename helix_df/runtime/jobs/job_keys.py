"""The keys of a job: made once, kept in its folder for its owner's eyes, and what of them a worker elsewhere needs.

``keys.json`` stays where the coordinator runs. ``NAME.key`` beside it goes to every host on which somebody starts a
worker: it has the job's secret and the public half of the coordinator's pair. Both stay the same from one ``apply`` to
the next, until they are renewed. Owns these files; what the keys are for is the transport's to know.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helix_df.errors import DeploymentError, SpecError
from helix_df.runtime.jobs.directory import JobDirectory, job_directory
from helix_df.runtime.wire.keys import KeyPair, is_public_key
from helix_df.runtime.wire.transport import can_encrypt, new_key_pair
from helix_df.spec.section import NAME_PATTERN, NAME_RULE

log = logging.getLogger(__name__)

_TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The secret that every message of a job carries and its members' connections begin with, and the coordinator's
    pair: none where ZeroMQ was built without encryption."""

    token: str = field(repr=False)
    coordinator: KeyPair | None


@dataclass(frozen=True, slots=True)
class WorkerKey:
    """What a worker on another host needs: the job's secret, and the public half of the coordinator's pair."""

    token: str = field(repr=False)
    coordinator: str | None


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The keys of a job and where they are: ``worker_key`` is the file that goes to other hosts."""

    keys: JobKeys = field(repr=False)
    worker_key: Path


def make_keys(name: str, *, renew: bool = False, root: Path | None = None) -> KeyFiles:
    """The keys of the job ``name`` on this machine, made now if there are none yet.

    Args:
        name: of the job; it need not have been run before.
        renew: make new ones.
        root: the folder of all jobs' folders, by default the user's.

    Raises:
        SpecError: for what can't be a job's name.
        DeploymentError: when the files are damaged, or would be renewed while the job runs with them.
    """
    if re.fullmatch(NAME_PATTERN, name) is None or len(name) > 63:
        raise SpecError("this can't be a job's name", found=repr(name), expected=NAME_RULE)
    job = job_directory(name, root)
    if renew and job.is_running():
        raise DeploymentError(
            f"job {name} is running with its keys", where=str(job.path), hint=f"`helix-df down {name}` first"
        )
    return kept_keys(job, renew=renew)


def kept_keys(job: JobDirectory, *, renew: bool = False) -> KeyFiles:
    """As ``make_keys``, of the job of a folder."""
    keys = None if renew else _read_keys(job.keys_path)
    if keys is None:
        keys = new_keys()
        job.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        pair = None
        if keys.coordinator is not None:
            pair = {"public": keys.coordinator.public, "secret": keys.coordinator.secret}
        write_private(job.keys_path, {"secret": keys.token, "coordinator": pair})
    if _read(job.worker_key_path) != _of_worker(keys):
        write_worker_key(keys, job.worker_key_path)
    return KeyFiles(keys, job.worker_key_path)


def new_keys() -> JobKeys:
    """Fresh ones, kept nowhere."""
    return JobKeys(secrets.token_hex(_TOKEN_BYTES), new_key_pair() if can_encrypt() else None)


def _of_worker(keys: JobKeys) -> dict[str, str | None]:
    return {"secret": keys.token, "coordinator": None if keys.coordinator is None else keys.coordinator.public}


def write_worker_key(keys: JobKeys, path: Path) -> None:
    """Write what a worker on another host needs."""
    write_private(path, _of_worker(keys))


def worker_key_line(keys: JobKeys) -> str:
    """What a worker on another host needs, in one line."""
    return json.dumps(_of_worker(keys)) + "\n"


def read_worker_key(path: Path) -> WorkerKey:
    """What somebody brought to this host, or gives it on standard input, which is the path `-`.

    Raises:
        DeploymentError: when it isn't there, or isn't such a file.
    """
    document = _parsed(sys.stdin.readline()) if path == Path("-") else _read(path)
    if document is None:
        raise DeploymentError(
            "there is no key file",
            where=str(path),
            hint="`helix-df keys NAME` on the coordinator's host says which file to copy here",
        )
    match document:
        case {"secret": str(token), "coordinator": None} if token:
            return WorkerKey(token, None)
        case {"secret": str(token), "coordinator": str(public)} if token and is_public_key(public):
            return WorkerKey(token, public)
    raise _damaged(path, "the NAME.key that `helix-df keys` made (not keys.json, which stays with the coordinator)")


def write_private(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file that nobody but its owner can read, in one step."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=1) + "\n")
    scratch.replace(path)


def _read_keys(path: Path) -> JobKeys | None:
    match _read(path):
        case None:
            return None
        case {"secret": str(token), "coordinator": None} if token and not can_encrypt():
            return JobKeys(token, None)
        case {"secret": str(token), "coordinator": {"public": str(public), "secret": str(secret)}} if (
            token and is_public_key(public) and is_public_key(secret)
        ):
            return JobKeys(token, KeyPair(public, secret))
    raise _damaged(path, "a job's keys; `helix-df keys NAME --renew` makes new ones")


def _read(path: Path) -> Any:
    """The document of a file, ``None`` if there is no such file; whose eyes it is open to is told."""
    try:
        mode, text = path.stat().st_mode, path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return {}
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("%s holds a secret, and others than its owner can read it: `chmod 600` it", path)
    return _parsed(text)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _damaged(path: Path, expected: str) -> DeploymentError:
    return DeploymentError("this is not a key file", where=str(path), expected=expected)
