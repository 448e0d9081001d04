"""Local workers and the cores of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helix_df.runtime.jobs.launchers import local
from helix_df.runtime.launcher import WorkerOrder
from helix_df.runtime.threads import (
    THREADS_VARIABLE,
    granted_cores,
    threads_for_products,
    usable_cores,
    with_large_pages,
    with_one_thread,
    with_threads,
)

on_linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes can't be kept on cores here")


@pytest.mark.parametrize(
    ("workers", "cores", "declared", "expected"),
    [
        (1, 2, {}, (2,)),
        (2, 2, {}, (1, 1)),
        (3, 2, {}, (1, 1, 1)),
        (2, 3, {}, (1, 1)),
        (2, 4, {}, (2, 2)),
        (3, 8, {0: 5}, (5, 1, 1)),
        (2, 4, {0: 1}, (1, 3)),
        (2, 8, {0: 2, 1: 3}, (2, 3)),
        (2, 2, {0: 2}, (2, 1)),
    ],
)
def test_workers_share_the_cores_that_no_node_declares(
    workers: int, cores: int, declared: dict[int, int], expected: tuple[int, ...]
) -> None:
    said = tuple(declared.values())
    found = tuple(local.threads_of(workers, cores, declared.get(number), said) for number in range(workers))
    assert found == expected


@on_linux
def test_declared_cores_are_a_workers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: (0, 1, 2))
    pinned: dict[int, tuple[int, ...]] = {}
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: pinned.__setitem__(pid, tuple(cores)))
    launcher = local.LocalLauncher(2, cpus={"b": 2})
    environments = {}
    try:
        for node in ("a", "b"):
            order = WorkerOrder(node, "tcp://127.0.0.1:9", "tcp://127.0.0.1:*", "secret", tmp_path / node)
            launcher.start(order)
            environments[node] = launcher._changes(order)
        assert list(pinned.values()) == [(0,), (1, 2)]
    finally:
        launcher.stop(0.0)
    assert [environments[node][THREADS_VARIABLE] for node in ("a", "b")] == ["1", "2"]
    assert all(with_one_thread(one) for one in environments.values())


@on_linux
def test_a_worker_stays_on_its_core_when_it_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = usable_cores()[:2]
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


def test_an_environment_says_on_how_many_threads_products_are_shared(tmp_path: Path) -> None:
    assert threads_for_products({}, 6) == 6
    assert threads_for_products({"XLA_FLAGS": "--xla_x --xla_cpu_multi_thread_eigen=false"}, 6) == 1
    told = with_threads({"XLA_FLAGS": "--xla_x"}, 3)
    assert with_one_thread(told)
    assert threads_for_products(told, 6) == 3
    assert with_threads(told, 2) == {}, "whoever has said it already is obeyed"
    assert with_large_pages({}) == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert with_large_pages({"GLIBC_TUNABLES": "a=1"}) == {"GLIBC_TUNABLES": "a=1:glibc.malloc.hugetlb=1"}
    assert with_large_pages({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}) == {}
    limit = tmp_path / "cpu.max"
    most = os.cpu_count() or 1
    for text, expected in (("max 100000", most), ("150000 100000", 1), ("50000 100000", 1), ("nothing", most)):
        limit.write_text(f"{text}\n")
        assert granted_cores(limit) == expected
    assert granted_cores(tmp_path / "none") == most
