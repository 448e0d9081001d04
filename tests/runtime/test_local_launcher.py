"""Local workers and the cores of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helix_df.runtime.jobs.launchers import local
from helix_df.runtime.launcher import WorkerOrder

on_linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes can't be kept on cores here")


@on_linux
@pytest.mark.parametrize(
    ("workers", "cores", "expected"),
    [
        (1, (0, 1), ()),
        (2, (0, 1), (0, 1)),
        (3, (0, 1), ()),
        (2, (3, 5, 7), (3, 5)),
        (2, (0, 1, 2, 3), ()),
        (1, (4,), (4,)),
    ],
)
def test_workers_get_cores_where_each_can_have_one(
    workers: int, cores: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert local.own_cores(workers, cores) == expected


@on_linux
def test_a_worker_stays_on_its_core_when_it_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = local.usable_cores()[:2]
    monkeypatch.setattr(local, "usable_cores", lambda: cores)
    launcher = local.LocalLauncher(len(cores))
    nodes = [f"node{core}" for core in cores]
    seen = []
    try:
        for node in [*nodes, nodes[0]]:
            launcher.start(WorkerOrder(node, "tcp://127.0.0.1:9", "tcp://127.0.0.1:*", "secret", tmp_path / "log"))
            process, _ = launcher._processes[node]
            seen.append(os.sched_getaffinity(process.pid))
            process.kill()
            process.wait()
    finally:
        launcher.stop(0.0)
    assert seen == [{core} for core in [*cores, cores[0]]]
