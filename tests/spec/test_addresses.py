"""Addresses are taken apart in one place, IPv6 among them."""

from __future__ import annotations

import pytest

from helix_df.spec.addresses import host_of, is_loopback, split_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.5", "10.0.0.5", None),
        ("10.0.0.5:7000", "10.0.0.5", "7000"),
        ("gpu-1.rack_2.local:65535", "gpu-1.rack_2.local", "65535"),
        ("[fd00::5]", "[fd00::5]", None),
        ("[::1]:8141", "[::1]", "8141"),
        ("[::ffff:10.0.0.5]:1", "[::ffff:10.0.0.5]", "1"),
        ("127.0.0.1:*", "127.0.0.1", "*"),
    ],
)
def test_host_and_port(text: str, host: str, port: str | None) -> None:
    assert split_address(text) == (host, port)
    assert host_of(text) == host


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an address"),
        ("::1", "not an address"),
        ("fd00::5:7000", "not an address"),
        ("host:", "not an address"),
        ("host:port", "not an address"),
        ("tcp://host:7000", "not an address"),
        ("[fd00::5", "not an address"),
        ("[1:2]:7000", "no IPv6 number"),
        ("[:::]", "no IPv6 number"),
        ("host:0", "out of range"),
        ("[::1]:65536", "out of range"),
    ],
)
def test_what_is_no_address(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        split_address(text)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.5", "[fd00::5]", "localhost.example", "0.0.0.0", "[::]"])
def test_beyond_loopback(host: str) -> None:
    assert not is_loopback(host)
