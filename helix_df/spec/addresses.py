"""Network addresses as the job writes them: ``host``, ``host:port``, ``[IPv6]`` or ``[IPv6]:port``.

The one place that takes an address apart, since a colon may be part of an IPv6 number. Doesn't resolve names, and
knows no sockets.
"""

from __future__ import annotations

import ipaddress
import re

_ADDRESS = re.compile(
    r"(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}|\*))?"
)
_MAX_PORT = 65535


def split_address(text: str) -> tuple[str, str | None]:
    """Host (an IPv6 number in its brackets) and port (digits, or ``*`` for any free one), ``None`` without one.

    Raises:
        ValueError: saying what is wrong with it.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError("this is not an address")
    host, port = match["host"], match["port"]
    if host.startswith("["):
        _require_ipv6(host[1:-1])
    if port not in (None, "*") and not 1 <= int(port) <= _MAX_PORT:
        raise ValueError(f"the port of the address is out of range, which is 1 to {_MAX_PORT}")
    return host, port


ANYWHERE = "auto"
"""The host of a node which whoever starts it chooses: its worker finds out by itself where it is."""


def host_of(address: str) -> str:
    """The host of an address that has been checked, an IPv6 number in its brackets."""
    return split_address(address)[0]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone: ``localhost``, 127.x.x.x or ``[::1]``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _require_ipv6(text: str) -> None:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("no IPv6 number is between the brackets") from None
