"""How fast this machine's cores read memory: dot products over arrays far larger than any cache, one thread a core.

Reading only, as decoding does with weights; a copy also writes, and says less.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.peers.system import ROOT, one_thread

_MIB = 1 << 20
_ARRAY_BYTES = 192 * _MIB
_SECONDS = 0.4


def read_bytes_per_s(cores: tuple[int, ...]) -> float:
    """Bytes/s that all of ``cores`` read together, each through its own process and memory."""
    # All start measuring at one moment, when every process has had time to write its arrays.
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **one_thread()},
        )
        for core in cores
    ]
    for process in processes:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError("the memory benchmark doesn't start")
    for process in processes:
        if process.stdin is not None:
            process.stdin.write("go\n")
            process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in processes)


def _measure(core: int) -> None:
    import numpy as np

    os.sched_setaffinity(0, {core})
    left, right = (np.ones(_ARRAY_BYTES // 4, np.float32) for _ in range(2))
    print("ready", flush=True)
    sys.stdin.readline()
    reads, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        np.dot(left, right)
        reads += 1
    print(reads * 2 * _ARRAY_BYTES / (time.perf_counter() - start))


if __name__ == "__main__":
    _measure(int(sys.argv[1]))
