"""What is measured of a system, and the figures that come of it.

Doesn't know what the systems are, nor how figures are shown.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.peers.child import Answer
from benchmarks.peers.system import Running

PROMPT = 16
ITL_REQUESTS = 8
LONG_PROMPTS = (128, 1024)


@dataclass(slots=True)
class Figures:
    """One value a round of each measure.

    Attributes:
        tokens_per_s: of decoding, by concurrent requests.
        ttft_s: of a request alone, by prompt length.
        itl_p50_s: between two tokens of a request, with ``ITL_REQUESTS`` of them.
        itl_p95_s: the same.
    """

    tokens_per_s: dict[int, list[float]] = field(default_factory=dict)
    ttft_s: dict[int, list[float]] = field(default_factory=dict)
    itl_p50_s: list[float] = field(default_factory=list)
    itl_p95_s: list[float] = field(default_factory=list)


def prompts(name: str, requests: int, length: int, vocabulary: int) -> list[list[int]]:
    """Made-up prompts, the same for every system; no two share a beginning, so that no cache of them helps."""
    return [
        [random.Random(f"{name}/{index}/{at}").randrange(100, vocabulary) for at in range(length)]
        for index in range(requests)
    ]


def take_turn(running: Running, figures: Figures, name: str, tokens: int, vocabulary: int) -> None:
    """One value of every measure; ``name`` tells the prompts of this turn from others."""
    for requests in running.system.requests:
        answers = running.ask(prompts(f"{name}-{requests}", requests, PROMPT, vocabulary), tokens)
        rate, gaps_s = decoding(answers)
        figures.tokens_per_s.setdefault(requests, []).append(rate)
        if requests == ITL_REQUESTS:
            figures.itl_p50_s.append(statistics.median(gaps_s))
            figures.itl_p95_s.append(statistics.quantiles(gaps_s, n=20, method="inclusive")[-1])
    if len(running.system.requests) > 1:
        for length in LONG_PROMPTS:
            answer = running.ask(prompts(f"{name}-long", 1, length, vocabulary), 1)[0]
            figures.ttft_s.setdefault(length, []).append(answer.times_s[0])
    time.sleep(running.system.settle_s)


def decoding(answers: Sequence[Answer]) -> tuple[float, list[float]]:
    """Tokens/s and the gaps between tokens while every request decodes: from the last first token to the first last.

    A rate for each request, added up: tokens come in bursts, and a window's edge would cut one.
    """
    start = max(answer.times_s[0] for answer in answers)
    stop = min(answer.times_s[-1] for answer in answers)
    rate, gaps_s = 0.0, []
    for answer in answers:
        inside = [at for at in answer.times_s if start <= at <= stop]
        if len(inside) < 3:
            raise RuntimeError("too few tokens while all requests decode: ask for more")
        rate += (len(inside) - 1) / (inside[-1] - inside[0])
        gaps_s += [after - before for before, after in itertools.pairwise(inside)]
    return rate, gaps_s


def shared_start(one: Iterable[int], other: Iterable[int]) -> int:
    """How many tokens two answers begin with in common."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
