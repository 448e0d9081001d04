"""Whatever comes in as frames: it is read whole or refused with a reason, and nothing else is raised."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.flow import Hop
from helix_df.layers import LayerRange
from helix_df.rules.measured_links import LinkSeen
from helix_df.rules.micro_batches import MicroBatches
from helix_df.runtime.constraints import Constraint
from helix_df.runtime.requests import DrawnToken, EngineHealth, History, Prefix, ScoredToken, StageSpeed, TopLogprobs
from helix_df.runtime.sampling import SamplingParams, Shaping
from helix_df.runtime.tracing.spans import HopSum
from helix_df.runtime.wire import framing
from helix_df.runtime.wire import messages as m
from helix_df.runtime.wire.door import Door, Malformed
from helix_df.runtime.wire.fields import FrameError
from property_tests.mutated_frames import NASTY, Mutator, nest

TOKEN = "0123456789abcdef0123456789abcdef"
ROUTE = m.Route(
    (Hop("a", LayerRange(0, 2)), Hop("b", LayerRange(2, 4))),
    ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"),
    SamplingParams(temperature=0.5, top_p=0.9, top_k=3, seed=7, logprobs=2),
    MicroBatches(2, 5),
    prefix=Prefix("q/3", 32),
)
SHAPING = Shaping(0.1, -1.0, 1.0, 1.5, ((1, 2.0), (300, -100.0)), 4, (2, 257), ((1,), (2, 3)))
CONSTRAINED = replace(
    ROUTE,
    sampling=replace(ROUTE.sampling, constraint=Constraint.choice(["yes", "nö"]), shaping=SHAPING),
    history=History((1, 300, 2**31 - 1), 2),
)
MESSAGES: tuple[m.Message, ...] = (
    m.Hello("a", "tcp://127.0.0.1:5", 12),
    m.Welcome("a", LayerRange(0, 3), 8, 1024, {"model": {"source": "random:tiny"}, "nodes": [1, {"x": None}]}),
    m.Loading("a", "compiling", 0.5, "8 x 1"),
    m.Ready("a", 1024, StageSpeed(16, 0.25, 0.125), 12),
    m.Failed("a", "no weights"),
    m.Probe(3, ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"), b"weight"),
    m.Heartbeat(
        "a",
        EngineHealth(3, 40, 1024),
        1 << 31,
        2,
        5,
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2~1"),
        9.5,
        -0.25,
        (LinkSeen("b", -0.25, 300, 7, 9000, 0.5), LinkSeen("c", 0.5, 300)),
    ),
    m.Forward("r/1", 32, True, ROUTE, np.arange(6, dtype=np.int32)),
    m.Forward("r/1", 38, False, None, np.ones((2, 64), np.float32)),
    m.Forward("r/1", 40, True, None, np.ones((1, 64), np.float32), "int8"),
    m.Sampled("r/1", 17, 42, TopLogprobs(-0.5, ((42, -0.5), (1, -2.0)))),
    m.Rejected("r/1", "a", "kv_full"),
    m.Release("r/1", 48),
    m.Stop(),
    m.JobChanged({"model": {"source": "random:tiny"}, "nodes": [1, {"x": None}]}, 12),
    m.Locate("r/1"),
    m.Located("r/1", "a", 17, 18),
    m.Forward("r/1", 32, True, CONSTRAINED, np.arange(6, dtype=np.int32)),
    m.Rejected("r/1", "a", "stuck"),
    m.FileWanted("a", "model.safetensors", 4096, 8192, 12),
    m.FilePart("model.safetensors", 4096, "8192-17", "00ff", b"weights", 12),
    m.PromptScored("r/1", 3, (ScoredToken(-0.5, 2, ((42, -0.25), (1, -0.5))), ScoredToken(-1.0, 1))),
    m.PromptPooled("r/1", 3, 2, b"\0\0\x80?\0\0\0@"),
    m.HopTimes("r/1", "a", 12.5, HopSum(1, 0.0, 0.25, 0.5), HopSum(3, 1.5, 0.125, 0.75)),
    m.Forward("r/1", 32, True, replace(ROUTE, checkpoint=48), np.arange(6, dtype=np.int32)),
    m.Departed("a", 12.5),
    m.Forward("r/1", 7, True, None, np.array([5, 6, 7], np.int32), drafts=(6, 7)),
    m.Sampled("r/1", 8, 6, TopLogprobs(-0.5, ((6, -0.5),)), (DrawnToken(7), DrawnToken(9, TopLogprobs(-1.0)))),
)
RECORDED = [[bytes(frame) for frame in framing.encode(message, TOKEN)] for message in MESSAGES]


def test_every_message_is_among_them() -> None:
    assert {message.TAG for message in MESSAGES} == set(framing._TYPES)


@given(seed=st.integers(0, 2**32), secret=st.booleans())
def test_a_mutated_frame_is_read_whole_or_refused(seed: int, secret: bool) -> None:
    mutator = Mutator(RECORDED, TOKEN, seed)
    for _ in range(20):
        frames = mutator.with_secret() if secret else mutator.without_secret()
        for found in framing.read_bundle(frames, TOKEN):
            assert secret or isinstance(found, FrameError)
            if not isinstance(found, FrameError):
                # What is let in can be sent on, and comes back the same, but for what a codec rounds.
                again = [bytes(frame) for frame in framing.encode(found, TOKEN)]
                back = [bytes(frame) for frame in framing.encode(framing.decode(again, TOKEN), TOKEN)]
                kept = 1 if getattr(found, "codec", "none") != "none" else len(again)
                assert back[:kept] == again[:kept]


@given(frames=st.lists(st.binary(max_size=200), max_size=5), secret=st.booleans())
def test_random_bytes_are_refused(frames: list[bytes], secret: bool) -> None:
    if frames and secret:
        frames[0] = RECORDED[0][0][: len(TOKEN) + 6] + frames[0]
    found = list(framing.read_bundle(frames, TOKEN))
    assert len(found) == bool(frames)
    assert all(isinstance(one, FrameError) for one in found)


@given(message=st.sampled_from(MESSAGES), data=st.data())
def test_any_field_of_any_message_may_be_anything(message: m.Message, data: st.DataObject) -> None:
    """Each field alone replaced: it is refused with the field's name, or it is one of the values that it may have."""
    names = framing.field_names(message.TAG)
    if not names:
        return
    name = data.draw(st.sampled_from(names))
    value = data.draw(st.sampled_from([*NASTY, nest(40)]) | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=3))
    head, *rest = framing.encode(message, TOKEN)
    version, token, tag, fields = msgpack.unpackb(head)
    frames = [msgpack.packb([version, token, tag, {**fields, name: value}]), *rest]
    (found,) = framing.read_bundle(frames, TOKEN)
    if isinstance(found, FrameError):
        # A codec is checked with the tensor that it packs.
        assert found.where.startswith(f"{message.TAG}.{name}") or name in ("codec", "tensor")
        assert found.request == fields.get("request") or name == "request"
        assert len(str(found)) < 2000
    else:
        fits = type(getattr(found, name)) is type(getattr(message, name))
        assert fits or value is None or name in ("route", "prefix")


class Picky:
    """Refuses what isn't a stop, as somebody who knows better."""

    def __call__(self, message: m.Message) -> None:
        if not isinstance(message, m.Stop):
            raise FrameError("not now", "unasked")


def test_a_door_lets_in_what_is_right_and_says_what_was_lost() -> None:
    door = Door(TOKEN, lambda message: None)
    step, wrong, sampled = RECORDED[8], list(RECORDED[9]), RECORDED[10]
    wrong[1] = wrong[1][:-1]
    let_in = list(door.open([*step, *wrong, *sampled]))
    assert [type(one) for one in let_in] == [m.Forward, Malformed, m.Sampled]
    assert let_in[1] == Malformed("r/1")
    assert door.refusals.counts == {"field": 1}
    picky = Door(TOKEN, Picky())
    assert list(picky.open([*RECORDED[0], *RECORDED[12], *RECORDED[13]])) == [Malformed("r/1"), m.Stop()]
    assert list(picky.open([b"", *RECORDED[13]])) == []
    assert picky.refusals.counts == {"unasked": 2, "stranger": 1}


def test_refusals_are_told_at_a_limited_rate_and_counted_in_full() -> None:
    refusals = Door("t", Picky()).refusals
    lines = []
    for number in range(100_000):
        refusals.note(FrameError("a message of another job", "stranger" if number % 2 else "version"))
        line = refusals.line(number / 10_000)
        if line is not None:
            lines.append(line)
    assert len(lines) == 2
    assert "25,000 stranger, 25,000 version" in lines[1]
    assert sum(refusals.counts.values()) == 100_000
