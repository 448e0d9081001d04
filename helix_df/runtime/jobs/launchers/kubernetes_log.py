"""The log of a pod's container, brought here as it comes, over breaks of the connection and of the coordinator."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from helix_df.runtime.jobs.launchers.kubernetes_api import ApiRefusal, ApiSilence, ClusterApi
from helix_df.runtime.jobs.log_copy import LogCopy

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 15.0

_CLOCKS_S = 2.0
"""So much the clocks of hosts may differ: what comes twice is left out by the lines' own times."""


async def follow(api: ClusterApi, pod: str, path: Path | None, runs: Callable[[], bool]) -> None:
    """Copy a container's log to the end of a file, from where the file was last written to.

    Returns when the log has ended and ``runs`` says that nothing more will come.
    """
    since_s = _age_s(path)
    last, pause_s = (b"", b""), FIRST_PAUSE_S
    with LogCopy(path) as copy:
        while True:
            heard_s, known = time.monotonic(), last
            try:
                async for line in api.log(pod, "helix-df", since_s):
                    stamp, _, text = line.partition(b" ")
                    heard_s, pause_s = time.monotonic(), FIRST_PAUSE_S
                    moment = _moment(stamp)
                    if moment > known:
                        copy.write(text)
                        last = max(last, moment)
                if not runs():
                    return
            except ApiRefusal as refusal:  # not yet, not any more, or the kubelet is away
                log.debug("the log of %s: %s", pod, refusal)
            except ApiSilence as silence:
                log.warning("the log of %s breaks off: %s", pod, silence)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
            if last[0]:
                since_s = math.ceil(time.monotonic() - heard_s + _CLOCKS_S)


def _age_s(path: Path | None) -> int | None:
    """How long ago a file was written to; ``None`` if it is empty or isn't there."""
    if path is None or not path.exists() or not path.stat().st_size:
        return None
    return math.ceil(max(1.0, time.time() - path.stat().st_mtime))


def _moment(stamp: bytes) -> tuple[bytes, bytes]:
    """A time of RFC 3339 so that later ones are more, however many digits its seconds have."""
    second, _, rest = stamp.partition(b".")
    digits = bytes(letter for letter in rest if letter in b"0123456789") if rest.endswith(b"Z") else rest[:9]
    return second.rstrip(b"Z"), digits.ljust(9, b"0")
