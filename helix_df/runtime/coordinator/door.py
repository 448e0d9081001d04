"""What a coordinator knows of the messages that can be meant for it: its nodes, its model, its job's addresses.

The check of its ``Door``. Doesn't know requests, nor what becomes of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.runtime.coordinator.nodes_state import ServedNode
from helix_df.runtime.requests import DrawnToken
from helix_df.runtime.wire.fields import FrameError
from helix_df.runtime.wire.hosts import JobHosts
from helix_df.runtime.wire.keys import same_endpoint
from helix_df.runtime.wire.messages import (
    Failed,
    FileWanted,
    Heartbeat,
    Hello,
    HopTimes,
    Loading,
    Located,
    Message,
    PromptPooled,
    PromptScored,
    Ready,
    Rejected,
    Sampled,
)

GREETINGS_PER_S = 1.0
"""So many workers that can't be taken in are told so."""


@dataclass(slots=True)
class CoordinatorCheck:
    """The check of a coordinator.

    Args:
        nodes: those of the plan, as they are now.
        former: nodes whose workers were told to go.
        geometry: of the model.
        context: most tokens of a request.
        hosts: where workers may listen.
        clock: seconds of a monotonic clock.
    """

    nodes: Mapping[str, ServedNode]
    former: Collection[str]
    geometry: ModelGeometry
    context: int
    hosts: JobHosts
    clock: Callable[[], float]
    _greetings: float = GREETINGS_PER_S
    _greeted_s: float = field(default=0.0)

    def __call__(self, message: Message) -> None:
        """Check a message.

        Raises:
            FrameError: when it can't be true.
        """
        match message:
            case Sampled():
                self._sampled(message)
            case PromptScored():
                self._scored(message)
            case PromptPooled():
                self._pooled(message)
            case Hello():
                self._hello(message)
            case Loading() | Heartbeat() | Rejected() | Located() | Ready() | Failed() | HopTimes() if (
                message.node in self.former
            ):
                pass  # its last words
            case Loading() | Heartbeat() | Rejected() | Located() | HopTimes():
                self._node(message)
            case Ready():
                self._ready(message, self._node(message))
            case Failed() | FileWanted():
                if message.life != self._node(message).life:
                    raise _untrue(f"{message.TAG}.life", message.life, "that of the worker which serves the node")
            case _:
                raise FrameError("a message that isn't for a coordinator", "unasked", found=message.TAG)

    def _node(
        self, message: Loading | Ready | Heartbeat | Rejected | Located | Failed | FileWanted | HopTimes
    ) -> ServedNode:
        node = self.nodes.get(message.node)
        if node is None:
            raise _untrue(f"{message.TAG}.node", message.node, "a node with layers")
        return node

    def _scored(self, message: PromptScored) -> None:
        rows = self.geometry.vocab_size
        if any(one.rank > rows or any(token >= rows for token, _ in one.top) for one in message.scores):
            raise _untrue("scored.scores", "a token or rank that is none", f"0 to {rows - 1}")
        if message.position + len(message.scores) > self.context:
            raise _untrue("scored.position", message.position, f"a context of {self.context} tokens")

    def _pooled(self, message: PromptPooled) -> None:
        size = 4 * self.geometry.hidden_size
        if len(message.payload) != size:
            raise _untrue("pooled.payload", f"{len(message.payload)} bytes", f"{size}")
        if not np.isfinite(np.frombuffer(message.payload, "<f4")).all():
            raise _untrue("pooled.payload", "what is no number", "numbers")
        if message.position + message.tokens > self.context:
            raise _untrue("pooled.position", message.position, f"a context of {self.context} tokens")

    def _sampled(self, message: Sampled) -> None:
        rows = self.geometry.vocab_size
        for drawn in (DrawnToken(message.token, message.logprobs), *message.more):
            top = () if drawn.logprobs is None else drawn.logprobs.top
            if drawn.token >= rows or any(token >= rows for token, _ in top):
                raise _untrue("sampled.token", drawn.token, f"0 to {rows - 1}")
        if message.position + len(message.more) > self.context:
            raise _untrue("sampled.position", message.position, f"a context of {self.context} tokens")

    def _ready(self, message: Ready, node: ServedNode) -> None:
        most = max(node.kv_tokens, PAGE_TOKENS)
        if message.kv_tokens > most:
            raise _untrue("ready.kv_tokens", message.kv_tokens, f"at most the planned {most}")
        if node.state == "ready" and message.kv_tokens != node.said_kv_tokens:
            raise _untrue("ready.kv_tokens", message.kv_tokens, f"{node.said_kv_tokens}, as it said before")

    def _hello(self, message: Hello) -> None:
        """A worker that can't be taken in is answered, and an answer opens a connection: only so many a second."""
        self.hosts.check(message.address, "hello.address")
        node = self.nodes.get(message.node)
        if node is not None and (node.address is None or same_endpoint(node.address) == message.address):
            return
        now = self.clock()
        self._greetings = min(GREETINGS_PER_S, self._greetings + (now - self._greeted_s) * GREETINGS_PER_S)
        self._greeted_s = now
        if self._greetings < 1:
            raise FrameError("too many workers that aren't of this plan", "untrue", where="hello.node")
        self._greetings -= 1


def _untrue(where: str, found: object, expected: str) -> FrameError:
    return FrameError("a message that can't be true", "untrue", where=where, found=str(found)[:200], expected=expected)
