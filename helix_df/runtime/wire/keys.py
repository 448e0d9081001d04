"""Addresses of endpoints, and the keys that those of encrypted ones carry: ``curve://PUBLIC@host:port``.

An endpoint with keys has a pair of its own, whose public half stands in its address, so whoever knows where it listens
also knows how to make sure that nobody else does. Who may connect is told by a second pair, which follows from the
job's secret and is everybody's of the job. An address may end in ``~1``, ``~2`` …: the same endpoint, over new
connections. Doesn't know zmq (``transport`` makes keys and uses them) nor files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

ENCRYPTED = "curve"
"""The scheme of an endpoint with keys."""

PLAIN = "tcp"

_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A Curve25519 key pair, each half as 64 hexadecimal digits; the secret half is never shown."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class EndpointKeys:
    """What an endpoint needs: its ``own`` pair, and the pair of whoever may connect (``client``), itself included."""

    own: KeyPair
    client: KeyPair


def is_public_key(text: str) -> bool:
    """Whether a text is the public half of a pair."""
    return _PUBLIC_KEY.fullmatch(text) is not None


def same_endpoint(address: str) -> str:
    """An address without what asks for new connections: what an endpoint itself says of where it listens."""
    return address.partition("~")[0]


def newly_connected(address: str) -> str:
    """The same endpoint's address, to which whoever sends makes a new connection.

    One that was cut for long goes on by itself only when the system tries again, and that may take as long once more.
    """
    place, _, number = address.partition("~")
    return f"{place}~{int(number or 0) + 1}"


def split_endpoint(address: str) -> tuple[str, str | None, str]:
    """Scheme, public key (``None`` without one) and the rest of an endpoint's address. Checks none of them."""
    scheme, _, place = same_endpoint(address).partition("://")
    key, at, rest = place.partition("@")
    return (scheme, key, rest) if at and scheme == ENCRYPTED else (scheme, None, place)


def with_key(address: str, public: str) -> str:
    """An encrypted endpoint's address with its public key, if it has none yet; any other address as it is."""
    scheme, key, place = split_endpoint(address)
    return f"{scheme}://{public}@{place}" if scheme == ENCRYPTED and key is None else address


def without_key(address: str) -> str:
    """An endpoint's address as people read it."""
    scheme, _, place = split_endpoint(address)
    return f"{scheme}://{place}"
