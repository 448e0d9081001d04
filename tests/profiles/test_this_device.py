"""What a driver prints is found in the catalogue, and ``gpu: auto`` asks it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helix_df.errors import ModelError, SpecError
from helix_df.load import parse_job
from helix_df.profiles.catalogue import devices, find_device, known_name
from helix_df.profiles.this_device import Accelerator, accelerators, type_of
from helix_df.suggestions import alike

JOB = """\
model: {source: random:llama-2-70b, dtype: float16}
nodes: {NODES}
links: {default: {bandwidth: 1GB/s, latency: 1ms}}
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts an ``nvidia-smi`` on the path that prints some devices."""

    def prints(*lines: str, fails: bool = False) -> None:
        script = tmp_path / "nvidia-smi"
        said = "".join(f"echo '{line}'\n" for line in lines)
        script.write_text(f'#!/bin/sh\n[ "$1" = --query-gpu=name,memory.total ] || exit 2\n{said}exit {int(fails)}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return prints


def gpus(nodes: str) -> list[str]:
    return [node.gpu for node in parse_job(JOB.replace("{NODES}", nodes)).nodes.values()]


def test_rows_can_be_right() -> None:
    for name, device in devices().items():
        assert 8e9 <= device.memory_bytes <= 300e9, name
        assert 60e9 <= device.bytes_per_s <= 10e12, name
        half, brain, single = (device.flop_per_s[dtype] for dtype in ("float16", "bfloat16", "float32"))
        assert 2e12 <= single <= max(half, brain) <= 3e15, name
        assert brain >= single, name
        for printed in device.printed_as:
            assert type_of((Accelerator(printed, device.memory_bytes),), 1) == name


def test_names_that_drivers_print_are_those_of_the_catalogue() -> None:
    assert known_name("Tesla T4") == "T4"
    assert known_name("nvidia h100 80gb hbm3") == "H100-80GB"
    assert known_name("4xNVIDIA L4") == "4xL4"
    assert known_name("Apple M2 Max") == "Apple M2 Max", "which differ in memory"
    assert known_name("L4") == "L4"
    assert gpus('{a: {gpu: "NVIDIA A100-SXM4-40GB"}, b: {gpu: "2xTesla T4"}}') == ["A100-40GB", "2xT4"]


def test_what_a_job_declares_goes_before_what_a_driver_prints() -> None:
    text = JOB.replace("{NODES}", "{a: {gpu: auto}}") + "gpus: {auto: {memory: 24GB, profile: {tokens_per_s: [9]}}}\n"
    assert parse_job(text).nodes["a"].gpu == "auto"


def test_auto_is_the_devices_of_this_machine_in_equal_shares(driver) -> None:
    driver("NVIDIA L4, 23034", "NVIDIA L4, 23034")
    assert accelerators() == (Accelerator("NVIDIA L4", 23034 * 2**20),) * 2
    assert gpus("{a: {gpu: auto}}") == ["2xL4"]
    assert gpus("{a: {gpu: auto}, b: {gpu: auto}}") == ["L4", "L4"]
    assert gpus("{a: {gpu: auto}, b: {gpu: T4, address: 10.0.0.1}}") == ["2xL4", "T4"]
    with pytest.raises(SpecError, match="share its devices evenly"):
        gpus("{a: {gpu: auto}, b: {gpu: auto}, c: {gpu: auto}}")


def test_of_rows_with_one_name_the_memory_decides(driver) -> None:
    driver("NVIDIA GeForce RTX 4060 Ti, 16380")
    assert gpus("{a: {gpu: auto}}") == ["RTX-4060-Ti-16GB"]
    driver("NVIDIA GeForce RTX 4060 Ti, 8188")
    assert gpus("{a: {gpu: auto}}") == ["RTX-4060-Ti-8GB"]


@pytest.mark.parametrize(
    ("lines", "fails", "words"),
    [
        (("NVIDIA Unheard Of, 23034",), False, "the catalogue doesn't know this machine's device"),
        (("NVIDIA L4, 23034", "Tesla T4, 15360"), False, "the devices of this machine differ"),
        (("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",), True, "no accelerator"),
        (("No devices were found",), False, "no accelerator"),
    ],
)
def test_what_auto_cannot_stand_for_is_told_at_its_field(driver, lines, fails, words) -> None:
    driver(*lines, fails=fails)
    with pytest.raises(SpecError, match=words) as caught:
        gpus("{b: {gpu: T4}, a: {gpu: auto}}")
    assert "nodes.a.gpu" in str(caught.value)


def test_the_device_of_another_host_cannot_be_asked() -> None:
    with pytest.raises(SpecError, match="only a node that helix-df starts on this machine"):
        gpus("{a: {gpu: auto, address: 10.0.0.1}}")


def test_no_device_is_no_share() -> None:
    with pytest.raises(ModelError, match="no accelerator"):
        type_of((), 1)


def test_the_names_that_are_offered_are_like_the_one_that_was_written() -> None:
    assert alike("H100", devices(), 3) == ["H100-80GB", "H100-PCIe", "H100-NVL"]
    assert {"RTX-4080", "RTX-4090"} <= set(alike("rtx4090", devices(), 8))
    assert len(alike("x", devices(), 8)) == 8
    assert find_device("H100") is None
