"""Hosts on one machine: network namespaces with a link each to one switch, made without being root.

All of it lives in a sandbox, a namespace of users, networks and mounts, in which the program runs that uses it
(``enter``). What it makes is gone with its last process.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

INSIDE = "HELIX_DF_CHAOS_SANDBOX"
HOME = "10.77.0.254"
"""The coordinator's host, which is the sandbox itself."""

_UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--mount")
_IP = "/usr/sbin/ip" if os.path.exists("/usr/sbin/ip") else "ip"
_ETH_P_ALL = 3
_LEAST_BURST = 1600
"""Bytes: a frame."""
_BURST_S = 0.002
_NOBODY = "02:00:00:00:00:01"
"""An address on the switch that nobody listens to."""


@cache
def why_not() -> str | None:
    """Why no hosts can be made here; ``None`` if they can."""
    probe = "mount -t tmpfs none /run && mkdir /run/netns && ip netns add probe && ip link add probe type bridge"
    try:
        done = subprocess.run([*_UNSHARE, "sh", "-c", probe], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def enter(module: str, arguments: Sequence[str], *, as_root: bool = False) -> subprocess.Popen[str]:
    """Start a module of Python in a new sandbox; what it prints can be read.

    ``as_root`` keeps all users of this machine, for servers that want more than one; whoever asks has to be root.
    """
    unshare = [word for word in _UNSHARE if not (as_root and "user" in word)]
    command = [*unshare, sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, env=os.environ | {INSIDE: "1"}, stdout=subprocess.PIPE, text=True)


def inside() -> bool:
    """Whether this process was started by ``enter``."""
    return os.environ.get(INSIDE) == "1"


class Hosts:
    """Hosts by name, the first at 10.77.0.1; each reaches the others and ``HOME`` over its own link."""

    def __init__(self, names: Sequence[str]) -> None:
        assert inside(), "hosts are made in a sandbox, which `enter` starts"
        self.address = {name: f"10.77.0.{number}" for number, name in enumerate(names, start=1)}
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
        os.mkdir("/run/netns")
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "switch", "type", "bridge")
        _ip("addr", "add", f"{HOME}/24", "dev", "switch")
        _ip("link", "set", "switch", "up")
        for number, name in enumerate(names, start=1):
            near = self._link(name)
            _ip("netns", "add", name)
            _ip("link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", near, "master", "switch")
            _ip("link", "set", near, "up")
            for words in (f"addr add 10.77.0.{number}/24 dev eth0", "link set eth0 up", "link set lo up"):
                _ip("-n", name, *words.split())

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """What runs a command there; the process is that of the command itself."""
        return [_IP, "netns", "exec", host, *command]

    def listening(self, host: str) -> list[str]:
        """Addresses beyond loopback on which a host listens for TCP."""
        asked = subprocess.run(self.command(host, ["ss", "-Htln"]), capture_output=True, text=True, check=True)
        found = [line.split()[3] for line in asked.stdout.splitlines()]
        return sorted(place for place in found if not place.startswith(("127.", "[::1]")))

    def cut(self, host: str) -> None:
        """Nothing gets through from or to a host any more, and nobody is told."""
        _ip("link", "set", self._link(host), "down")

    def mend(self, host: str) -> None:
        """Undo ``cut``."""
        _ip("link", "set", self._link(host), "up")

    def sent_bytes(self, host: str) -> int:
        """What a host has sent over its link so far."""
        path = "/sys/class/net/eth0/statistics/tx_bytes"
        command = self.command(host, ["sh", "-c", f"mount -t sysfs none /sys 2> /dev/null; cat {path}"])
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def slow(self, host: str, bits_per_s: int) -> None:
        """What a host sends goes at this rate from now on."""
        limit = f"qdisc replace dev eth0 root tbf rate {bits_per_s}bit burst 2kb latency 5s"
        subprocess.run(self.command(host, ["tc", *limit.split()]), check=True)

    def shape(self, host: str | None, bits_per_s: Mapping[str, float]) -> None:
        """What a host, or ``HOME``, sends to each of some addresses goes at the rate of that one from now on, beside
        what it sends to others."""
        device = "switch" if host is None else "eth0"

        def tc(words: str, check: bool = True) -> None:
            command = ["tc", *words.split()]
            command = command if host is None else self.command(host, command)
            subprocess.run(command, check=check, capture_output=not check)

        tc(f"qdisc del dev {device} root", check=False)  # there is one where it was shaped before
        tc(f"qdisc add dev {device} root handle 1: htb")
        for number, (address, rate) in enumerate(bits_per_s.items(), start=10):
            burst = max(_LEAST_BURST, int(rate / 8 * _BURST_S))
            limits = f"rate {int(rate)}bit ceil {int(rate)}bit burst {burst} cburst {burst} quantum {_LEAST_BURST}"
            tc(f"class add dev {device} parent 1: classid 1:{number} htb {limits}")
            tc(f"filter add dev {device} parent 1: protocol ip prio 1 u32 match ip dst {address}/32 flowid 1:{number}")

    def cut_between(self, one: str, other: str) -> None:
        """Nothing gets through between two hosts any more, and nobody is told; both reach all others."""
        for here, there in ((one, other), (other, one)):
            _ip("-n", here, *f"neigh replace {self.address[there]} lladdr {_NOBODY} nud permanent dev eth0".split())

    def mend_between(self, one: str, other: str) -> None:
        """Undo ``cut_between``."""
        for here, there in ((one, other), (other, one)):
            _ip("-n", here, *f"neigh del {self.address[there]} dev eth0".split())

    def _link(self, host: str) -> str:
        return f"to{self.address[host].rpartition('.')[2]}"


@contextmanager
def spy() -> Iterator[bytearray]:
    """All bytes that cross the switch or enter or leave its links while the block lasts, as a spy records them."""
    heard, done = bytearray(), threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as wire:
        wire.settimeout(0.1)

        def listen() -> None:
            while not done.is_set():
                try:
                    heard.extend(wire.recv(65536))
                except TimeoutError:
                    continue

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield heard
        finally:
            done.set()
            listener.join()


def _ip(*words: str) -> None:
    subprocess.run([_IP, *words], check=True)
