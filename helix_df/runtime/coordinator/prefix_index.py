"""Who has the KV cache of which tokens on which route: a tree of whole pages. Doesn't know why, or for how long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from helix_df.rules.routing import Pipeline
from helix_df.runtime.requests import Prefix


@dataclass(slots=True)
class _Branch:
    """A page in the tree: the requests that others can begin with up to it, those that have more tokens than that and
    no longer all that would be seen, and the pages that follow."""

    holders: dict[str, None] = field(default_factory=dict)
    passing: dict[str, None] = field(default_factory=dict)
    next: dict[bytes, _Branch] = field(default_factory=dict)


@dataclass(slots=True)
class PrefixIndex:
    """Finds the longest beginning that somebody has. A page takes the same time however many requests there are."""

    page_tokens: int
    _roots: dict[Pipeline, _Branch] = field(default_factory=dict)
    _paths: dict[str, tuple[Pipeline, tuple[bytes, ...]]] = field(default_factory=dict)

    def add(self, request: str, route: Pipeline, tokens: Sequence[int], fewest: int = 0) -> None:
        """The whole pages of ``tokens`` are there, under the name of ``request``, for who begins with at least the
        ``fewest``."""
        path = tuple(self._pages(tokens))
        if not path:
            return
        self._paths[request] = (route, path)
        branch = self._roots.setdefault(route, _Branch())
        for count, page in enumerate(path, start=1):
            branch = branch.next.setdefault(page, _Branch())
            (branch.holders if count * self.page_tokens >= fewest else branch.passing)[request] = None

    def remove(self, request: str) -> None:
        """Nothing is there any more under this name; an unknown one is fine."""
        route, path = self._paths.pop(request, ((), ()))
        above = self._roots.get(route)
        for page in path:
            assert above is not None, "a path lost its beginning"
            branch = above.next[page]
            del (branch.holders if request in branch.holders else branch.passing)[request]
            if not branch.holders and not branch.passing:
                # Whoever is further up the branch has this page too, so nobody is.
                del above.next[page]
                break
            above = branch
        if path and not self._roots[route].next:
            del self._roots[route]

    def longest(self, route: Pipeline, tokens: Sequence[int]) -> Prefix | None:
        """Who has most of the beginning of ``tokens``, the latest of several; ``None`` if nobody has a page of it."""
        branch, found = self._roots.get(route), None
        for count, page in enumerate(self._pages(tokens), start=1):
            branch = branch.next.get(page) if branch is not None else None
            if branch is None:
                break
            if branch.holders:
                found = Prefix(next(reversed(branch.holders)), count * self.page_tokens)
        return found

    def _pages(self, tokens: Sequence[int]) -> Iterator[bytes]:
        whole = np.asarray(tokens, dtype=np.int32)
        for start in range(0, len(whole) - self.page_tokens + 1, self.page_tokens):
            yield whole[start : start + self.page_tokens].tobytes()
