"""A launcher in a process of its own: orders and ends get through, and it is begun again when its process dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helix_df.runtime.jobs.job_keys import new_keys
from helix_df.runtime.jobs.launchers.apart import ApartLauncher
from helix_df.runtime.jobs.launchers.kind import LaunchSite, NoOptions
from helix_df.runtime.launcher import Exit, WorkerOrder
from helix_df.spec.nodes import Node

MODULE = """\
import json
from pathlib import Path
from helix_df.runtime.jobs.launchers.kind import LauncherKind
from helix_df.runtime.launcher import Exit

FOLDER = Path(__file__).parent

class Told:
    def __init__(self, site):
        self.site = site

    def say(self, *words):
        with (FOLDER / "told").open("a") as file:
            file.write(" ".join(words) + "\\n")

    def start(self, order):
        print("what libraries print is in nobody's way", flush=True)
        self.say("start", order.node, order.token, str(order.log_file), *self.site.nodes)

    def exits(self):
        gone = FOLDER / "gone"
        if not gone.exists():
            return []
        gone.rename(FOLDER / "gone before")
        return [Exit("a", "its words\\nin two lines")]

    def command(self, order):
        return None

    def stop(self, grace_s):
        self.say("stop", str(grace_s), self.site.keys.token)

KIND = LauncherKind(lambda site, options: Told(site))
"""


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ApartLauncher:
    (tmp_path / "told_launcher.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    site = LaunchSite({"a": Node(gpu="L4"), "b": Node(gpu="L4")}, new_keys())
    return ApartLauncher("told_launcher:KIND", site, NoOptions())


def told(folder: Path) -> list[list[str]]:
    path = folder / "told"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def until(found: Callable[[], object]) -> object:
    deadline = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def order(node: str, folder: Path) -> WorkerOrder:
    return WorkerOrder(node, "tcp://127.0.0.1:9", "tcp://auto:*", "secret", folder / f"{node}.log")


def test_it_obeys_tells_and_is_begun_again(launcher: ApartLauncher, tmp_path: Path) -> None:
    for node in ("a", "b"):
        launcher.start(order(node, tmp_path))
    started = [["start", node, "secret", str(tmp_path / f"{node}.log"), "a", "b"] for node in ("a", "b")]
    until(lambda: told(tmp_path) == started)

    (tmp_path / "gone").touch()
    assert until(launcher.exits) == [Exit("a", "its words\nin two lines")]

    assert launcher._process is not None
    os.kill(launcher._process.pid, signal.SIGKILL)
    # Only b's order stands, and a's is given anew, as a coordinator does.
    until(lambda: launcher.exits() == [] and len(told(tmp_path)) == 3)
    assert told(tmp_path)[2] == started[1]
    launcher.start(order("a", tmp_path))
    until(lambda: told(tmp_path)[3:] == [started[0]])
    launcher.stop(0.5)
    assert told(tmp_path)[4][:2] == ["stop", "0.5"]
    assert launcher._process.poll() == 0


def test_it_goes_when_its_coordinator_does(launcher: ApartLauncher, tmp_path: Path) -> None:
    launcher.start(order("a", tmp_path))
    until(lambda: told(tmp_path))
    process = launcher._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0
    assert not any(words[0] == "stop" for words in told(tmp_path)), "workers are left to the next one"
