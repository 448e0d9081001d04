"""Answers as a journal keeps them: what was asked, and what there is of each so far.

An answer is what a client knows by one name: one or more requests, and how they are to be phrased. What ``form`` means
is for whoever phrases answers to say; here it is a string. Doesn't know files.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from helix_df.errors import HelixError, RequestError
from helix_df.runtime.requests import GenerationRequest, TokenEvent


@dataclass(frozen=True, slots=True)
class AcceptedAnswer:
    """What was promised to a client, before its first token.

    ``name`` is what the client itself calls it, if it calls it anything; ``form`` is how to phrase it.
    """

    id: str
    form: str
    requests: tuple[GenerationRequest, ...]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class BrokenOff:
    """Why a request ended without a finish: its client left, or an error, in the parts that a client is told."""

    why: Literal["cancelled", "failed"]
    problem: str = ""
    status: int = 500
    param: str | None = None
    code: str | None = None

    @classmethod
    def by(cls, error: HelixError) -> BrokenOff:
        """As an error ended it."""
        if isinstance(error, RequestError):
            return cls("failed", error.problem, error.status, error.param, error.code)
        return cls("failed", error.problem)

    def error(self) -> RequestError:
        """What a client is told that asks for it."""
        if self.why == "cancelled":
            return RequestError("its client left before it was finished", code="request_cancelled", status=410)
        return RequestError(self.problem, status=self.status, param=self.param, code=self.code)


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A request and what there is of it: whole up to ``events``; neither finished nor broken off, it is to go on."""

    asked: GenerationRequest
    events: tuple[TokenEvent, ...] = ()
    broken_off: BrokenOff | None = None

    @property
    def is_over(self) -> bool:
        """Whether no event follows."""
        return self.broken_off is not None or (bool(self.events) and self.events[-1].finish is not None)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that was accepted, with its requests in their order."""

    id: str
    form: str
    requests: tuple[KeptRequest, ...]
    name: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether no event follows to any of its requests."""
        return all(request.is_over for request in self.requests)


class AnswerKeeper(Protocol):
    """Who keeps answers, so that they outlive their process and their client's connection."""

    @property
    def left(self) -> tuple[KeptAnswer, ...]:
        """What former coordinators have left."""
        ...

    def accept(self, answer: AcceptedAnswer) -> None:
        """Keep an answer, from before the first of its requests is submitted."""
        ...

    async def written(self) -> None:
        """Wait until what was accepted is kept whatever becomes of this process, or can't be."""
        ...

    def refuse(self, answer: str) -> None:
        """Forget an answer: its client was told that there will be none."""
        ...

    async def find(self, id_or_name: str) -> KeptAnswer | None:
        """What is kept of an answer at this moment."""
        ...

    def go_on(self, kept: KeptRequest) -> AsyncGenerator[TokenEvent, None]:
        """The events that follow those which are kept; closing the generator early cancels the request.

        Raises:
            RequestError: as ``TokenService.submit``.
        """
        ...
