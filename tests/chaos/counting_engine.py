"""An engine that computes no model, and whose answers still depend on every layer and every token of a request.

For trials of the runtime with more workers than a machine can compute for. A token follows from all tokens before it
and from all layers, as a model's does, so an answer shows whether a route, a KV cache or a message went wrong. What it
should be takes no engine (``next_token``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from helix_df.layers import LayerRange
from helix_df.runtime.requests import EngineHealth
from helix_df.runtime.worker.steps import Step, StepResult

_MODULUS = 65_521
"""A prime below 2**16, so that sums are exact as float32."""

_FIRST, _LETTERS = ord("a"), 26
"""Tokens are lower-case letters, as bytes."""

_TOKEN, _SUM, _LAYERS = 0, 1, 2
"""What a row of hidden states holds: its token, what the layers so far made of the request, and how many they were."""


def _after(sum_so_far: int, position: int, token: int) -> int:
    return (sum_so_far + (position + 1) * (token + 1)) % _MODULUS


def next_token(tokens: Sequence[int], num_layers: int) -> int:
    """What follows these tokens in a model of so many layers."""
    total = 0
    for position, token in enumerate(tokens):
        total = _after(total, position, token)
    return _FIRST + num_layers * total % _MODULUS % _LETTERS


class CountingStage:
    """The layers of one worker. What it keeps of a request, a sum a token, stands for its KV cache."""

    compilations = 0

    def __init__(self, layers: LayerRange, num_layers: int, hidden_size: int, kv_tokens: int) -> None:
        self._layers = layers
        self._num_layers = num_layers
        self._hidden_size = hidden_size
        self._kv_tokens = kv_tokens
        self._sums: defaultdict[str, list[int]] = defaultdict(list)

    @property
    def kv_tokens(self) -> int:
        """See ``StepEngine``."""
        return self._kv_tokens

    @property
    def health(self) -> EngineHealth:
        """See ``StepEngine``."""
        return EngineHealth(kv_held_tokens=sum(map(len, list(self._sums.values()))))

    def run(self, steps: Sequence[Step]) -> Sequence[StepResult]:
        """See ``StepEngine``."""
        return [self._run(step) for step in steps]

    def _run(self, step: Step) -> StepResult:
        hidden = self._embedded(step)
        sums = self._sums[step.request]
        del sums[step.position :]
        if len(sums) != step.position:
            raise AssertionError(f"{step.request} at {step.position} with KV cache of {len(sums)} tokens")
        for row in hidden:
            sums.append(_after(sums[-1] if sums else 0, len(sums), int(row[_TOKEN])))
            row[_SUM] = (int(row[_SUM]) + len(step.layers) * sums[-1]) % _MODULUS
            row[_LAYERS] += len(step.layers)
        if step.layers.stop < self._num_layers:
            return StepResult(step.request, hidden=hidden)
        last = hidden[-1]
        whole = int(last[_LAYERS]) == self._num_layers
        return StepResult(step.request, token=_FIRST + int(last[_SUM]) % _LETTERS if whole else 0)

    def _embedded(self, step: Step) -> np.ndarray:
        if step.hidden is not None:
            return np.array(step.hidden, np.float32)
        hidden = np.zeros((len(step.inputs), self._hidden_size), np.float32)
        hidden[:, _TOKEN] = step.inputs
        return hidden

    def release(self, request: str) -> None:
        """See ``StepEngine``."""
        self._sums.pop(request, None)

    def fork(self, parent: str, child: str, tokens: int) -> None:
        """See ``StepEngine``."""
        self._sums[child] = self._sums[parent][:tokens]

    def trim(self, request: str, tokens: int) -> None:
        """See ``StepEngine``."""
        del self._sums[request][tokens:]

    def warm_up(self) -> Iterator[object]:
        """See ``StepEngine``."""
        return iter(())

    def compile_next(self) -> None:
        """See ``StepEngine``: there is nothing to compile."""
