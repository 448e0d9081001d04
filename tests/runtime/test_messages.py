"""The wire format: every message comes back as it went, and nothing else is believed."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from helix_df.errors import ProtocolError
from helix_df.graph.flow import Hop
from helix_df.layers import LayerRange
from helix_df.rules.micro_batches import MicroBatches
from helix_df.runtime.requests import EngineHealth, Prefix, StageSpeed, TopLogprobs
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire import framing, message_kinds
from helix_df.runtime.wire import messages as m

ROUTE = m.Route(
    (Hop("a", LayerRange(0, 2)), Hop("b", LayerRange(2, 4))),
    ("tcp://h:1", "tcp://h:2"),
    SamplingParams(temperature=0.5, top_p=0.9, top_k=3, seed=7, logprobs=2),
    MicroBatches(2, 5),
    prefix=Prefix("q/3", 32),
)
PLAIN = [
    m.Hello("a", "tcp://127.0.0.1:5", 12),
    m.Welcome("a", LayerRange(0, 3), 8, 1024, {"model": {"source": "random:tiny"}}),
    m.JobChanged({"model": {"source": "random:tiny"}}, 12),
    m.Loading("a", "compiling", 0.5, "8 x 1"),
    m.Ready("a", 1024),
    m.Ready("a", 1024, StageSpeed(16, 0.25, 0.125)),
    m.Failed("a", "no weights"),
    m.Probe(3, ("tcp://h:1", "tcp://h:2"), b"weight"),
    m.Heartbeat("a"),
    m.Heartbeat("a", EngineHealth(3, 40, 1024), 1 << 31),
    m.Sampled("r/1", 17, 42, None),
    m.Sampled("r/1", 17, 42, TopLogprobs(-0.5, ((42, -0.5), (1, -2.0)))),
    m.Rejected("r/1", "a", "kv_full"),
    m.Release("r/1"),
    m.Release("r/1", 48),
    m.Stop(),
]


@pytest.mark.parametrize("message", PLAIN, ids=lambda message: message.TAG)
def test_plain_messages_round_trip(message: m.Message) -> None:
    assert framing.decode([bytes(frame) for frame in framing.encode(message, "t")], "t") == message


@pytest.mark.parametrize("dtype", sorted(message_kinds.TENSOR_DTYPES))
def test_tensors_round_trip_without_a_copy(dtype: str) -> None:
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    tensor = np.arange(6).reshape(2, 3).astype(kind)
    frames = framing.encode(m.Forward("r/1", 3, True, ROUTE, tensor), "t")
    assert np.shares_memory(np.frombuffer(frames[1], np.uint8), tensor)
    back = framing.decode(frames, "t")
    assert isinstance(back, m.Forward)
    assert (back.request, back.position, back.wants_token, back.route) == ("r/1", 3, True, ROUTE)
    assert back.tensor.dtype == tensor.dtype
    assert (back.tensor == tensor).all()
    assert np.shares_memory(back.tensor, tensor)


def packed(*parts: object) -> list[bytes]:
    return [msgpack.packb(list(parts))]


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ([b"\xff\x00garbage"], "not a helix-df message"),
        (packed(framing.VERSION, "t"), "not a helix-df message"),
        (packed(99, "t", "stop", {}), "another protocol version"),
        (packed(framing.VERSION, "other", "stop", {}), "another job"),
        (packed(framing.VERSION, "t", "dance", {}), "unknown message"),
        (packed(framing.VERSION, "t", "ready", {"node": "a"}), "wrong fields"),
        (
            packed(
                framing.VERSION,
                "t",
                "welcome",
                {"node": "a", "layers": [3, 1], "num_layers": 1, "kv_tokens": 1, "job": {}},
            ),
            "wrong",
        ),
        (packed(framing.VERSION, "t", "forward", {"tensor": ["object", [1]]}), "wrong fields"),
        ([*packed(framing.VERSION, "t", "forward", {"tensor": ["float32", [9]]}), b"1234"], "wrong fields"),
    ],
)
def test_what_is_no_message_is_refused_in_words(frames: list[bytes], complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        framing.decode(frames, "t")


def test_what_leaves_together_arrives_together_and_in_order() -> None:
    first = m.Forward("r/1", 3, True, ROUTE, np.arange(4, dtype=np.int32))
    second = m.Forward("s/1", 0, False, None, np.ones((2, 3), np.float32))
    sends = [
        m.Send("here", m.Release("q/1")),
        m.Send("here", first),
        m.Send("there", m.Stop()),
        m.Send("here", second),
    ]
    here, there = framing.bundles(sends)
    assert (here.address, here.bulk, there.address, there.bulk) == ("here", False, "there", False)
    frames = framing.encode_bundle(here.messages, "t")
    released, one, two = framing.decode_bundle([bytes(frame) for frame in frames], "t")
    assert released == m.Release("q/1")
    assert isinstance(one, m.Forward)
    assert isinstance(two, m.Forward)
    assert (one.request, one.tensor.tolist(), one.route) == ("r/1", [0, 1, 2, 3], ROUTE)
    assert (two.request, two.tensor.shape, two.route) == ("s/1", (2, 3), None)
    assert framing.decode_bundle(framing.encode_bundle(there.messages, "t"), "t") == [m.Stop()]
    with pytest.raises(ProtocolError, match="another job"):
        framing.decode_bundle(frames, "u")


def test_bulk_goes_by_itself_behind_all_else() -> None:
    """Decode steps of a batch stay together, and don't wait for the prompts that were computed beside them."""
    pieces = [m.Forward(f"p{at}/1", 0, False, None, np.ones((2, 3), np.float32)) for at in range(2)]
    steps = [m.Forward(f"d{at}/1", 9, True, None, np.ones((1, 3), np.float32)) for at in range(2)]
    sends = [m.Send("here", pieces[0], bulk=True), m.Send("here", steps[0])]
    sends += [m.Send("there", pieces[1], bulk=True), m.Send("here", steps[1])]
    found = [(one.address, [*map(id, one.messages)], one.bulk) for one in framing.bundles(sends)]
    assert found == [
        ("here", [id(steps[0]), id(steps[1])], False),
        ("here", [id(pieces[0])], True),
        ("there", [id(pieces[1])], True),
    ]
