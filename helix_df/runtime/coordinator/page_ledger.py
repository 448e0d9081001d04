"""The coordinator's account of KV cache: running requests by what they are expected to use, kept prefixes by the page.

Pages that several hold are counted once, as in the workers' own pools: on every node of a route the same requests share
the same pages, so the coordinator knows them without asking. Doesn't know tokens' values, nor who shares and why.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from helix_df.rules.pages import PAGE_TOKENS
from helix_df.rules.routing import KvLedger
from helix_df.runtime.requests import Prefix


@dataclass(slots=True)
class _Holding:
    """What one request holds on each of its nodes.

    ``pages`` are the whole pages of known tokens, all that somebody else can share. ``spare`` tokens come on top of
    what it was expected to use: the rest of its last page, and what it has grown by. ``room`` is all of it.
    """

    nodes: tuple[str, ...]
    pages: Sequence[int]
    running: bool
    room: int = 0
    spare: int = 0


@dataclass(slots=True)
class PageLedger(KvLedger):
    """A ledger that also counts what is kept of requests that are over.

    ``used`` is what running requests are expected to use; it alone decides about admission, so that nothing kept ever
    keeps a request out. ``kept`` is what only requests hold that are over, and ``grown`` what running ones take beyond
    expectation. All are in tokens by node.
    """

    page_tokens: int = PAGE_TOKENS
    kept: dict[str, int] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)
    _holdings: dict[str, _Holding] = field(default_factory=dict)
    _holders: dict[int, tuple[int, int]] = field(default_factory=dict)
    _names: Iterator[int] = field(default_factory=itertools.count)

    def start(self, request: str, nodes: Iterable[str], expected: int, shareable: int, prefix: Prefix | None) -> None:
        """Count a request that starts.

        Args:
            request: who.
            nodes: where.
            expected: tokens it is expected to come to.
            shareable: of these, how many are known already and may later be shared.
            prefix: what it shares itself.

        Raises:
            ValueError: if it is counted already.
        """
        shared = self._holdings[prefix.parent].pages[: prefix.tokens // self.page_tokens] if prefix else ()
        pages = self._pages(shared, shareable)
        room = -(-expected // self.page_tokens) * self.page_tokens
        held = _Holding(tuple(nodes), pages, running=True, room=room, spare=room - expected)
        self.reserve(request, held.nodes, max(0, expected - len(pages) * self.page_tokens))
        self._holdings[request] = held
        self._shift(held, pages, running=1)
        _add(self.grown, held.nodes, held.spare)

    def grow(self, request: str, tokens: int) -> bool:
        """Count that a running request comes to ``tokens`` tokens; says whether that is more than was counted."""
        held = self._holdings[request]
        more = -(-(tokens - held.room) // self.page_tokens) * self.page_tokens
        if more <= 0:
            return False
        held.room += more
        held.spare += more
        _add(self.grown, held.nodes, more)
        return True

    def keep(self, request: str, tokens: int) -> None:
        """Count a request as over, and of its KV cache just the whole pages of the first ``tokens`` tokens."""
        held = self._holdings.pop(request)
        pages = self._pages(held.pages, tokens)
        self._shift(held, pages, idle=1)
        if held.running:
            self._shift(held, held.pages, running=-1)
            self.release(request)
            _add(self.grown, held.nodes, -held.spare)
        else:
            self._shift(held, held.pages, idle=-1)
        if pages:
            self._holdings[request] = _Holding(held.nodes, pages, running=False)

    def excess(self, node: str) -> int:
        """Tokens of what is kept on a node that have to go, for all of its KV cache to stay under high water."""
        kept = self.kept.get(node, 0)
        total = self.used.get(node, 0) + self.grown.get(node, 0) + kept
        return max(0, min(kept, total - int(self.high_water * self.capacity.get(node, 0))))

    def idle(self, request: str) -> int:
        """Tokens that a request holds and no running one does."""
        pages = self._holdings[request].pages
        return self.page_tokens * sum(1 for page in pages if not self._holders[page][0])

    def validate(self, running: Collection[str]) -> None:
        """Check that exactly ``running`` requests are counted as such, and that all counts are the sums they should be.

        Raises:
            AssertionError: when that is wrong.
        """
        assert {name for name, held in self._holdings.items() if held.running} == set(running), "who runs"
        assert set(self._held) == set(running), "who has reserved"
        holders: dict[int, tuple[int, int]] = {}
        nodes_of: dict[int, tuple[str, ...]] = {}
        used, kept, grown = Counter[str](), Counter[str](), Counter[str]()
        for nodes, expected in self._held.values():
            used.update(dict.fromkeys(nodes, expected))
        for held in self._holdings.values():
            for page in held.pages:
                run, rest = holders.get(page, (0, 0))
                holders[page] = (run + held.running, rest + (not held.running))
                assert nodes_of.setdefault(page, held.nodes) == held.nodes, "a page on two routes"
            grown.update(dict.fromkeys(held.nodes, held.spare if held.running else 0))
        assert holders == self._holders, "who holds which page"
        for page, (run, _) in holders.items():
            (used if run else kept).update(dict.fromkeys(nodes_of[page], self.page_tokens))
        for name, counts, sums in (("used", self.used, used), ("kept", self.kept, kept), ("grown", self.grown, grown)):
            found = {node: tokens for node, tokens in counts.items() if tokens}
            assert found == {node: tokens for node, tokens in sums.items() if tokens}, f"{name}: {found}, not {sums}"
        assert not any(self.excess(node) for node in kept), "more is kept than there is room for"

    def _pages(self, known: Sequence[int], tokens: int) -> tuple[int, ...]:
        count = tokens // self.page_tokens
        return (*known[:count], *itertools.islice(self._names, max(0, count - len(known))))

    def _shift(self, held: _Holding, pages: Sequence[int], *, running: int = 0, idle: int = 0) -> None:
        """So many more holders of these pages that run, and that are over."""
        used = kept = 0
        for page in pages:
            run, rest = self._holders.get(page, (0, 0))
            self._holders[page] = now = (run + running, rest + idle)
            used += (now[0] > 0) - (run > 0)
            kept += (now[0] == 0 < now[1]) - (run == 0 < rest)
            if now == (0, 0):
                del self._holders[page]
        _add(self.used, held.nodes, used * self.page_tokens)
        _add(self.kept, held.nodes, kept * self.page_tokens)


def _add(counts: dict[str, int], nodes: Iterable[str], tokens: int) -> None:
    for node in nodes:
        counts[node] = counts.get(node, 0) + tokens
