"""Logs: bounded, with what libraries write in them, and kept over restarts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.log_files import KEPT_LOGS, put_aside

CHATTERBOX = """
import logging, os, sys
from pathlib import Path
from helix_df.runtime.log_files import BoundedLog, write_output_to
path = Path(sys.argv[1])
write_output_to(path)
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[BoundedLog(path, 10_000)])
for number in range(5000):
    logging.info("line %d", number)
    if number % 100 == 0:
        os.write(2, b"a library says %d\\n" % number)
"""


def test_a_log_never_has_more_than_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    subprocess.run([sys.executable, "-c", CHATTERBOX, str(path)], check=True)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["a.log", *(f"a.log.{number}" for number in range(1, KEPT_LOGS + 1))]
    assert all(file.stat().st_size < 10_100 for file in files)
    lines = "".join(file.read_text() for file in [*files[:0:-1], files[0]]).splitlines()
    assert lines[-1] == "line 4999"
    told = [int(line.split()[1]) for line in lines if line.startswith("line")]
    assert told == list(range(told[0], 5000))
    assert "a library says 4900" in lines


def test_a_restart_keeps_the_logs_of_runs_before(tmp_path: Path) -> None:
    job = JobDirectory(tmp_path)
    job.log_dir.mkdir()
    for run in range(6):
        job.log_path("a").write_text(f"run {run}")
        job.events_path("a").write_text("events")
        job.clear()
    kept = {file.name: file.read_text() for file in job.log_dir.iterdir()}
    assert kept == {"a.log.1": "run 5", "a.log.2": "run 4", "a.log.3": "run 3"}


def test_what_is_not_there_is_not_put_aside(tmp_path: Path) -> None:
    put_aside(tmp_path / "a.log")
    assert list(tmp_path.iterdir()) == []
