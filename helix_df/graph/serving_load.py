"""The requests that a bound on goodput is for: a few means of them, and between what their contexts lie.

Owns these figures and how they follow from requests. Doesn't know clusters or traces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from helix_df.profiles.throughput import Requests


@dataclass(frozen=True, slots=True)
class ServingLoad:
    """Means over requests, and the least and most context of their decode steps, in tokens.

    A request of ``n`` prompt and ``m`` output tokens computes ``n`` prompt tokens, which give the first of its output,
    and ``m - 1`` decode steps. Step ``j`` of them, from 1 on, has a context of ``n + j - 1`` tokens in the KV cache.

    Attributes:
        prompt_tokens: mean of a request.
        output_tokens: likewise.
        shortest_prompt: of any request.
        least_context: of any decode step.
        mean_context: over all decode steps of all requests, so that long answers count as often as they have tokens.
        most_context: of any decode step.
    """

    prompt_tokens: float
    output_tokens: float
    shortest_prompt: float
    least_context: float
    mean_context: float
    most_context: float

    @property
    def steps(self) -> float:
        """Mean decode steps of a request."""
        return max(0.0, self.output_tokens - 1)

    @property
    def mean_share(self) -> float:
        """Where the mean context lies between the least and the most, from 0 to 1."""
        width = self.most_context - self.least_context
        return (self.mean_context - self.least_context) / width if width > 0 else 0.0

    @property
    def is_sound(self) -> bool:
        """Whether these can be figures of requests."""
        figures = (self.prompt_tokens, self.output_tokens, self.shortest_prompt, self.most_context)
        ordered = 0 <= self.least_context <= self.mean_context <= self.most_context
        return all(map(math.isfinite, figures)) and ordered and self.prompt_tokens >= 0 and self.output_tokens >= 1


def load_of_mean(requests: Requests) -> ServingLoad:
    """Requests that are all alike: the mean one."""
    prompt, output = requests.input_tokens, max(1.0, requests.output_tokens)
    longest = max(0.0, output - 2)
    return ServingLoad(prompt, output, prompt, prompt, prompt + longest / 2, prompt + longest)


def load_of(lengths: Iterable[tuple[int, int]]) -> ServingLoad:
    """Requests of these (prompt, output) tokens, each as often as it is listed; at least one.

    Raises:
        ValueError: for none.
    """
    pairs = list(lengths)
    if not pairs:
        raise ValueError("no requests")
    count, steps = len(pairs), sum(output - 1 for _, output in pairs)
    contexts = sum((output - 1) * (prompt + (output - 2) / 2) for prompt, output in pairs)
    decoding = [(prompt, output) for prompt, output in pairs if output > 1] or pairs
    least = min(prompt for prompt, _ in decoding)
    return ServingLoad(
        prompt_tokens=sum(prompt for prompt, _ in pairs) / count,
        output_tokens=sum(output for _, output in pairs) / count,
        shortest_prompt=min(prompt for prompt, _ in pairs),
        least_context=least,
        mean_context=contexts / steps if steps else least,
        most_context=max(prompt + max(0, output - 2) for prompt, output in decoding),
    )
