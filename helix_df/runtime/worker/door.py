"""What a worker knows of the messages that can be meant for it: its node, its layers, its model, its job's addresses.

The check of its ``Door``. Doesn't know which requests are here but by ``first_layer``, nor what becomes of a message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.runtime.sampling import Shaping
from helix_df.runtime.wire.fields import FrameError, shown
from helix_df.runtime.wire.hosts import JobHosts
from helix_df.runtime.wire.messages import (
    Departed,
    Failed,
    Forward,
    Heartbeat,
    JobChanged,
    Locate,
    Message,
    Probe,
    Release,
    Route,
    Stop,
    Welcome,
)
from helix_df.runtime.wire.packing import all_finite, name_of
from helix_df.spec.job import Job


def check_greeting(message: Message, node: str) -> None:
    """Check a message to a worker that has no layers yet, which only waits for a welcome.

    Raises:
        FrameError: for a welcome of another node, or with a job that isn't one.
    """
    if not isinstance(message, Welcome):
        return
    _expect(message.node == node, "welcome.node", message.node, node)
    _expect(message.layers.stop <= message.num_layers, "welcome.layers", message.layers, f"of {message.num_layers}")
    _check_job(message, node)


def _check_job(message: Welcome | JobChanged, node: str) -> None:
    where = f"{message.TAG}.job"
    try:
        job = Job.model_validate(message.job)
    except ValueError as error:
        raise FrameError("a job that isn't valid", "untrue", where=where, found=str(error)[:200]) from error
    _expect(node in job.nodes, f"{where}.nodes", sorted(job.nodes)[:8], f"{node} among them")


@dataclass(frozen=True, slots=True)
class StageCheck:
    """The check of a worker that holds layers.

    ``first_layer`` says where the hop of an attempt that is here begins, None for one that isn't.
    """

    welcome: Welcome
    job: Job
    geometry: ModelGeometry
    hosts: JobHosts
    first_layer: Callable[[str], int | None]
    page_tokens: int = PAGE_TOKENS
    _context: int = field(init=False)

    def __post_init__(self) -> None:
        longest = self.geometry.context_length
        object.__setattr__(self, "_context", min(self.job.model.context or longest, longest))

    def __call__(self, message: Message) -> None:
        """Check a message.

        Raises:
            FrameError: when it can't be true.
        """
        match message:
            case Forward():
                self._forward(message)
            case Probe():
                for address in message.path:
                    self.hosts.check(address, "probe.path")
            case Welcome():
                check_greeting(message, self.welcome.node)
            case JobChanged():
                _check_job(message, self.welcome.node)
            case Release():
                _expect(message.keep % self.page_tokens == 0, "release.keep", message.keep, "whole pages")
            case Departed():
                _expect(message.node in self.job.nodes, "departed.node", message.node, "a node of the job")
            case Heartbeat() | Failed() | Stop() | Locate():
                return
            case _:
                raise FrameError("a message that isn't for a worker", "unasked", found=message.TAG)

    def _forward(self, message: Forward) -> None:
        start = self.first_layer(message.request) if message.route is None else self._route(message, message.route)
        if message.drafts:
            self._drafts(message)
        if message.position + len(message.tensor) > self._context:
            raise _untrue("forward.position", message.position, f"a context of {self._context} tokens")
        if start == 0:
            self._ids(message.tensor)
        elif start is not None:
            self._hidden(message.tensor)

    def _drafts(self, message: Forward) -> None:
        """Check a decode step that carries drafted tokens behind its own."""
        found, vocabulary = len(message.tensor), self.geometry.vocab_size
        _expect(message.wants_token and message.route is None, "forward.drafts", message.drafts, "a decode step's")
        _expect(found == 1 + len(message.drafts), "forward.tensor", found, f"{1 + len(message.drafts)} tokens")
        _expect(max(message.drafts) < vocabulary, "forward.drafts", max(message.drafts), f"0 to {vocabulary - 1}")

    def _route(self, message: Forward, route: Route) -> int:
        """Check where a request goes, and say where its hop here begins."""
        here = [hop.layers for hop in route.hops if hop.node == self.welcome.node]
        _expect(len(here) == 1, "forward.route.hops", shown([hop.node for hop in route.hops]), self.welcome.node)
        _expect(self.welcome.layers.covers(here[0]), "forward.route.hops", here[0], f"of {self.welcome.layers}")
        end = route.hops[-1].layers.stop
        _expect(end == self.welcome.num_layers, "forward.route.hops", end, f"{self.welcome.num_layers} at the end")
        for hop, address in zip(route.hops, route.addresses, strict=True):
            _expect(hop.node in self.job.nodes, "forward.route.hops", hop.node, "a node of the job")
            self.hosts.check(address, "forward.route.addresses")
        begun = 0 if route.prefix is None else route.prefix.tokens
        _expect(message.position == begun, "forward.position", message.position, f"{begun}, where it begins")
        _expect(begun % self.page_tokens == 0, "forward.route.prefix", begun, "whole pages")
        kept = route.checkpoint
        fits = not kept or (begun < kept <= self._context and kept % self.page_tokens == 0)
        _expect(fits, "forward.route.checkpoint", kept, f"0, or whole pages behind {begun} tokens")
        if route.history is not None:
            tokens, stop = route.history.tokens, message.position + len(message.tensor)
            fits = stop <= len(tokens) <= self._context
            _expect(fits, "forward.route.history", len(tokens), f"{stop} tokens or more")
            self._ids(np.array(tokens, np.int32))
        if route.sampling.shaping is not None:
            self._tokens(route.sampling.shaping)
        return here[0].start

    def _tokens(self, shaping: Shaping) -> None:
        """Check the tokens that a request's draws are shaped by."""
        words = (token for word in shaping.bad_words for token in word)
        highest = max((*shaping.held_back, *(token for token, _ in shaping.logit_bias), *words), default=0)
        _expect(highest < self.geometry.vocab_size, "forward.route.sampling.shaping", highest, "ids of the model")

    def _ids(self, tensor: np.ndarray) -> None:
        if tensor.ndim != 1 or tensor.dtype != np.int32:
            raise _untrue("forward.tensor", _kind_of(tensor), "token ids, int32 [T]")
        # A negative one is a large one here, so that one look suffices.
        if int(tensor.view(np.uint32).max()) >= self.geometry.vocab_size:
            raise _untrue("forward.tensor", "an id that is none", f"0 to {self.geometry.vocab_size - 1}")

    def _hidden(self, tensor: np.ndarray) -> None:
        width, dtype = self.geometry.hidden_size, self.job.model.dtype
        if tensor.ndim != 2 or tensor.shape[1] != width or name_of(tensor.dtype) != dtype:
            raise _untrue("forward.tensor", _kind_of(tensor), f"hidden states, {dtype} [T, {width}]")
        if not all_finite(tensor):
            raise _untrue("forward.tensor", "NaN or infinity", "finite numbers")


def _kind_of(tensor: np.ndarray) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _untrue(where: str, found: object, expected: object) -> FrameError:
    return FrameError(
        "a message that can't be meant for this worker",
        "untrue",
        where=where,
        found=str(found)[:200],
        expected=str(expected),
    )


def _expect(holds: bool, where: str, found: object, expected: object) -> None:
    if not holds:
        raise _untrue(where, found, expected)
