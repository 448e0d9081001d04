"""What a journal gives back is what it was told, up to some point: whatever was written last, torn or damaged."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.layers import LayerRange
from helix_df.runtime.constraints import Constraint
from helix_df.runtime.coordinator.journal import Journal, KeptNode
from helix_df.runtime.kept_answers import AcceptedAnswer, BrokenOff, KeptAnswer
from helix_df.runtime.requests import GenerationRequest, ScoredToken, TokenEvent, TopLogprobs
from helix_df.runtime.sampling import SamplingParams, Shaping

PLAN = "plan"
FINITE = st.floats(-50, 0)
LOGPROBS = st.none() | st.builds(
    TopLogprobs, FINITE, st.lists(st.tuples(st.integers(0, 2**31 - 1), FINITE), max_size=3).map(tuple)
)
SAMPLING = st.builds(
    SamplingParams,
    temperature=st.floats(0, 2),
    top_p=st.floats(0.1, 1),
    top_k=st.integers(0, 50),
    seed=st.integers(0, 2**32 - 1),
    logprobs=st.none() | st.integers(0, 20),
    constraint=st.none() | st.just(Constraint.choice(["ä", "b"])),
    shaping=st.none()
    | st.builds(
        Shaping,
        min_p=st.floats(0, 1),
        logit_bias=st.just(((3, 0.5), (7, -1.5))) | st.just(()),
        held_back=st.just((2, 5)),
        bad_words=st.just(((1, 2), (3,))),
    ),
)
SCORES = st.none() | st.just((ScoredToken(-1.5, 3, ((7, -0.5),)), ScoredToken(-0.25, 1)))
TOKENS = st.builds(TokenEvent, st.integers(0, 2**31 - 1), st.none(), LOGPROBS)
LASTS = st.builds(TokenEvent, st.none(), st.just("stop")) | st.builds(
    TokenEvent, st.integers(0, 2**31 - 1), st.just("length"), LOGPROBS
)
BROKEN = st.sampled_from((BrokenOff("cancelled"), BrokenOff("failed", "ü \ud83d no room", 503, "prompt", "c")))
FORMS = st.text(max_size=8)


@dataclass
class Told:
    """A journal without a thread, what it was told, and how much of that is written."""

    folder: Path
    journal: Journal = field(init=False)
    accepted: dict[str, AcceptedAnswer] = field(default_factory=dict)
    events: dict[str, list[TokenEvent]] = field(default_factory=dict)
    broken_off: dict[str, BrokenOff] = field(default_factory=dict)
    flushed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder / "journal", PLAN)

    def accept(self, count: int, form: str, sampling: SamplingParams, prompt: list[int]) -> None:
        name = f"answer{len(self.accepted)}"
        requests = tuple(
            GenerationRequest(
                f"{name}-{at}", tuple(prompt), 7, sampling, frozenset({2, 5}), owner=("a key", None)[at % 2]
            )
            for at in range(count)
        )
        self.accepted[name] = AcceptedAnswer(name, form, requests, f"my {name}")
        self.events |= {asked.id: [] for asked in requests}
        self.journal.accept(self.accepted[name])

    def open_requests(self) -> list[str]:
        return [
            name
            for name, events in self.events.items()
            if name not in self.broken_off and (not events or events[-1].finish is None)
        ]

    def token(self, request: str, event: TokenEvent) -> None:
        self.events[request].append(event)
        self.journal.token(request, event)

    def break_off(self, request: str, why: BrokenOff) -> None:
        self.broken_off[request] = why
        self.journal.break_off(request, why)

    def flush(self) -> None:
        self.journal.flush()
        self.flushed = {name: len(events) for name, events in self.events.items()}

    def check(self, found: tuple[KeptAnswer, ...]) -> None:
        """Nothing is there that was not told, and nothing out of turn."""
        for answer in found:
            told = self.accepted[answer.id]
            assert (answer.name, answer.form) == (told.name, told.form)
            assert tuple(one.asked for one in answer.requests) == told.requests
            for one in answer.requests:
                said = self.events[one.asked.id]
                assert list(one.events) == said[: len(one.events)]
                assert [e.prompt_scores for e in one.events] == [e.prompt_scores for e in said[: len(one.events)]]
                assert [e.cached_tokens for e in one.events[:1]] == [
                    e.cached_tokens for e in said[: len(one.events)][:1]
                ]
                if one.broken_off is not None:
                    assert one.broken_off == self.broken_off[one.asked.id]
                    assert list(one.events) == said


@st.composite
def histories(draw: st.DrawFn, folder: Path) -> Told:
    told = Told(folder)
    for _ in range(draw(st.integers(1, 14))):
        match draw(st.sampled_from(("accept", "token", "token", "token", "last", "broken", "flush", "reopen"))):
            case "accept":
                prompt = draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5))
                told.accept(draw(st.integers(1, 3)), draw(FORMS), draw(SAMPLING), prompt)
            case "flush":
                told.flush()
            case "reopen":
                told.flush()
                told.journal.close()
                told.journal = Journal(told.folder / "journal", PLAN)
                told.check(told.journal.answers)
            case what if told.open_requests():
                request = draw(st.sampled_from(told.open_requests()))
                if what == "broken":
                    told.break_off(request, draw(BROKEN))
                else:
                    cached = 0 if told.events[request] else draw(st.integers(0, 9))
                    scores = None if told.events[request] else draw(SCORES)
                    event = draw(TOKENS if what == "token" else LASTS)
                    told.token(request, replace(event, cached_tokens=cached, prompt_scores=scores))
    return told


def crashed(told: Told, damage: Callable[[Path], None]) -> tuple[KeptAnswer, ...]:
    """What somebody reads who comes after the process was killed, and the files were damaged."""
    with tempfile.TemporaryDirectory() as folder:
        for file in told.folder.iterdir():
            if not file.name.endswith("-shm"):  # memory of the processes that had it open
                shutil.copy(file, folder)
        damage(Path(folder))
        journal = Journal(Path(folder) / "journal", PLAN)
        found = journal.answers
        assert [journal.find(answer.id) for answer in found] == list(found)
        assert [journal.find(str(answer.name)) for answer in found] == list(found)
        journal.close()
        return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_was_flushed_is_there_and_nothing_else(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        told = data.draw(histories(Path(folder)))
        found = crashed(told, lambda _: None)
        told.check(found)
        read = {one.asked.id: len(one.events) for answer in found for one in answer.requests}
        assert read == told.flushed
        told.flush()
        whole = crashed(told, lambda _: None)
        assert {answer.id for answer in whole} == set(told.accepted)
        told.check(whole)
        for answer in whole:
            for one in answer.requests:
                assert list(one.events) == told.events[one.asked.id]
                assert one.broken_off == told.broken_off.get(one.asked.id)
        told.journal.close()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_torn_or_damaged_file_gives_a_part_of_it_or_nothing(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        told = data.draw(histories(Path(folder)))
        told.flush()

        def damage(copy: Path) -> None:
            file = data.draw(st.sampled_from(sorted(copy.iterdir())))
            content = bytearray(file.read_bytes())
            if not content:
                return
            at = data.draw(st.integers(0, len(content) - 1))
            if data.draw(st.booleans()):
                del content[at:]
            else:
                content[at] ^= data.draw(st.integers(1, 255))
            file.write_bytes(content)

        told.check(crashed(told, damage))
        told.journal.close()


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=300))
def test_what_is_no_journal_is_put_aside(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        path.write_bytes(content)
        journal = Journal(path, PLAN)
        assert (journal.answers, journal.nodes, journal.life) == ((), (), 1)
        if content:
            assert (Path(folder) / "journal.aside").read_bytes() == content
        journal.close()


def test_a_journal_of_another_plan_is_put_aside_and_lives_are_counted(tmp_path: Path) -> None:
    node = KeptNode("a", "tcp://127.0.0.1:1", 2**62, LayerRange(0, 3))
    for life in (1, 2, 3):
        journal = Journal(tmp_path / "journal", PLAN)
        assert journal.life == life
        assert journal.nodes == ((node,) if life > 1 else ())
        journal.node(node)
        journal.flush()
        journal.close()
    other = Journal(tmp_path / "journal", "another")
    assert (other.life, other.nodes) == (1, ())
    other.close(delete=True)
    assert [file.name for file in tmp_path.iterdir()] == ["journal.aside"]


def test_what_is_over_goes_after_its_time_and_sooner_in_a_file_that_is_full(tmp_path: Path) -> None:
    now = 1000.0
    journal = Journal(tmp_path / "journal", PLAN, keep_s=60, clock=lambda: now, most_bytes=2**19)
    told = [
        AcceptedAnswer(f"a{at}", "x" * 20_000, (GenerationRequest(f"a{at}-0", (1,), 1, SamplingParams()),))
        for at in range(8)
    ]
    for at, answer in enumerate(told):
        journal.accept(answer)
        journal.token(f"a{at}-0", TokenEvent(1, "length" if at < 6 else None))
    journal.flush()
    now = 1059.0
    journal.tidy()
    assert journal.find("a0") is not None
    now = 1061.0
    journal.tidy()
    assert [journal.find(f"a{at}") is not None for at in range(8)] == [False] * 6 + [True] * 2
    large = [
        AcceptedAnswer(f"b{at}", "x" * 40_000, (GenerationRequest(f"b{at}-0", (1,), 1, SamplingParams()),))
        for at in range(7)
    ]
    for at, answer in enumerate(large):
        journal.accept(answer)
        journal.token(f"b{at}-0", TokenEvent(1, "length"))
        now += 1
        journal.flush()
    journal.tidy()
    left = [journal.find(f"b{at}") is not None for at in range(7)]
    assert left == sorted(left)
    assert True in left
    assert False in left
    assert [journal.find(f"a{at}") is not None for at in (6, 7)] == [True, True], "they go on"
    journal.close()


def test_whoever_waits_for_the_disk_is_told_once_it_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", PLAN)
    journal.start()
    for at in range(50):
        journal.accept(AcceptedAnswer(f"a{at}", "", (GenerationRequest(f"a{at}-0", (1,), 1, SamplingParams()),)))
        told = threading.Event()
        journal.when_written(told.set)
        assert told.wait(60)
        assert journal.find(f"a{at}") is not None
    journal.close()
    journal.when_written(told.clear)
    assert not told.is_set(), "nothing is written any more, and nobody waits for it"


def test_nobody_waits_for_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", PLAN, most_bytes=2**17)
    journal.start()
    for at in range(3):
        journal.accept(AcceptedAnswer("a", "x" * 2**18, (GenerationRequest(f"a-{at}", (1,), 1, SamplingParams()),)))
        told = threading.Event()
        journal.when_written(told.set)
        assert told.wait(60)
        assert journal.find("a") is None
    journal.close()


def test_a_full_file_ends_the_journal_and_nothing_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", PLAN, most_bytes=2**17)
    journal.accept(AcceptedAnswer("a", "x" * 2**18, (GenerationRequest("a-0", (1,), 1, SamplingParams()),)))
    journal._closing.set()
    journal._write_and_tidy()
    assert journal.given_up is not None
    assert journal.find("a") is None
    assert list(tmp_path.iterdir()) == []
    journal.token("a-0", TokenEvent(1))
    journal.flush()
    journal.close()
