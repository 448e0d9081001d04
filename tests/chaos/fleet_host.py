"""Many workers in one process, each a real one on a socket of its own, that compute nothing (``counting_engine``).

    python -m tests.chaos.fleet_host --join URL --key-file FILE --batch-ms 2 NODE…

As ``helix-df worker`` would be started on as many hosts. Ends when the last of its workers has.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Semaphore

from helix_df.errors import HelixError
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.jobs.job_keys import read_worker_key
from helix_df.runtime.wire.keys import EndpointKeys, with_key
from helix_df.runtime.wire.messages import Welcome
from helix_df.runtime.wire.transport import endpoint_keys, listen, new_key_pair
from helix_df.runtime.worker.paced_engine import PacedEngine
from helix_df.runtime.worker.shell import Report, StepEngine, Worker
from helix_df.runtime.worker.steps import Step
from helix_df.spec.job import Job
from tests.chaos.counting_engine import CountingStage

log = logging.getLogger(__name__)

STACK_BYTES = 2**18

AT_ONCE = 8
"""So many workers of a process load at a time: they share one interpreter, as those of many hosts don't."""

SWITCH_S = 0.02
"""By default every thread that waits for its turn asks 200 times a second, and here there are hundreds."""


def build(batch_s: float, done: Callable[[], None], welcome: Welcome, _report: Report) -> StepEngine:
    """An engine whose every batch takes ``batch_s`` seconds; ``done`` is called once it is there."""
    geometry = read_geometry(Job.model_validate(welcome.job).model.parsed_source)
    stage = CountingStage(welcome.layers, welcome.num_layers, geometry.hidden_size, welcome.kv_tokens)

    def planned_s(_steps: Sequence[Step], _wall_s: float, _cpu_s: float) -> float:
        return batch_s

    done()
    return PacedEngine(stage, planned_s)


def serve(node: str, join: str, token: str, keys: EndpointKeys, batch_s: float, loading: Semaphore) -> None:
    """Be one worker until it is told to stop, once there is room for another that loads."""
    loading.acquire()
    try:
        endpoint = listen("curve://127.0.0.1:*", keys=EndpointKeys(new_key_pair(), keys.client))
        Worker(node, endpoint, join, token, partial(build, batch_s, loading.release)).run()
    except HelixError:
        log.exception("worker %s ended", node)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--join", required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--batch-ms", type=float, default=2.0)
    parser.add_argument("nodes", nargs="+")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.stack_size(STACK_BYTES)
    sys.setswitchinterval(SWITCH_S)
    key = read_worker_key(options.key_file)
    assert key.coordinator is not None, "the job isn't encrypted"
    join = with_key(options.join, key.coordinator)
    keys = endpoint_keys(None, key.token)
    loading, batch_s = Semaphore(AT_ONCE), options.batch_ms / 1000
    threads = [
        threading.Thread(target=serve, args=(node, join, key.token, keys, batch_s, loading), name=node)
        for node in options.nodes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1:])
