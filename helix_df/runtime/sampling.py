"""How a request wants its tokens drawn. Plain data; drawing them is ``sampler``'s work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from helix_df.errors import RequestError
from helix_df.runtime.constraints import Constraint

MAX_LOGPROBS = 20
_SEEDS = 2**32


MOST_BIASES = 1024
MOST_BAD_WORDS = 1024
LONGEST_BAD_WORD = 64
"""Tokens."""

MOST_HELD_BACK = 1024


@dataclass(frozen=True, slots=True)
class Shaping:
    """Changes of the model's distribution, in this order: ``logit_bias`` is added, tokens that must not come are
    removed, then penalties; after temperature what is less likely than ``min_p`` of the likeliest is removed.

    The repetition penalty is on tokens of prompt and answer, the other two are on those of the answer.
    Until it has ``min_tokens`` tokens, an answer has none of ``held_back``, which would end it. It never has the
    sequences ``bad_words``: the last token of one isn't drawn behind the others.

    Raises:
        RequestError: for a value out of range.
    """

    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    held_back: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        _require(0 <= self.min_p <= 1, "min_p", "0 to 1", self)
        _require(-2 <= self.presence_penalty <= 2, "presence_penalty", "-2 to 2", self)
        _require(-2 <= self.frequency_penalty <= 2, "frequency_penalty", "-2 to 2", self)
        _require(0 < self.repetition_penalty <= 100, "repetition_penalty", "more than 0, at most 100", self)
        within = all(-100 <= bias <= 100 for _, bias in self.logit_bias)
        once = len({token for token, _ in self.logit_bias}) == len(self.logit_bias) <= MOST_BIASES
        _require(within and once, "logit_bias", f"-100 to 100 for each of {MOST_BIASES} tokens at most", self)
        _require(0 <= self.min_tokens < 2**31, "min_tokens", "0 or more", self)
        _require(len(self.held_back) <= MOST_HELD_BACK, "stop_token_ids", f"{MOST_HELD_BACK} at most", self)
        short = all(0 < len(word) <= LONGEST_BAD_WORD for word in self.bad_words)
        expected = f"{MOST_BAD_WORDS} of {LONGEST_BAD_WORD} tokens at most"
        _require(short and len(self.bad_words) <= MOST_BAD_WORDS, "bad_words", expected, self)

    @property
    def counts(self) -> bool:
        """Whether it matters how often a token was drawn."""
        return (self.presence_penalty, self.frequency_penalty, self.repetition_penalty) != (0, 0, 1)

    @property
    def needs_history(self) -> bool:
        """Whether drawing a token takes the tokens before it."""
        return self.counts or self.min_tokens > 0 or bool(self.bad_words)

    @property
    def edits(self) -> bool:
        """Whether logits are changed before temperature."""
        return self.needs_history or bool(self.logit_bias)


Pooling = Literal["mean", "last"]
"""What is told of the hidden states of a prompt's tokens behind the final norm: their mean, or the last one's."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Temperature, nucleus and top-k sampling, in this order: scale, keep the k best, keep the nucleus, draw.

    ``temperature`` 0 is greedy. ``top_p`` 1 and ``top_k`` 0 keep everything. ``logprobs`` asks for the drawn token's
    log-probability and those of that many best tokens (None: neither); they are of the model's own distribution,
    before temperature. ``constraint`` says what the whole answer has to look like: nothing else is ever drawn.
    ``prompt_logprobs`` asks for the prompt's tokens as ``logprobs`` does for those that are drawn.
    ``shaping`` changes the model's distribution, which plain requests take as it is. ``pooling`` asks for the prompt's
    hidden states, as ``Pooling`` says, rather than for tokens.

    Raises:
        RequestError: for a value out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    logprobs: int | None = None
    constraint: Constraint | None = None
    shaping: Shaping | None = None
    prompt_logprobs: int | None = None
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        _require(math.isfinite(self.temperature) and 0 <= self.temperature <= 100, "temperature", "0 to 100", self)
        _require(0 < self.top_p <= 1, "top_p", "more than 0, at most 1", self)
        _require(0 <= self.top_k < 2**31, "top_k", "0 (everything) or more", self)
        _require(0 <= self.seed < _SEEDS, "seed", "0 to 2**32 - 1", self)
        _require(self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS, "logprobs", f"0 to {MAX_LOGPROBS}", self)
        scored = self.prompt_logprobs
        _require(scored is None or 0 <= scored <= MAX_LOGPROBS, "prompt_logprobs", f"0 to {MAX_LOGPROBS}", self)

    @property
    def needs_history(self) -> bool:
        """Whether drawing a token takes the tokens before it."""
        shaped = self.shaping is not None and self.shaping.needs_history
        return shaped or self.constraint is not None or self.prompt_logprobs is not None

    @property
    def is_plain(self) -> bool:
        """Whether tokens are drawn from the model's own logits as they are."""
        return self.constraint is None and self.shaping is None


def plain_params(params: SamplingParams) -> dict[str, Any]:
    """As logs and journals keep it."""
    return asdict(params)


def read_params(plain: Mapping[str, Any]) -> SamplingParams:
    """What ``plain_params`` gave; what isn't named is as by default.

    Raises:
        RequestError: for a value out of range.
        TypeError: for a field that there isn't.
    """
    constraint = plain.get("constraint")
    shaping = plain.get("shaping")
    return SamplingParams(
        **{
            **plain,
            "constraint": None if constraint is None else Constraint(**constraint),
            "shaping": None if shaping is None else _read_shaping(shaping),
        }
    )


def _read_shaping(plain: Mapping[str, Any]) -> Shaping:
    biases = tuple((token, bias) for token, bias in plain["logit_bias"])
    lists = {"held_back": tuple(plain["held_back"]), "bad_words": tuple(map(tuple, plain["bad_words"]))}
    return Shaping(**{**plain, "logit_bias": biases, **lists})


def _require(valid: bool, name: str, expected: str, params: SamplingParams | Shaping) -> None:
    if not valid:
        found = str(getattr(params, name, "more"))[:100]
        raise RequestError(f"{name} is out of range", param=name, found=found, expected=expected)
