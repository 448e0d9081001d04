"""Measures links with the runtime's own messages over its own transport.

A probe carries the way it still has to go, and each endpoint that takes part sends it on. What comes home has been
through every link of its way, so a link between two others is measured from here as well. Owns the probes and their
arithmetic; doesn't know jobs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from helix_df.errors import DeploymentError, ProtocolError
from helix_df.runtime.wire.framing import decode_bundle, encode
from helix_df.runtime.wire.messages import Probe
from helix_df.runtime.wire.transport import Endpoint

SIZES = (64, 65_536, 4_194_304)
"""Bytes of a probe: nothing to speak of for the latency, then a decode batch's and a long prefill's hidden states."""

BOUNCES = 4
"""Round trips of one probe on a link between two others, so that the way there and back weighs less."""

REPEAT = 9
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """Two endpoints by name, and the median seconds of a round trip between them for each number of bytes."""

    between: tuple[str, str]
    round_trips: tuple[tuple[int, float], ...]

    @property
    def latency_s(self) -> float:
        """One way, of the smallest probe: what a message costs besides its bytes."""
        return self.round_trips[0][1] / 2

    @property
    def bytes_per_s(self) -> float:
        """What the largest probe takes longer than the smallest, by what it is larger; it goes both ways."""
        (small, quick_s), (large, slow_s) = self.round_trips[0], self.round_trips[-1]
        # Noise can make the difference vanish on a link that is too fast for these sizes.
        extra_s = slow_s - quick_s if slow_s > 1.01 * quick_s else slow_s
        return 2 * (large - small) / extra_s


def answer_probes(endpoint: Endpoint, token: str, alive: Callable[[], bool], poll_s: float = 0.5) -> None:
    """Send probes on until ``alive`` says no, as a worker does beside its work."""
    while alive():
        for frames in endpoint.receive(poll_s):
            try:
                probes = [message for message in decode_bundle(frames, token) if isinstance(message, Probe)]
            except ProtocolError:
                continue  # of somebody without the secret
            for probe in probes:
                if probe.path:
                    endpoint.send(probe.path[0], encode(replace(probe, path=probe.path[1:]), token))


class Prober:
    """Sends probes from ``endpoint`` and times their way home; ``clock`` is in seconds of any monotonic clock."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        token: str,
        clock: Callable[[], float],
        *,
        sizes: tuple[int, ...] = SIZES,
        repeat: int = REPEAT,
    ) -> None:
        self._name = name
        self._endpoint = endpoint
        self._token = token
        self._clock = clock
        self._sizes = sizes
        self._repeat = repeat
        self._number = 0

    def from_here(self, name: str, address: str) -> MeasuredLink:
        """The link between here and an endpoint.

        Raises:
            DeploymentError: when a probe doesn't come home.
        """
        self._trip((address,), 0, name)  # connects
        times = ((size, self._median((address,), size, name)) for size in self._sizes)
        return MeasuredLink((self._name, name), tuple(times))

    def between(self, a: tuple[str, str], b: tuple[str, str]) -> MeasuredLink:
        """The link between two endpoints, each with its name and address.

        Raises:
            DeploymentError: when a probe doesn't come home.
        """
        (tail, here), (head, there) = a, b
        names = f"{tail} and {head}"
        bounced = (here, *((there, here) * BOUNCES))
        self._trip(bounced, 0, names)
        times = []
        for size in self._sizes:
            alone = self._median((here,), size, names)
            seconds = (self._median(bounced, size, names) - alone) / BOUNCES
            times.append((size, max(seconds, 1e-9)))
        return MeasuredLink((tail, head), tuple(times))

    def _median(self, path: tuple[str, ...], size: int, whom: str) -> float:
        return statistics.median(self._trip(path, size, whom) for _ in range(self._repeat))

    def _trip(self, path: tuple[str, ...], size: int, whom: str) -> float:
        """Seconds until a probe is back."""
        self._number += 1
        start = self._clock()
        probe = Probe(self._number, (*path[1:], self._endpoint.address), bytes(size))
        self._endpoint.send(path[0], encode(probe, self._token))
        while self._clock() - start < TIMEOUT_S:
            if any(self._is_mine(frames) for frames in self._endpoint.receive(TIMEOUT_S)):
                return self._clock() - start
        raise DeploymentError(
            f"no probe comes back from {whom}",
            where=path[0],
            expected=f"an answer within {TIMEOUT_S:.0f} s",
            hint="is it up, does it have the same secret, and can it reach this machine?",
        )

    def _is_mine(self, frames: Iterable[object]) -> bool:
        try:
            arrived = decode_bundle(tuple(frames), self._token)
        except ProtocolError:
            return False
        return any(isinstance(message, Probe) and message.number == self._number for message in arrived)
