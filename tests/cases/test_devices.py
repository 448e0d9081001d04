"""Nodes of several devices: which jobs are run, on which devices, and that they say the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helix_df.deployment import apply, deploy
from helix_df.errors import DeploymentError
from helix_df.graph.compile import compile_problem
from helix_df.graph.problem import Problem
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.models.weights import load_shard
from helix_df.plan.plan import Plan
from helix_df.planning import make_plan
from helix_df.profiles.device_shares import held_by
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.this_device import Accelerator
from helix_df.runtime.jobs import own_devices
from helix_df.runtime.jobs.launchers import local
from helix_df.runtime.jobs.launchers.local import LocalLauncher, visible_devices
from helix_df.runtime.jobs.own_devices import require_devices
from helix_df.runtime.launcher import WorkerOrder
from helix_df.runtime.worker import device
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.single_process import generate_in_process
from helix_df.spec.source import ModelSource
from tests.runtime.tiny import tiny_plan

PROMPT = [7, 70, 170, 250, 3]


def plan_for(gpu: str, runtime: str = "{}", model: str = "random:tiny", nodes: str = "pair: {{gpu: {gpu}}}") -> Plan:
    text = (
        f"model: {{source: '{model}'}}\nnodes: {{{nodes.format(gpu=gpu)}}}\n"
        f"links: {{default: {{bandwidth: 1Gbps}}}}\nsolver: {{name: swarm}}\nruntime: {runtime}\n"
    )
    return make_plan(parse_job(text))


def with_devices(count: int, monkeypatch: pytest.MonkeyPatch, name: str = "NVIDIA L4") -> None:
    monkeypatch.setattr(own_devices, "accelerators", lambda: (Accelerator(name, 24e9),) * count)


@pytest.mark.parametrize("gpu", ["2xL4", "4xT4"])
async def test_devices_that_this_machine_lacks_are_missed_before_anything_starts(
    gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_devices(0, monkeypatch)
    plan = plan_for(gpu)
    with pytest.raises(DeploymentError, match=f"pair: {gpu}"):
        apply(plan)
    with pytest.raises(DeploymentError, match="doesn't have the devices of its nodes"):
        async with deploy(plan):
            pass


def test_what_this_machine_has_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    two = plan_for("L4", nodes="a: {{gpu: {gpu}}}, b: {{gpu: {gpu}, address: 10.0.0.1}}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with_devices(2, monkeypatch)
    for plan in (plan_for("2xL4"), plan_for("L4"), two):
        assert require_devices(plan) is plan
    with pytest.raises(DeploymentError, match="the devices of its nodes"):
        require_devices(plan_for("4xL4"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(DeploymentError, match="the devices of its nodes"):
        require_devices(plan_for("2xL4"))
    with_devices(0, monkeypatch)
    for plan in (plan_for("L4"), plan_for("1xL4"), plan_for("2xL4", "{emulate: true}"), two):
        assert require_devices(plan) is plan


def test_declared_cores_are_counted_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with_devices(0, monkeypatch)
    monkeypatch.setattr(own_devices, "usable_cores", lambda: (0, 1, 2))
    both = "a: {{gpu: {gpu}, cpus: %d}}, b: {{gpu: {gpu}}}"
    for fine in (plan_for("L4", nodes=both % 2), plan_for("L4", nodes="a: {{gpu: {gpu}, cpus: 9, address: 10.0.0.1}}")):
        assert require_devices(fine) is fine
    with pytest.raises(DeploymentError, match="fewer cores than its nodes") as caught:
        require_devices(plan_for("L4", "{emulate: true}", nodes=both % 3))
    assert "nodes.a.cpus" in str(caught.value)
    assert "a: 3, b: 1" in str(caught.value)


def test_a_worker_refuses_more_cores_than_its_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: (0,))
    monkeypatch.setattr(device, "use_threads", lambda threads: told.append(threads))
    told: list[int] = []
    device.share_products(1)
    with pytest.raises(DeploymentError, match="fewer cores than its node"):
        device.share_products(2)
    assert told == [1]


def test_a_model_that_cannot_be_divided_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_devices(8, monkeypatch)
    with pytest.raises(DeploymentError, match="attention heads can't be divided evenly") as caught:
        require_devices(plan_for("8xL4"))
    assert "nodes.pair.gpu" in str(caught.value)
    assert "4 among 8" in str(caught.value)


def test_it_is_told_when_the_job_is_read(caplog: pytest.LogCaptureFixture) -> None:
    nodes = "nodes: {a: {gpu: 2xL4}, b: {gpu: 8xL4}}"
    text = f"model: {{source: 'random:tiny'}}\n{nodes}\nlinks: {{default: {{bandwidth: 1Gbps}}}}\n"
    parse_job(text)
    (told,) = caplog.messages
    assert "nodes.b.gpu" in told
    assert "4 among 8" in told
    caplog.clear()
    parse_job(text + "runtime: {emulate: true}\n")
    assert not caplog.messages


def test_key_and_value_heads_that_several_devices_hold_are_counted() -> None:
    few = "{GPU: {memory: 1GiB, profile: {compute: 1TFLOPS, bandwidth: 1GB/s}}}"

    def held(gpu: str) -> int:
        text = (
            f"model: {{source: 'random:tiny'}}\ngpus: {few.replace('GPU', gpu)}\nnodes: {{a: {{gpu: {gpu}}}}}\n"
            "links: {default: {bandwidth: 1Gbps}}\n"
        )
        return compile_problem(parse_job(text)).nodes[0].kv_tokens[0]

    assert held("2xtoy") == held("toy"), "two heads on two devices"
    assert held("4xtoy") == pytest.approx(held("toy") / 2, rel=0.01), "each of them on two"


def test_latents_that_every_device_keeps_are_counted() -> None:
    """KV cache of a token on all devices together, and what makes it, as often as there are devices."""

    def problem(count: int) -> Problem:
        name = f"{count}xtoy" if count > 1 else "toy"
        profile = "memory: 1TiB, profile: {compute: 1TFLOPS, bandwidth: 1GB/s}"
        text = (
            f"model: {{source: 'random:deepseek-v3', dtype: bfloat16}}\ngpus: {{{name}: {{{profile}}}}}\n"
            f"nodes: {{a: {{gpu: {name}}}}}\nlinks: {{default: {{bandwidth: 1Gbps}}}}\n"
        )
        return compile_problem(parse_job(text))

    one, four = problem(1), problem(4)
    geometry = read_geometry(ModelSource("random", "deepseek-v3"))
    latent = geometry.latent
    assert one.nodes[0].kv_tokens[9] == pytest.approx(4 * four.nodes[0].kv_tokens[9], rel=0.01)
    # Of ten layers: three more of each device's own.
    copied = 3 * 10 * geometry.hidden_size * (latent.rank + latent.rotated + latent.query_rank)
    held = {count: held_by(geometry, count).parameters(LayerRange(0, 10)) for count in (1, 4)}
    assert held[4] - held[1] == copied


def test_workers_of_this_machine_see_devices_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_devices({}, 4) == ("0", "1", "2", "3")
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}, 4) == ("GPU-a", "GPU-b")
    assert visible_devices({"CUDA_VISIBLE_DEVICES": ""}, 4) == ()
    launcher = LocalLauncher(2, None, ("0", "1", "2"))
    seen: dict[str, str | None] = {}

    def started(command: list[str], env: dict[str, str], **_: Any) -> subprocess.Popen[bytes]:
        seen[command[command.index("--node") + 1]] = env.get("CUDA_VISIBLE_DEVICES")
        return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=env)

    monkeypatch.setattr(local, "Popen", started)
    try:
        for node, devices in (("a", 1), ("b", 2), ("c", 1)):
            launcher.start(
                WorkerOrder(node, "tcp://127.0.0.1:9", "tcp://127.0.0.1:*", "s", tmp_path / "log", None, devices)
            )
    finally:
        launcher.stop(0.0)
    assert seen == {"a": "0", "b": "1,2", "c": os.environ.get("CUDA_VISIBLE_DEVICES")}


@pytest.mark.parametrize(
    ("count", "kept"), [(2, {}), (4, {}), (2, {"weights": "int8", "kv": "int8"}), (2, {"weights": "bfloat16"})]
)
async def test_three_workers_of_which_one_has_several_devices_say_what_one_says(
    count: int, kept: dict[str, Any]
) -> None:
    pair = f"{count}xtoy"
    profile = {"tokens_per_s": [400, 200, 130, 100], "kv_tokens": [4096] * 4}
    plan = tiny_plan(
        {"front": LayerRange(0, 1), "middle": LayerRange(1, 3), "back": LayerRange(3, 4)},
        gpus={name: {"memory": "1GiB", "profile": profile} for name in ("toy", pair)},
        nodes={"front": {"gpu": "toy"}, "middle": {"gpu": pair}, "back": {"gpu": "toy"}},
        model={"source": "random:tiny", "context": 256, **kept},
    )
    source = plan.job.model.parsed_source
    shard = load_shard(source, read_geometry(source), kept=kept.get("weights"))
    engine = Engine(shard, num_pages=32, max_batch=1, max_context=256, kv=kept.get("kv"))
    expected = list(generate_in_process(engine, PROMPT, 48))
    async with deploy(plan, embedded=False) as job:
        pieces = [piece async for piece in job.stream(PROMPT, max_tokens=48, temperature=0, ignore_eos=True)]
        assert [token for piece in pieces for token in piece.token_ids] == expected
        seeded = await job.complete([*PROMPT, 9], max_tokens=48, temperature=0.8, seed=3, ignore_eos=True)
        assert seeded.completion_tokens == 48
        log = (await job.status()).nodes
    assert {node.name: node.state for node in log} == dict.fromkeys(("front", "middle", "back"), "ready")
