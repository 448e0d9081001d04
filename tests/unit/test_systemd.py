"""The systemd unit that is shipped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "packaging/systemd/helix-df@.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this system has no systemd")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text("utf-8")
    assert "/usr/local/bin/helix-df apply --foreground" in text
    # The program has to be there for systemd's check.
    copy = tmp_path / "helix-df@job.service"
    copy.write_text(text.replace("/usr/local/bin/helix-df", sys.executable))
    found = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
    told = [line for line in found.stderr.splitlines() if copy.name in line]
    assert (found.returncode, told) == (0, []), found.stderr
