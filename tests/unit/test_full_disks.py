"""Disks that are full, read-only or somebody else's: a cache is done without, and anything else is one clear error."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from helix_df.errors import FileError
from helix_df.file_errors import explained_files
from helix_df.paths import cache_folder
from helix_df.runtime.coordinator.journal import open_journal
from helix_df.spec.shipped import find_example

QUICKSTART = str(find_example("quickstart"))


@pytest.fixture(autouse=True)
def forgotten_folders() -> Iterator[None]:
    cache_folder.cache_clear()
    yield
    cache_folder.cache_clear()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB with nothing left."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can't be mounted here")
    try:
        with pytest.raises(OSError, match="No space left"):
            (place / "filler").write_bytes(bytes(1 << 20))
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def run(*arguments: str, cwd: Path, **places: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "helix_df", *arguments]
    environment = os.environ | places | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_a_cache_that_can_be_written_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIX_DF_CACHE", str(tmp_path / "cache"))
    folder = cache_folder("compiled")
    assert folder == tmp_path / "cache" / "compiled"
    assert list(folder.iterdir()) == []


def test_without_a_cache_a_temporary_folder_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HELIX_DF_CACHE", str(tmp_path / "file" / "cache"))
    folder = cache_folder("compiled")
    (folder / "program").touch()
    assert folder == cache_folder("compiled"), "one for all that this process compiles"
    assert "each start compiles anew" in caplog.text


def test_a_full_cache_serves_no_more(full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIX_DF_CACHE", str(full_disk))
    folder = cache_folder("compiled")
    assert full_disk not in folder.parents
    (folder / "program").write_bytes(bytes(1 << 20))


def test_a_journal_that_has_no_place_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert open_journal(tmp_path / "nowhere" / "journal.sqlite", "plan") is None
    assert "THERE IS NO JOURNAL" in caplog.text


def test_a_librarys_refusal_is_told_with_the_place_where_it_happened(tmp_path: Path) -> None:
    with pytest.raises(FileError) as raised, explained_files(tmp_path):
        raise zmq.ZMQError(errno.ENOSPC)
    assert raised.value.where == str(tmp_path)
    with pytest.raises(FileError, match="ulimit -n") as raised, explained_files(tmp_path):
        raise zmq.ZMQError(errno.EMFILE)
    assert raised.value.where is None, "it isn't the folder's fault"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EMFILE])
def test_refusals_say_where_and_what_would_work(number: int) -> None:
    with pytest.raises(FileError) as raised, explained_files():
        raise OSError(number, os.strerror(number), "/somewhere/plan.json")
    assert raised.value.where == "/somewhere/plan.json"
    assert raised.value.hint


def test_what_is_no_refusal_passes() -> None:
    with pytest.raises(ConnectionRefusedError), explained_files():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    with pytest.raises(OSError, match="strange"), explained_files():
        raise OSError("strange")


def test_a_plan_on_a_full_disk(full_disk: Path) -> None:
    found = run("plan", QUICKSTART, "--solver", "even", "--out", "x.plan.json", cwd=full_disk)
    assert found.returncode != 0
    assert "x.plan.json: the plan file can't be written" in found.stderr
    assert "No space left on device" in found.stderr


def test_a_job_on_a_full_disk(full_disk: Path, tmp_path: Path) -> None:
    found = run("apply", QUICKSTART, "--solver", "even", cwd=tmp_path, HELIX_DF_STATE=str(full_disk / "state"))
    assert found.returncode == FileError.exit_code, found.stderr
    assert "the disk is full" in found.stderr
    assert "HELIX_DF_STATE" in found.stderr


def test_a_job_whose_state_has_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = run("apply", QUICKSTART, "--solver", "even", cwd=tmp_path, HELIX_DF_STATE=str(tmp_path / "file" / "state"))
    assert found.returncode == FileError.exit_code, found.stderr
    assert f"{tmp_path / 'file' / 'state'}" in found.stderr
    assert "HELIX_DF_STATE" in found.stderr
