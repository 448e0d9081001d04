"""What each field of each message may be: types, ranges and lengths, declared for ``framing`` to check.

Owns the limits. Doesn't know bytes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, get_args

from helix_df.codecs import Codec
from helix_df.graph.flow import Hop
from helix_df.layers import LayerRange
from helix_df.rules.measured_links import LinkSeen
from helix_df.rules.micro_batches import NO_LIMIT, MicroBatches
from helix_df.rules.speculation import MOST_DRAFTS
from helix_df.runtime.constraints import MOST_CONSTRAINT_BYTES, Constraint, ConstraintKind
from helix_df.runtime.requests import (
    DrawnToken,
    EngineHealth,
    History,
    Prefix,
    ScoredToken,
    StageSpeed,
    TopLogprobs,
)
from helix_df.runtime.sampling import (
    LONGEST_BAD_WORD,
    MAX_LOGPROBS,
    MOST_BAD_WORDS,
    MOST_BIASES,
    MOST_HELD_BACK,
    Pooling,
    SamplingParams,
    Shaping,
)
from helix_df.runtime.tracing.spans import HopSum
from helix_df.runtime.wire.fields import (
    WRONG_FIELDS,
    FrameError,
    Kind,
    document,
    flag,
    many,
    number,
    one_of,
    optional,
    record,
    row,
    text,
    token_ids,
    whole,
)
from helix_df.runtime.wire.messages import (
    Departed,
    Failed,
    FilePart,
    FileWanted,
    Forward,
    Heartbeat,
    Hello,
    HopTimes,
    JobChanged,
    Loading,
    Locate,
    Located,
    Probe,
    PromptPooled,
    PromptScored,
    Ready,
    Rejected,
    RejectedReason,
    Release,
    Route,
    Sampled,
    Stop,
    Welcome,
)

TENSOR_DTYPES = frozenset({"int32", "float32", "float16", "bfloat16"})

MOST_NAME = 512
"""Characters of the name of a node or of an attempt at a request."""

MOST_WORDS = 16_384
"""Characters of what a worker says in words."""

MOST_HOPS = 4096
MOST_LAYERS = 100_000
MOST_UNREACHABLE = 64
MOST_LINKS = 64
"""Of those to a worker that it tells of."""

MOST_TOKENS = 2**31 - 1
MOST_HEAD_BYTES = 2**18
"""Of a message without its tensor; those that carry a job, or the tokens of a request, may have more."""

MOST_WELCOME_BYTES = 2**22

MOST_SECONDS = 1e12
"""On a clock, or summed up over the steps of a request."""

PROBE_BYTES = 2**22
"""Of the largest payload that is ever sent."""


def frame_limit(hidden_size: int, max_prefill_tokens: int) -> int:
    """Bytes of the largest frame that a worker is ever sent: a piece of a prompt as hidden states, at 4 bytes a number
    if not packed, or whatever else there is."""
    return max(4 * hidden_size * max_prefill_tokens, MOST_WELCOME_BYTES, PROBE_BYTES) + MOST_HEAD_BYTES


_NAME = text(MOST_NAME)
_WORDS = text(MOST_WORDS, least=0)
_ADDRESS = text(MOST_NAME)
_FILE = text(MOST_NAME, least=0)
_TOKEN = whole(0, MOST_TOKENS)
_LAYER = whole(0, MOST_LAYERS)
_SECONDS = number(1e-7, 1e6)
_CLOCK = number(0, MOST_SECONDS)
_SUM = number(0, MOST_SECONDS)
_LEAD = number(-MOST_SECONDS, MOST_SECONDS)
_DTYPE = one_of(*sorted(TENSOR_DTYPES))


def _route(
    hops: tuple[Hop, ...],
    addresses: tuple[str, ...],
    sampling: SamplingParams,
    micro_batches: MicroBatches,
    prefix: Prefix | None,
    history: History | None,
    traced: bool,
    checkpoint: int,
) -> Route:
    """A route that leads somewhere: layers without a gap from the first on, an address for each hop, no node twice; and
    with what drawing takes."""
    if len(hops) != len(addresses):
        raise FrameError(WRONG_FIELDS, found=f"{len(addresses)} addresses for {len(hops)} hops")
    if len({hop.node for hop in hops}) != len(hops):
        raise FrameError(WRONG_FIELDS, where="hops", found="a node that comes twice")
    if hops[0].layers.start != 0 or any(a.layers.stop != b.layers.start for a, b in pairwise(hops)):
        raise FrameError(WRONG_FIELDS, where="hops", expected="layers without a gap, from the first")
    if sampling.needs_history and history is None:
        raise FrameError(WRONG_FIELDS, where="history", found="none", expected="the tokens so far")
    return Route(hops, addresses, sampling, micro_batches, prefix, history, traced, checkpoint)


def _history(tokens: tuple[int, ...], prompt: int) -> History:
    if prompt > len(tokens):
        raise FrameError(WRONG_FIELDS, where="prompt", found=str(prompt), expected=f"at most {len(tokens)}")
    return History(tokens, prompt)


def _hop(node: str, start: int, stop: int) -> Hop:
    return Hop(node, LayerRange(start, stop))


_SHAPING = row(
    Shaping,
    min_p=number(),
    presence_penalty=number(),
    frequency_penalty=number(),
    repetition_penalty=number(),
    logit_bias=many(row(lambda token, bias: (token, bias), token=_TOKEN, bias=number()), MOST_BIASES),
    min_tokens=whole(),
    held_back=many(_TOKEN, MOST_HELD_BACK),
    bad_words=many(many(_TOKEN, LONGEST_BAD_WORD, least=1), MOST_BAD_WORDS),
)
_ROUTE = record(
    _route,
    hops=many(row(_hop, node=_NAME, start=_LAYER, stop=_LAYER), MOST_HOPS, least=1),
    addresses=many(_ADDRESS, MOST_HOPS),
    # Their ranges are for SamplingParams to say.
    sampling=record(
        SamplingParams,
        temperature=number(),
        top_p=number(),
        top_k=whole(),
        seed=whole(),
        logprobs=optional(whole()),
        constraint=optional(
            row(Constraint, kind=one_of(*get_args(ConstraintKind)), text=text(MOST_CONSTRAINT_BYTES, least=0))
        ),
        shaping=optional(_SHAPING),
        prompt_logprobs=optional(whole()),
        pooling=optional(one_of(*get_args(Pooling))),
    ),
    micro_batches=row(MicroBatches, shares=whole(1, NO_LIMIT), most=whole(1, NO_LIMIT)),
    prefix=optional(row(Prefix, parent=_NAME, tokens=whole(1, MOST_TOKENS))),
    history=optional(row(_history, tokens=token_ids, prompt=whole(1, MOST_TOKENS))),
    traced=flag,
    checkpoint=whole(0, MOST_TOKENS),
)
_TENSOR = row(lambda dtype, shape: (dtype, shape), dtype=_DTYPE, shape=many(whole(1, MOST_TOKENS), 2, least=1))
_TOP = many(row(lambda token, logprob: (token, logprob), token=_TOKEN, logprob=number()), MAX_LOGPROBS)

_LOGPROBS = row(TopLogprobs, chosen=number(), top=_TOP)

MOST_SCORES = 512
"""Of one message, with the likeliest tokens of each."""

_SCORE = row(ScoredToken, logprob=number(), rank=whole(1, MOST_TOKENS), top=_TOP)

_HOP_SUM = row(HopSum, steps=whole(0, MOST_TOKENS), arrived_s=_SUM, waited_s=_SUM, computed_s=_SUM)

_JOB = document(depth=12, elements=500_000)

KINDS: dict[type[Any], dict[str, Kind[Any]]] = {
    Hello: {"node": _NAME, "address": _ADDRESS, "life": whole()},
    Welcome: {
        "node": _NAME,
        "layers": row(LayerRange, start=_LAYER, stop=_LAYER),
        "num_layers": whole(1, MOST_LAYERS),
        "kv_tokens": whole(),
        "job": _JOB,
        "life": whole(),
        "kv_window": whole(0, MOST_TOKENS),
    },
    JobChanged: {"job": _JOB, "life": whole()},
    Loading: {"node": _NAME, "state": one_of("loading", "compiling"), "progress": number(0, 1), "detail": _WORDS},
    Ready: {
        "node": _NAME,
        "kv_tokens": whole(1),
        "speed": optional(row(StageSpeed, prefill_tokens=whole(1, MOST_TOKENS), prefill_s=_SECONDS, decode_s=_SECONDS)),
        "life": whole(),
    },
    Failed: {"node": _NAME, "reason": _WORDS, "life": whole()},
    Heartbeat: {
        "node": _NAME,
        "health": row(
            EngineHealth,
            cold_shapes=whole(),
            compiled_programs=whole(),
            kv_held_tokens=whole(),
            busy_s=number(0.0),
            planned_busy_s=number(0.0),
            attention=_WORDS,
        ),
        "memory_bytes": whole(),
        "illegal_events": whole(),
        "life": whole(),
        "unreachable": many(_ADDRESS, MOST_UNREACHABLE),
        "clock_s": _CLOCK,
        "lead_s": optional(_LEAD),
        "links": many(
            row(
                LinkSeen,
                tail=_NAME,
                lead_s=_LEAD,
                lead_bytes=whole(),
                bundles=whole(),
                large_bytes=whole(),
                crossing_s=_SUM,
            ),
            MOST_LINKS,
        ),
    },
    Forward: {
        "request": _NAME,
        "position": whole(0, MOST_TOKENS),
        "wants_token": flag,
        "route": optional(_ROUTE),
        "tensor": _TENSOR,
        "codec": one_of(*get_args(Codec)),
        "drafts": many(_TOKEN, MOST_DRAFTS),
    },
    Sampled: {
        "request": _NAME,
        "position": whole(0, MOST_TOKENS),
        "token": _TOKEN,
        "logprobs": optional(_LOGPROBS),
        "more": many(row(DrawnToken, token=_TOKEN, logprobs=optional(_LOGPROBS)), MOST_DRAFTS),
    },
    Rejected: {"request": _NAME, "node": _NAME, "reason": one_of(*get_args(RejectedReason))},
    Release: {"request": _NAME, "keep": whole(0, MOST_TOKENS)},
    Probe: {"number": whole(), "path": many(_ADDRESS, 64), "payload": whole(0, PROBE_BYTES)},
    Stop: {"life": whole()},
    Locate: {"request": _NAME},
    Located: {"request": _NAME, "node": _NAME, "computed": whole(0, MOST_TOKENS), "due": whole(0, MOST_TOKENS)},
    FileWanted: {"node": _NAME, "name": _FILE, "start": whole(), "stop": whole(), "life": whole()},
    FilePart: {
        "name": _FILE,
        "start": whole(),
        "version": _FILE,
        "digest": _FILE,
        "payload": whole(0, PROBE_BYTES),
        "life": whole(),
    },
    PromptScored: {"request": _NAME, "position": whole(1, MOST_TOKENS), "scores": many(_SCORE, MOST_SCORES, least=1)},
    PromptPooled: {
        "request": _NAME,
        "position": whole(0, MOST_TOKENS),
        "tokens": whole(1, MOST_TOKENS),
        "payload": whole(4, PROBE_BYTES),
    },
    Departed: {"node": _NAME, "clock_s": _CLOCK},
    HopTimes: {"attempt": _NAME, "node": _NAME, "origin_s": _CLOCK, "prefill": _HOP_SUM, "decode": _HOP_SUM},
}
"""What each field of each message may be. Of a tensor and a payload it is what the head says; they follow."""
