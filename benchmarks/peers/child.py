"""A system's own process: loads a model once, then answers batches of prompts, one JSON line each.

Runs under any interpreter, so it imports the standard library alone. What a system prints goes to stderr, so that
stdout carries answers only.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Setup:
    """What to load, and within what.

    Attributes:
        folder: the checkpoint in Hugging Face's format, float32.
        gguf: the same weights as GGUF, float32.
        split: layers of each stage, for systems that split the model.
        cores: the cores that the system may use, all of its processes together.
        context: most tokens of a request.
        requests: most requests at once.
        option: a variant of the system, in its own words.
        packed: whether the GGUF has its weights packed.
    """

    folder: str
    gguf: str
    split: tuple[int, ...]
    cores: tuple[int, ...]
    context: int
    requests: int
    option: str = ""
    packed: bool = False

    def encode(self) -> str:
        """As one line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Answer:
    """Greedy tokens of one request, and when each was there: seconds since all requests were asked."""

    tokens: list[int]
    times_s: list[float]


Generate = Callable[[Sequence[Sequence[int]], int], list[Answer]]
"""Prompts and how many tokens each gets → one answer a prompt. All prompts are asked at once; no token ends one."""


Load = Callable[[Setup], AbstractContextManager[Generate]]
"""Loads and warms a model; leaving the context ends whatever was started for it."""


class Stopwatch:
    """Collects the tokens of a system that makes a step for every request at a time."""

    def __init__(self, requests: int) -> None:
        self._start = time.perf_counter()
        self._answers = [Answer([], []) for _ in range(requests)]

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def step(self, tokens: Sequence[int]) -> None:
        """One more token of every request."""
        now = self.now()
        for answer, token in zip(self._answers, tokens, strict=True):
            answer.tokens.append(int(token))
            answer.times_s.append(now)

    def answers(self) -> list[Answer]:
        """All so far."""
        return self._answers


def serve(load: Load) -> None:
    """The child's main: loads what the first argument says, then answers lines until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    setup = Setup(**{**arguments, "split": tuple(arguments["split"]), "cores": tuple(arguments["cores"])})
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(setup.cores))
    with load(setup) as generate:
        print(json.dumps("ready"), file=answers)
        for line in sys.stdin:
            asked = json.loads(line)
            answered = generate(asked["prompts"], asked["tokens"])
            print(json.dumps([[answer.tokens, answer.times_s] for answer in answered]), file=answers)
