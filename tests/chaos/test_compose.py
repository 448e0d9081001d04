"""What the compose file says to run, by Docker's own program, runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from helix_df.spec.job import Job
from tests.chaos import hosts

PACKAGING = Path(__file__).parents[2] / "packaging"

pytestmark = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs Debian's docker-compose")


def services() -> dict[str, Any]:
    command = ["docker-compose", "--file", str(PACKAGING / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = yaml.safe_load(done.stdout)
    return document


def test_compose_knows_each_word_and_there_is_a_service_for_each_node() -> None:
    job = Job.model_validate(yaml.safe_load((PACKAGING / "compose-job.yaml").read_text()))
    found = services()["services"]
    assert sorted(found) == sorted(["coordinator", *job.nodes])
    assert {node.started_by for node in job.nodes.values()} == {"external"}
    for name in job.nodes:
        assert f"--node {name} " in found[name]["command"][0]
    assert [port.rpartition(":")[0] for port in found["coordinator"]["ports"]] == ["127.0.0.1:8000"]
    assert not any("ports" in found[name] for name in job.nodes)


@pytest.mark.slow
@pytest.mark.skipif(hosts.why_not() is not None, reason=f"no hosts can be made here: {hosts.why_not()}")
def test_the_commands_of_services_serve_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text(json.dumps(services()))
    with hosts.enter("tests.chaos.compose", [str(tmp_path / "services.json")]) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    done = json.loads(printed.strip().splitlines()[-1])
    assert (done["tokens"], done["ready"]) == (12, True)
    assert [len(places) for places in done["listening"].values()] == [1, 1], "a worker has one port"
