"""What people see of a job that starts: always moving on a terminal, a few lines elsewhere."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from helix_df.cli import startup
from helix_df.marks import VARIABLE, mark
from helix_df.runtime.requests import JobStatus, NodeState, NodeStatus


def status(*nodes: tuple[str, NodeState, float, str]) -> JobStatus:
    each = tuple(NodeStatus(name, state, (0, 4), None, done, said, 0, 0, 0) for name, state, done, said in nodes)
    return JobStatus("tiny", "tiny", "starting", False, "", each, 0, 0, 0, 0, 0, 0)


def shown(board: startup._Board, console: Console) -> str:
    with console.capture() as captured:
        console.print(board)
    return captured.get()


def test_on_a_terminal_a_start_is_always_moving() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    board = startup._Board("starting the coordinator")
    before = shown(board, console)
    assert "starting the coordinator" in before
    until = time.monotonic() + 30
    while shown(board, console) == before:
        assert time.monotonic() < until
        time.sleep(0.01)
    board.show(status(("a", "ready", 1.0, ""), ("b", "compiling", 0.5, "1 x 16 tokens")))
    assert "1 of 2 workers ready" in shown(board, console)
    assert "1 x 16 tokens" in shown(board, console)
    with startup.doing("reading job.yaml", console):
        pass
    assert "reading job.yaml" in console.file.getvalue()  # type: ignore[attr-defined]


def test_elsewhere_a_line_tells_a_change_and_now_and_then_how_far_it_is() -> None:
    file, now = io.StringIO(), [0.0]
    lines = startup._StateLines(Console(file=file, width=120), lambda: now[0])
    for now[0] in (0.1, 0.3, 0.5):
        lines.show(status(("a", "loading", 0.2, "layers"), ("b", "waiting", 0.0, "")))
    assert file.getvalue().splitlines() == ["a: loading (layers)", "b: waiting"]
    for now[0] in (14.0, 16.0, 17.0):
        lines.show(status(("a", "loading", 0.7, "40 of 60 MB"), ("b", "waiting", 0.0, "")))
    assert file.getvalue().splitlines()[2:] == ["16 s: 0 of 2 workers ready; b: waiting"]
    with startup.doing("reading job.yaml", Console(file=file)):
        pass
    assert "reading" not in file.getvalue(), "only where somebody sees it move"


def test_marks_are_written_where_somebody_wants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    mark("nothing")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "marks"))
    mark("plan made")
    mark("worker compiled", traced_s=0.5)
    said = [json.loads(line) for line in (tmp_path / "marks").read_text().splitlines()]
    assert [one["reached"] for one in said] == ["plan made", "worker compiled"]
    assert said[1]["traced_s"] == 0.5
