"""The moving parts between stages: links, requests on their way, and runs of steps that travel together.

A batch's decode steps that go over the same link leave as one run: the link is a serial resource and all steps are of
one size, so the run's arrival times are evenly spaced and need no event of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from helix_df.simulator.trace import TraceRequest

if TYPE_CHECKING:
    from helix_df.simulator.stage import Stage


class Nic:
    """What all links of a node share in one direction; ``free_s`` is when its next byte may go."""

    __slots__ = ("bytes_per_s", "free_s")

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.free_s = 0.0


class Link:
    """One direction of a hop: first come first served, one transfer at a time.

    ``head`` is the stage it leads to, ``None`` for the coordinator. ``skipped`` are the layers of the head that a
    request which came this way has been through already, ``width`` those it runs there.
    """

    __slots__ = (
        "busy_s",
        "bytes_per_token",
        "free_s",
        "head",
        "head_name",
        "latency_s",
        "message_bytes",
        "nics",
        "s_per_message",
        "s_per_token",
        "skipped",
        "tail_name",
        "tokens",
        "width",
    )

    def __init__(
        self,
        tail_name: str,
        head_name: str,
        bytes_per_s: float,
        latency_s: float,
        bytes_per_token: float,
        message_bytes: float,
    ):
        self.tail_name = tail_name
        self.head_name = head_name
        self.s_per_token = bytes_per_token / bytes_per_s
        self.s_per_message = message_bytes / bytes_per_s
        self.latency_s = latency_s
        self.bytes_per_token = bytes_per_token
        self.message_bytes = message_bytes
        self.head: Stage | None = None
        self.nics: tuple[Nic, ...] = ()
        self.skipped = 0
        self.width = 0
        self.free_s = 0.0
        self.busy_s = 0.0
        self.tokens = 0

    def carry(self, now: float, items: int, tokens_each: int, spacing_s: float) -> tuple[float, float, float]:
        """Send ``items`` transfers, the first ready now and each next one ``spacing_s`` later.

        Returns when the first arrives, how far apart they do, and when the first was sent.
        """
        each = tokens_each * self.s_per_token + self.s_per_message
        start = now if now > self.free_s else self.free_s
        apart = each if each > spacing_s else spacing_s
        for nic in self.nics:
            share = (tokens_each * self.bytes_per_token + self.message_bytes) / nic.bytes_per_s
            start = max(start, nic.free_s)
            apart = max(apart, share)
            nic.free_s = start + items * share
        self.free_s = start + each + (items - 1) * apart
        self.busy_s += items * each
        self.tokens += items * tokens_each
        return start + each + self.latency_s, apart, start


class Attempt:
    """One try at serving a request: the way it takes and how far it has come.

    ``route`` leads from a stage's index to the link it leaves by (-1: the coordinator's). ``hops`` are the stages with
    the KV weight it has in each and which life of the node it is in; ``names`` are what the router calls them.
    ``flying`` steps of it are on their way. ``confirmed`` counts the tokens whose cache every stage holds, ``left`` the
    tokens still to come.
    """

    __slots__ = (
        "alive",
        "confirmed",
        "flying",
        "hops",
        "job",
        "key",
        "last_s",
        "left",
        "names",
        "prompt",
        "route",
        "started_s",
    )

    def __init__(self, job: RequestState, key: str, started_s: float, prompt: int, left: int) -> None:
        self.job = job
        self.key = key
        self.started_s = started_s
        self.prompt = prompt
        self.left = left
        self.names: tuple[str, ...] = ()
        self.route: dict[int, Link] = {}
        self.hops: list[tuple[Stage, int, int]] = []
        self.confirmed = 0
        self.flying = 1
        self.last_s = started_s
        self.alive = True


class RequestState:
    """A request from its arrival to its end, over all its attempts. Times are NaN until they happen."""

    __slots__ = (
        "admitted_s",
        "arrived_s",
        "attempts",
        "cautious",
        "finished_s",
        "first_token_s",
        "generated",
        "index",
        "last_token_s",
        "rejected",
        "wanted",
    )

    def __init__(self, index: int, arrived_s: float, wanted: TraceRequest) -> None:
        nan = float("nan")
        self.index = index
        self.arrived_s = arrived_s
        self.wanted = wanted
        self.admitted_s = nan
        self.first_token_s = nan
        self.last_token_s = nan
        self.finished_s = nan
        self.generated = 0
        self.attempts = 0
        self.cautious = False
        self.rejected = False

    @property
    def most(self) -> int:
        """Tokens of KV cache it may come to."""
        return self.wanted.input_tokens + self.wanted.max_tokens

    @property
    def tokens(self) -> int:
        """Tokens it has: its prompt and what it has been given."""
        return self.wanted.input_tokens + self.generated


class Piece:
    """A prompt, or a piece of one, on its way; ``last`` ends the prefill."""

    __slots__ = ("attempt", "last", "tokens")

    def __init__(self, attempt: Attempt, tokens: int, last: bool) -> None:
        self.attempt = attempt
        self.tokens = tokens
        self.last = last


class Run(NamedTuple):
    """Decode steps, or one piece of a prompt, that arrived over one link.

    Ordered by arrival. ``steps`` are of ``apart_s`` spaced arrivals; with ``piece`` they are empty.
    """

    arrive_s: float
    order: int
    link: Link
    steps: list[Attempt]
    apart_s: float
    piece: Piece | None
    sent_s: float
