"""A whole job in one process: real engine, real state machines, no socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from helix_df.errors import DeploymentError, ModelError, RequestError
from helix_df.layers import LayerRange
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.wire.messages import Welcome
from helix_df.runtime.worker.shell import Report, StepEngine
from tests.runtime.tiny import answer, tiny_plan, tiny_request


@pytest.fixture
async def job() -> AsyncIterator[Coordinator]:
    coordinator = new_coordinator(tiny_plan(), embedded=True)
    await coordinator.start()
    await coordinator.wait_ready(120)
    yield coordinator
    await coordinator.close()


def kv_in_use(coordinator: Coordinator) -> dict[str, int]:
    return {node.name: node.kv_used_tokens for node in coordinator.snapshot().nodes if node.kv_used_tokens}


async def test_sixteen_concurrent_requests_equal_what_each_gives_alone(job: Coordinator) -> None:
    alone = [await answer(job, tiny_request(index)) for index in range(16)]
    together = await asyncio.gather(*(answer(job, tiny_request(index)) for index in range(16)))
    assert list(together) == alone
    assert [len(events) for events in alone] == [4 + index for index in range(16)]
    assert all(events[-1].finish == "length" for events in alone)
    assert kv_in_use(job) == {}
    status = job.snapshot()
    assert (status.finished, status.running, status.waiting, status.failed) == (32, 0, 0, 0)
    assert status.generated_tokens == 2 * sum(4 + index for index in range(16))


async def test_every_pipeline_gives_the_same_answer(job: Coordinator) -> None:
    # Consecutive requests take different pipelines, split at different layers; greedy tokens must not care.
    answers = [await answer(job, tiny_request(1, id=f"again{turn}")) for turn in range(6)]
    assert all(events == answers[0] for events in answers)


async def test_a_stop_id_ends_the_answer_without_being_part_of_it(job: Coordinator) -> None:
    events = await answer(job, tiny_request(1, max_tokens=20))
    tokens = [event.token for event in events]
    stop = tokens[4]
    assert stop is not None
    stopped = await answer(job, tiny_request(1, id="stop", max_tokens=20, stop_ids=frozenset({stop})))
    assert [event.token for event in stopped] == [*tokens[: tokens.index(stop)], None]
    assert stopped[-1].finish == "stop"


async def test_closing_a_stream_early_frees_its_kv(job: Coordinator) -> None:
    stream = job.submit(tiny_request(1, max_tokens=200))
    assert (await anext(stream)).token is not None
    await stream.aclose()
    # The next request can only finish after the cancelled one's step has come home.
    await answer(job, tiny_request(2))
    assert kv_in_use(job) == {}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"prompt": ()}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 10_000}, "context_length_exceeded"),
    ],
)
async def test_impossible_requests_are_refused_at_once(
    job: Coordinator, changes: dict[str, object], code: str | None
) -> None:
    with pytest.raises(RequestError) as refused:
        await answer(job, tiny_request(1, **changes))
    assert refused.value.code == code
    assert refused.value.status == 400


async def test_requests_beyond_the_kv_cache_wait_for_their_turn_and_all_finish() -> None:
    coordinator = new_coordinator(tiny_plan(kv_tokens=128), embedded=True)
    await coordinator.start()
    await coordinator.wait_ready(120)
    try:
        requests = [tiny_request(index, max_tokens=60) for index in range(12)]
        answers = await asyncio.gather(*(answer(coordinator, request) for request in requests))
        assert [len(events) for events in answers] == [60] * 12
        assert kv_in_use(coordinator) == {}
        with pytest.raises(RequestError) as refused:
            await answer(coordinator, tiny_request(5, max_tokens=200))
        assert refused.value.code == "kv_cache_exceeded"
    finally:
        await coordinator.close()


async def test_a_worker_that_fails_to_load_fails_the_job_with_its_words() -> None:
    def broken(welcome: Welcome, report: Report) -> StepEngine:
        raise ModelError("a tensor is missing", where="model.safetensors", found="no model.norm.weight")

    coordinator = new_coordinator(tiny_plan(), embedded=True, build_engine=broken)
    await coordinator.start()
    with pytest.raises(DeploymentError, match=r"no model\.norm\.weight"):
        await coordinator.wait_ready(60)
    await coordinator.close()


async def test_a_job_before_it_is_ready_refuses_requests() -> None:
    coordinator = new_coordinator(tiny_plan({"only": LayerRange(0, 4)}), embedded=True)
    await coordinator.start()
    with pytest.raises(RequestError) as refused:
        await answer(coordinator, tiny_request(1))
    assert refused.value.status == 503
    await coordinator.close()
