"""What a drafter is. Doesn't know requests, steps or workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from helix_df.spec.section import Section


class Drafter(Protocol):
    """Drafts for one request. What it drafts follows from the tokens that it was told, and from nothing else: no clock,
    no chance. It is asked between two steps on the loop that serves everybody, so it takes microseconds."""

    def extend(self, tokens: Sequence[int]) -> None:
        """The request has these tokens more, the first time those of its prompt."""
        ...

    def draft(self, most: int) -> tuple[int, ...]:
        """Token ids that may follow, ``most`` at most; none where nothing is to be expected."""
        ...


class NoDrafterOptions(Section):
    """Of a drafter that has nothing to say about it."""


@dataclass(frozen=True, slots=True)
class DrafterKind:
    """Of drafters of one name.

    Args:
        make: a drafter for a request, given the job's options for it.
        options: the section under ``runtime.speculation.options`` of a job, frozen and closed to unknown keys.
    """

    make: Callable[[Any], Drafter]
    options: type[Section] = NoDrafterOptions
