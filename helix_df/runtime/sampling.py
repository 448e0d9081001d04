"""How a request wants its tokens drawn. Plain data; drawing them is ``sampler``'s work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from helix_df.errors import RequestError
from helix_df.runtime.constraints import Constraint

MAX_LOGPROBS = 20
_SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Temperature, nucleus and top-k sampling, in this order: scale, keep the k best, keep the nucleus, draw.

    ``temperature`` 0 is greedy. ``top_p`` 1 and ``top_k`` 0 keep everything. ``logprobs`` asks for the drawn token's
    log-probability and those of that many best tokens (None: neither); they are of the model's own distribution,
    before temperature. ``constraint`` says what the whole answer has to look like: nothing else is ever drawn.

    Raises:
        RequestError: for a value out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    logprobs: int | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        _require(math.isfinite(self.temperature) and 0 <= self.temperature <= 100, "temperature", "0 to 100", self)
        _require(0 < self.top_p <= 1, "top_p", "more than 0, at most 1", self)
        _require(0 <= self.top_k < 2**31, "top_k", "0 (everything) or more", self)
        _require(0 <= self.seed < _SEEDS, "seed", "0 to 2**32 - 1", self)
        _require(self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS, "logprobs", f"0 to {MAX_LOGPROBS}", self)

    @property
    def needs_history(self) -> bool:
        """Whether drawing a token takes the tokens before it."""
        return self.constraint is not None


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
    return SamplingParams(**{**plain, "constraint": None if constraint is None else Constraint(**constraint)})


def _require(valid: bool, name: str, expected: str, params: SamplingParams) -> None:
    if not valid:
        raise RequestError(f"{name} is out of range", param=name, found=str(getattr(params, name)), expected=expected)
