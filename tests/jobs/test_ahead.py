"""Processes that begin before a job's plan is there, and workers that are forked from what has imported all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helix_df.runtime.jobs import ahead, fork_server
from helix_df.runtime.jobs.fork_server import ForkServer
from helix_df.runtime.jobs.launchers.local import LocalLauncher
from helix_df.runtime.jobs.own_process import ROOM
from helix_df.runtime.jobs.processes import children_of, command_line
from helix_df.runtime.launcher import WorkerOrder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is started before its time")

SERVER = """
import sys
from helix_df.runtime.jobs import fork_server, own_process
fork_server.COMMON, fork_server.WORKERS = (), {workers!r}
import json, os, time
from pathlib import Path
server = fork_server.begin()
for number, line in enumerate(sys.stdin):
    order = json.loads(line)
    if order is None:
        server.end()
        print(json.dumps("ended"), flush=True)
        continue
    output = order["output"] and Path(order["output"])
    one = server.start(order["arguments"], order["changes"], output, order["cores"])
    if one is None:
        print(json.dumps(None), flush=True)
        continue
    while one.pid is None and one.poll() is None:
        time.sleep(0.001)
    parent = open(f"/proc/{{one.pid}}/stat").read().rpartition(")")[2].split()[1] if one.pid else None
    words = open(f"/proc/{{one.pid}}/cmdline").read().rstrip("\\0").split("\\0") if one.pid else None
    print(json.dumps({{"code": one.wait(60), "words": words, "own": parent == str(os.getpid())}}), flush=True)
"""


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)


class Parent:
    """A process with a fork server, which carries out orders one after the other."""

    def __init__(self, workers: tuple[str, ...] = ()) -> None:
        code = SERVER.format(workers=workers)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, ROOM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def order(self, *arguments: str, output: Path | None = None, cores: tuple[int, ...] = (), **changes: str) -> Any:
        said = {"arguments": arguments, "changes": changes, "output": output and str(output), "cores": cores}
        return self.say(said)

    def say(self, what: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def parent() -> Iterator[Callable[..., Parent]]:
    begun: list[Parent] = []

    def begin(workers: tuple[str, ...] = ()) -> Parent:
        begun.append(Parent(workers))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.communicate()


def test_a_forked_process_is_a_child_of_its_own_with_another_command(parent, tmp_path: Path) -> None:
    one = parent()
    log = tmp_path / "log"
    told = one.order("examples", "--nothing-like-that", output=log)
    assert isinstance(told, dict)
    assert told["code"] == 2, log.read_text()
    assert told["own"]
    assert told["words"] == [sys.executable, "-m", "helix_df", "examples", "--nothing-like-that"]
    assert "nothing-like-that" in log.read_text()
    core = min(os.sched_getaffinity(0))
    assert one.order("--version", output=log, cores=(core,))["code"] == 0
    assert "helix-df " in log.read_text()
    (server,) = children_of(one.process.pid)
    assert one.say(None) == "ended"
    assert one.order("--version") is None, "whoever asks starts it itself"
    assert not command_line(server)


def test_where_workers_lack_something_none_are_forked(parent) -> None:
    one = parent(workers=("no_such_module_anywhere",))
    told = one.order("--version")
    assert told is None or told["code"] == 1
    assert one.order("--version") is None


def test_a_server_goes_with_its_parent(parent) -> None:
    one = parent()
    assert one.order("--version")["code"] == 0
    (server,) = children_of(one.process.pid)
    one.process.kill()
    one.process.wait()
    until(lambda: not command_line(server))


def test_what_begins_ahead_is_gone_when_nothing_comes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    one = ahead.Ahead()
    assert one.process is not None
    pid = one.process.pid
    until(lambda: children_of(pid))
    (daemon,) = children_of(pid)
    one.drop()
    assert one.process.returncode == -9
    until(lambda: not command_line(daemon))
    one.drop()  # once is enough


def test_whoever_is_gone_can_not_be_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ahead, "MODULE", "no_such_module_anywhere")
    one = ahead.Ahead()
    assert one.process is not None
    one.process.wait()
    with (tmp_path / "lock").open("w") as lock:
        assert one.begin(lock.fileno(), tmp_path, [], []) is None
        assert one.begin(lock.fileno(), tmp_path, [], []) is None


def test_a_server_that_is_gone_says_so_of_what_it_was_to_start() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.returncode = 0  # it is reaped by the server
    server = ForkServer(ours, child.pid)
    one = server.start(["--version"], {}, None)
    assert one is not None
    assert one.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        one.wait(0.02)
    os.kill(child.pid, 9)
    theirs.close()
    until(lambda: one.poll() == 1)
    server.look()
    assert not server.is_open
    one.terminate()
    assert server.start(["--version"], {}, None) is None


def test_what_a_server_does_not_start_starts_anew(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.returncode = 0  # it is reaped by the server
    launcher = LocalLauncher(1, forks=ForkServer(ours, child.pid))
    try:
        launcher.start(WorkerOrder("a", "tcp://127.0.0.1:9", "tcp://127.0.0.1:*", "secret", tmp_path / "log"))
        assert launcher.exits() == []
        assert launcher._processes["a"][0].pid is None
        assert json.loads(theirs.recv(1 << 17))["arguments"][:2] == ["worker", "--join"]
        os.kill(child.pid, 9)
        theirs.close()
        until(lambda: launcher.exits() or launcher._processes["a"][0].pid)
        pid = launcher._processes["a"][0].pid
        assert pid is not None
        assert pid in children_of(os.getpid())
        assert launcher.exits() == []
    finally:
        launcher.stop(0.0)


def test_modules_that_are_imported_ahead_are_there() -> None:
    code = f"import importlib\nfor name in {(*fork_server.COMMON, *fork_server.WORKERS)}: importlib.import_module(name)"
    counted = "\nprint(open('/proc/self/status').read().split('Threads:')[1].split()[0])"
    found = subprocess.run([sys.executable, "-c", code + counted], capture_output=True, text=True, check=True)
    assert int(found.stdout) <= 2, "a process that forks has no threads but those of BLAS, which see to that"
