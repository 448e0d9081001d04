"""What a program that imports helix_df gets."""

from __future__ import annotations

import subprocess
import sys

import pytest

import helix_df
from helix_df.runtime.api.client import GenerationOptions, LocalJob
from tests.api.fakes import FakeService, text_service
from tests.jobs.conftest import JOB, tiny_plan
from tests.jobs.test_daemon import ready


def test_every_name_is_there():
    for name in helix_df.__all__:
        assert getattr(helix_df, name) is not None
    with pytest.raises(AttributeError):
        _ = helix_df.nothing


def test_planning_waits_for_no_runtime():
    code = (
        "import sys, helix_df; helix_df.load_job, helix_df.make_plan; "
        "heavy = {'jax', 'flax', 'zmq', 'uvicorn'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def check(job):
    pieces = [piece async for piece in job.stream("Say", max_tokens=50)]
    assert "".join(piece.text for piece in pieces) == "Hello from a daemon"
    assert pieces[-1].finish_reason == "stop"
    answer = await job.complete([83, 97, 121], stop=" a", max_tokens=50, temperature=0)
    assert (str(answer), answer.finish_reason) == ("Hello from", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens) == (3, 12)
    assert (await job.complete("Say")).finish_reason == "length"
    assert str(await job.chat("Say")) == "Hello from a daemon"
    with pytest.raises(helix_df.RequestError) as error:
        await job.chat([{"role": "user", "content": "x" * 300}])
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(helix_df.RequestError):
        _ = [piece async for piece in job.stream("x" * 300)]
    assert (await job.status()).nodes[0].layers == (0, 2)


async def test_a_job_in_this_process():
    await check(LocalJob(text_service(FakeService("Hello from a daemon"))))


async def test_a_job_behind_a_daemon(start):
    job, process = start("ok")
    record = ready(job, process)
    for address in (None, "tiny", record.url, f"{record.url}/v1"):
        async with helix_df.connect(address) as remote:
            await check(remote)


async def test_a_job_that_is_gone():
    async with helix_df.connect("http://127.0.0.1:9") as remote:
        with pytest.raises(helix_df.DeploymentError, match="doesn't answer"):
            await remote.status()


@pytest.mark.parametrize("kind", ["plan", "job", "file"])
async def test_deploy_runs_the_real_engine(tmp_path, kind):
    plan = tiny_plan()
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("NAME", "tiny"))
    async with helix_df.deploy({"plan": plan, "job": plan.job, "file": path}[kind]) as running:
        asked: GenerationOptions = {"max_tokens": 8, "seed": 1, "ignore_eos": True}
        streamed = "".join([piece.text async for piece in running.stream("The capital of France is", **asked)])
        assert streamed == str(await running.complete("The capital of France is", **asked))
