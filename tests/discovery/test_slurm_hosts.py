"""The hosts of a Slurm cluster: what ``sinfo`` prints, and a real cluster asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from helix_df.cli.main import main
from helix_df.discovery.kind import FoundHost
from helix_df.discovery.slurm import hosts_of, place
from helix_df.load import load_job
from tests.jobs import test_slurm
from tests.jobs.test_slurm import Slurm

slurm = test_slurm.slurm
"""The fixture: slurmctld and four slurmds of this machine."""

LISTED = """\
gpu01|gpu|idle|gpu:a100:4(S:0-1),nvme:1|rack1,a100
gpu01|all*|idle|gpu:a100:4(S:0-1),nvme:1|rack1,a100
gpu02|gpu|mix|gpu:nvidia_a100-sxm4-80gb:8|(null)
gpu02|long|mix|gpu:nvidia_a100-sxm4-80gb:8|(null)
gpu03|gpu|down*|gpu:2|(null)
mixed|gpu|alloc|gpu:t4:1,gpu:l4:1|(null)
cpu01|all*|drain|(null)|(null)
"""


def test_what_sinfo_prints() -> None:
    found = {host.name: host for host in hosts_of(LISTED)}
    assert found["gpu01"] == FoundHost("gpu01", "a100", 4, {"rack1": "", "a100": ""})
    assert found["gpu02"] == FoundHost("gpu02", "nvidia_a100-sxm4-80gb", 8, {"partition": "gpu,long"})
    assert found["gpu03"] == FoundHost("gpu03", None, 2, {"partition": "gpu"}, why_not="Slurm says that it is down*")
    assert (found["mixed"].device, found["mixed"].devices) == (None, 2)
    assert (found["cpu01"].devices, found["cpu01"].why_not) == (0, "Slurm says that it is drain")
    assert place(found["gpu01"], None) == ["--gpus-per-node=a100:4"]
    assert place(found["gpu01"], "rack1") == ["--constraint=rack1", "--gpus-per-node=a100:4"]
    assert place(found["gpu02"], None) == ["--partition=gpu,long", "--gpus-per-node=nvidia_a100-sxm4-80gb:8"]
    assert place(found["gpu03"], "gpu03") == ["--partition=gpu", "--gpus-per-node=2"]


def test_without_slurm_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit) as ended:
        main(["discover", "slurm"])
    assert ended.value.code == 7
    assert "Slurm's commands aren't here" in capsys.readouterr().err


@test_slurm.pytestmark
def test_a_real_cluster(slurm: Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.run("scontrol", "update", "NodeName=small2", "State=DRAIN", "Reason=test")
    main_ends(["discover", "slurm", "--type", "small=T4", "--out", str(tmp_path / "nodes.yaml")])
    assert "left out small2: Slurm says that it is drain" in capsys.readouterr().err
    part = yaml.safe_load((tmp_path / "nodes.yaml").read_text())
    assert part["nodes"] == {
        "2xa100-80gb": {"gpu": "2xA100-80GB", "count": 2, "launcher": "slurm", "address": "auto"},
        "t4": {"gpu": "T4", "launcher": "slurm", "address": "auto"},
    }
    (tmp_path / "job.yaml").write_text(
        "include: nodes.yaml\nmodel: {source: random:tiny}\nlinks: {default: {bandwidth: 10Gbps}}\n"
    )
    job = load_job(tmp_path / "job.yaml")
    found = {
        gpu: slurm.run("srun", "--nodes=1", *arguments, "printenv", "SLURMD_NODENAME").strip()
        for gpu, arguments in job.launchers["slurm"]["place"].items()
    }
    assert found["2xA100-80GB"] in ("large1", "large2"), "what was found is what Slurm finds again"
    assert found["T4"] == "small1"


def main_ends(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code
