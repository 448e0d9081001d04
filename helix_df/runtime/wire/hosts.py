"""The hosts that a job knows: where its coordinator and its nodes may listen, and so where messages may be sent.

Doesn't resolve names: where a job names a host by one, or listens on every address, any number may be behind it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from helix_df.runtime.wire.fields import FrameError
from helix_df.runtime.wire.keys import ENCRYPTED, PLAIN, is_public_key, split_endpoint
from helix_df.spec.addresses import host_of, split_address
from helix_df.spec.job import Job

_LOOPBACK = frozenset({"127.0.0.1", "::1"})
_BY_HOST = frozenset({PLAIN, ENCRYPTED})
_MOST_REMEMBERED = 4096


@dataclass(slots=True)
class JobHosts:
    """``scheme`` is that of all addresses; ``hosts`` are numbers, None if they can't be told."""

    scheme: str
    hosts: frozenset[str] | None
    _known: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(cls, job: Job, *endpoints: str) -> JobHosts:
        """Those that a job declares, and those of endpoints (``tcp://…``) that are its own anyway."""
        declared = [job.coordinator.address, *(node.address for node in job.nodes.values() if node.address)]
        scheme = split_endpoint(endpoints[0])[0]
        own = [split_endpoint(address)[2] for address in endpoints] if scheme in _BY_HOST else []
        return cls(scheme, _numbers([*declared, *own]))

    def check(self, address: str, where: str) -> None:
        """Make sure that an address is one that somebody of this job may have.

        Raises:
            FrameError: when it isn't.
        """
        if address in self._known:
            return
        scheme, key, place = split_endpoint(address)
        has_key = scheme != ENCRYPTED or (key is not None and is_public_key(key))
        if scheme != self.scheme or not place or not has_key or (scheme in _BY_HOST and not self._is_known(place)):
            raise FrameError(
                "an address that nobody of this job has",
                "untrue",
                where=where,
                found=repr(address[:100]),
                expected=f"{self.scheme}://" + (" or ".join(sorted(self.hosts)[:8]) if self.hosts else "HOST:PORT"),
            )
        if len(self._known) < _MOST_REMEMBERED:
            self._known[address] = None

    def _is_known(self, place: str) -> bool:
        try:
            host, port = split_address(place)
            number = str(ipaddress.ip_address(host.strip("[]")))
        except ValueError:
            return False
        return port not in (None, "*") and (self.hosts is None or number in self.hosts)


def _numbers(addresses: Iterable[str]) -> frozenset[str] | None:
    found: set[str] = set()
    for address in addresses:
        host = host_of(address).strip("[]")
        if host == "localhost":
            found |= _LOOPBACK
            continue
        try:
            number = ipaddress.ip_address(host)
        except ValueError:
            return None
        if number.is_unspecified:
            return None
        found.add(str(number))
    return frozenset(found)
