"""A job with speculation answers as the same job without, and says what it drafted."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helix_df.check import check_job
from helix_df.errors import HelixError
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.runtime.coordinator.drafters.registry import BUILT_IN, drafter_names
from helix_df.runtime.coordinator.drafting import Drafting, RequestDrafts, RoundCosts
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.requests import GenerationRequest, TokenEvent
from helix_df.runtime.sampling import SamplingParams, Shaping
from helix_df.spec.speculation import Speculation
from tests.runtime.tiny import answer, tiny_plan

CHAIN = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
SLOW = {"default": {"bandwidth": "10Gbps", "latency": "20ms"}}
REPEATING = tuple(range(10, 26)) * 3


def requests() -> list[GenerationRequest]:
    """Greedy, sampled and shaped ones with prompts that repeat themselves."""
    shaped = SamplingParams(temperature=0.7, seed=2, shaping=Shaping(frequency_penalty=0.3, min_tokens=2), logprobs=1)
    kinds = (SamplingParams(), SamplingParams(temperature=0.8, top_p=0.9, seed=1), shaped)
    return [
        GenerationRequest(f"r{index}", (*REPEATING, index), 24 + index, kinds[index % 3], frozenset({index}))
        for index in range(6)
    ]


async def served(speculation: dict[str, Any] | None) -> tuple[list[list[TokenEvent]], Coordinator]:
    runtime = {"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "speculation": speculation}
    coordinator = new_coordinator(tiny_plan(CHAIN, links=SLOW, runtime=runtime), embedded=True)
    await coordinator.start()
    try:
        await coordinator.wait_ready(120)
        first = await asyncio.gather(*(answer(coordinator, request) for request in requests()))
        cancelled = coordinator.submit(replace(requests()[0], id="left"))
        async for _ in cancelled:
            break
        await cancelled.aclose()
        return [*first, await answer(coordinator, replace(requests()[0], id="again"))], coordinator
    finally:
        await coordinator.close()


async def test_answers_are_the_same_and_drafts_are_counted() -> None:
    plain, without = await served(None)
    drafted, coordinator = await served({"options": {"shortest": 1}, "acceptance": 1.0})
    assert [[event.token for event in events] for events in drafted] == [[e.token for e in events] for events in plain]
    for one, other in zip(drafted, plain, strict=True):
        for event, same in zip(one, other, strict=True):
            assert (event.finish, event.token) == (same.finish, same.token)
            if same.logprobs is not None and event.logprobs is not None:
                assert event.logprobs.chosen == pytest.approx(same.logprobs.chosen, abs=1e-4)
    status = coordinator.snapshot()
    assert (without.snapshot().drafted_tokens, without.snapshot().accepted_tokens) == (0, 0)
    assert 0 < status.accepted_tokens <= status.drafted_tokens
    assert status.illegal_events == 0


def test_nobody_drafts_where_it_costs_more_than_it_gains() -> None:
    said = Speculation()
    near, far = RoundCosts(0.01, 0.01), RoundCosts(0.3, 0.001)
    for costs, most in ((near, 0), (far, 7)):
        drafting = Drafting(said)
        drafts = drafting.begin(costs)
        assert drafts is not None
        assert len(drafting.next(drafts, REPEATING, 1, 100)) == most
    full = Drafting(said)
    drafts = full.begin(far)
    assert drafts is not None
    assert full.next(drafts, REPEATING, 1000, 100) == ()
    assert full.next(drafts, REPEATING, 1, 2) == REPEATING[:2]
    assert full.drafted == 2


class Counting:
    """Drafts 0, 1, 2 and so on, whatever it is told."""

    def extend(self, tokens: Sequence[int]) -> None:
        pass

    def draft(self, most: int) -> tuple[int, ...]:
        return tuple(range(most))


def test_drafting_ends_with_a_text_that_stops_repeating_and_begins_again() -> None:
    drafts = RequestDrafts(Counting(), RoundCosts(0.1, 0.02), acceptance=0.6)
    lengths: list[int] = []
    for turn in range(120):
        sent = drafts.next([0] * turn, 1, 7)
        lengths.append(len(sent))
        drawn = [9] if 20 <= turn < 60 else [*sent, len(sent)]
        right = 0 if drawn == [9] else len(sent)
        assert drafts.verified(drawn) == ((right + (right < len(sent)), right) if sent else (0, 0))
    assert (lengths[19], lengths[59], lengths[-1]) == (7, 0, 7)


JOB = """\
model: {{source: "random:tiny"}}
gpus: {{any: {{profile: {{tokens_per_s: [400, 200, 130, 100], kv_tokens: [4096, 4096, 4096, 4096]}}}}}}
nodes: {{a: {{gpu: any}}}}
links: {{default: {{bandwidth: 1Gbps}}}}
runtime: {{speculation: {said}}}
"""

PACKAGE = """\
from helix_df.runtime.coordinator.drafters.kind import DrafterKind
from helix_df.spec.section import Section

class Options(Section):
    word: int = 3

class Drafter:
    def __init__(self, options): self.word = options.word
    def extend(self, tokens): pass
    def draft(self, most): return (self.word,) * most

MINE = DrafterKind(Drafter, Options)
BROKEN = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with a drafter, and an entry point that is none."""
    (tmp_path / "own_drafter.py").write_text(PACKAGE)
    info = tmp_path / "own_drafter-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-drafter\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[helix_df.drafters]\nmine = own_drafter:MINE\nbroken = own_drafter:BROKEN\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_drafter", raising=False)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{drafter: lokup}", ("runtime.speculation.drafter", "did you mean 'lookup'?")),
        ("{drafts: 16}", ("runtime.speculation.drafts", "at most 15")),
        ("{options: {shortest: 0}}", ("runtime.speculation.options.shortest", "at least 1")),
        ("{options: {shortest: 9}}", ("runtime.speculation.options", "longest is less than shortest")),
        ("{options: {longst: 9}}", ("runtime.speculation.options", "longest")),
        ("{acceptance: 1.5}", ("runtime.speculation.acceptance", "at most 1")),
        ("{drafter: broken}", ("own_drafter:BROKEN", "DrafterKind")),
    ],
)
@pytest.mark.usefixtures("package")
def test_mistakes_are_told_where_they_stand(said: str, words: tuple[str, ...]) -> None:
    with pytest.raises(HelixError) as error:
        check_job(parse_job(JOB.format(said=said)))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.usefixtures("package")
def test_another_package_brings_a_drafter() -> None:
    said = Speculation(drafter="mine", options={"word": 8})
    check_job(parse_job(JOB.format(said="{drafter: mine, options: {word: 8}}")))
    assert drafter_names() == (*BUILT_IN, "broken", "mine")
    drafting = Drafting(said)
    drafts = drafting.begin(RoundCosts(1.0, 0.0))
    assert drafts is not None
    assert drafting.next(drafts, [1], 1, 3) == (8, 8, 8)
