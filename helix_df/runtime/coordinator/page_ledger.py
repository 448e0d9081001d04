"""The coordinator's account of KV cache: running requests by what they are expected to use, kept prefixes by the page.

Pages that several hold are counted once, as in the workers' own pools: on every node of a route the same requests share
the same pages, so the coordinator knows them without asking. Where nodes free what leaves a window, those with the same
window hold the same pages, and each window has an account of its own. Doesn't know tokens' values, nor who shares and
why.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from helix_df.profiles.kv_windows import ALIKE, PAGE_TOKENS, KvShape, first_page, held_tokens
from helix_df.rules.admission import admits
from helix_df.rules.pages import pages_for
from helix_df.rules.routing import KvLedger
from helix_df.runtime.requests import Prefix


@dataclass(slots=True)
class _HoldingPart:
    """What one request holds on those of its nodes that free KV cache behind the same ``window``, or free none.

    One that ``slides`` frees pages while it runs, and is counted by the most that it holds. ``counted`` are the pages
    that are counted one by one: all that are known, or of one that slides those that it begins with, until its first
    token. Pages before the number ``first`` aren't held. ``spare`` tokens come on top of what it was expected to use:
    the rest of its last page, and what it has grown by. ``room`` is all of it. ``nodes`` says what a token counts.
    """

    nodes: Mapping[str, int]
    window: int
    slides: bool = False
    first: int = 0
    counted: Sequence[int] = ()
    room: int = 0
    spare: int = 0


@dataclass(slots=True)
class _Holding:
    """What one request holds: the whole pages of known tokens, all that somebody else can share, and where."""

    pages: Sequence[int]
    parts: tuple[_HoldingPart, ...]
    running: bool


@dataclass(slots=True)
class PageLedger(KvLedger):
    """A ledger that also counts what is kept of requests that are over.

    ``used`` is what running requests are expected to use; it alone decides about admission, so that nothing kept ever
    keeps a request out. ``kept`` is what only requests hold that are over, and ``grown`` what running ones take beyond
    expectation. All are by node, in tokens, or in tokens times layers where these keep different ones, as the
    ``shapes`` of nodes say that free KV cache behind a window. ``piece`` are the tokens of a prompt's longest piece.
    """

    page_tokens: int = PAGE_TOKENS
    piece: int = 1
    shapes: dict[str, KvShape] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)
    _holdings: dict[str, _Holding] = field(default_factory=dict)
    _holders: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    _names: Iterator[int] = field(default_factory=itertools.count)

    def admitting(self, expected: int, most: int) -> Callable[[str], bool]:
        """Whether a node may take a request of ``expected`` tokens that can grow to ``most``, for any node."""
        capacity, used, high_water = self.capacity.get, self.used.get, self.high_water
        if not self.shapes:
            return lambda node: admits(used(node, 0), expected, most, capacity(node, 0), high_water)
        held = self.held
        return lambda node: admits(used(node, 0), held(node, expected), held(node, most), capacity(node, 0), high_water)

    def held(self, node: str, tokens: int) -> int:
        """What a request takes at most of a node's KV cache until it has ``tokens``."""
        shape = self.shapes.get(node)
        return tokens if shape is None else shape.held(tokens, self.piece, self.page_tokens)

    def fits(self, node: str, most: int) -> bool:
        """Whether a node that is up has room for a request alone that comes to ``most`` tokens."""
        return self.capacity[node] >= self.held(node, most)

    def tokens(self, node: str, counted: int) -> int:
        """Something that is counted on a node, in tokens of all its layers, rounded up."""
        return -(-counted // self.shapes.get(node, ALIKE).layers)

    def start(
        self, request: str, nodes: Iterable[str], expected: int, most: int, shareable: int, prefix: Prefix | None
    ) -> None:
        """Count a request that starts.

        Args:
            request: who.
            nodes: where.
            expected: tokens it is expected to come to.
            most: tokens it can come to.
            shareable: of these, how many are known already and may later be shared.
            prefix: what it shares itself.

        Raises:
            ValueError: if it is counted already.
        """
        begun = prefix.tokens if prefix else 0
        shared = self._holdings[prefix.parent].pages[: begun // self.page_tokens] if prefix else ()
        pages = self._pages(shared, shareable)
        parts = tuple(
            self._part(window, counts, expected, most, begun, pages)
            for window, counts in self._by_window(nodes).items()
        )
        own: dict[str, int] = {}
        for part in parts:
            known = 0 if part.slides else len(pages) * self.page_tokens
            _add(own, part.nodes, max(0, part.room - part.spare - known))
        self.reserve(request, own)
        self._holdings[request] = _Holding(pages, parts, running=True)
        for part in parts:
            self._shift(part, running=1)
            _add(self.grown, part.nodes, part.spare)

    def slides(self, request: str) -> bool:
        """Whether a request frees pages somewhere while it runs, so that nobody can count on them."""
        return any(part.slides for part in self._holdings[request].parts)

    def has_token(self, request: str) -> None:
        """Count that a running request has passed every node of its route, and needs nobody's pages any more."""
        for part in self._holdings[request].parts:
            if part.slides:
                self._shift(part, running=-1)
                part.counted = ()

    def grow(self, request: str, tokens: int) -> bool:
        """Count that a running request comes to ``tokens`` tokens; says whether that is more than was counted."""
        has_grown = False
        for part in self._holdings[request].parts:
            held = held_tokens(tokens, part.window, self.piece, self.page_tokens)
            more = -(-(held - part.room) // self.page_tokens) * self.page_tokens
            if more > 0:
                part.room += more
                part.spare += more
                _add(self.grown, part.nodes, more)
                has_grown = True
        return has_grown

    def branch(self, request: str, name: str, tokens: int) -> None:
        """Count the whole pages that are seen behind the first ``tokens`` tokens of a running request as kept under
        another ``name``, whatever the request lets go of them itself."""
        held = self._holdings[request]
        pages = self._pages(held.pages, tokens)
        parts = tuple(self._kept_part(part, tokens, pages) for part in held.parts)
        for part in parts:
            self._shift(part, idle=1)
        self._holdings[name] = _Holding(pages, parts, running=False)

    def keep(self, request: str, tokens: int) -> None:
        """Count a request as over, and of its KV cache just the whole pages of the first ``tokens`` tokens."""
        held = self._holdings.pop(request)
        pages = self._pages(held.pages, tokens)
        parts = tuple(self._kept_part(part, tokens, pages) for part in held.parts)
        for part in parts:
            self._shift(part, idle=1)
        for part in held.parts:
            self._shift(part, running=-held.running, idle=held.running - 1)
            if held.running:
                _add(self.grown, part.nodes, -part.spare)
        if held.running:
            self.release(request)
        if pages:
            self._holdings[request] = _Holding(pages, parts, running=False)

    def shared_from(self, request: str) -> int:
        """The fewest tokens of one that is over with which others can begin: all that they see is held."""
        fewest = (
            pages_for(part.first * self.page_tokens + part.window - 1, self.page_tokens)
            for part in self._holdings[request].parts
            if part.first
        )
        return self.page_tokens * max(fewest, default=0)

    def excess(self, node: str) -> int:
        """Tokens of what is kept on a node that have to go, for all of its KV cache to stay under high water."""
        kept = self.kept.get(node, 0)
        total = self.used.get(node, 0) + self.grown.get(node, 0) + kept
        return max(0, min(kept, total - int(self.high_water * self.capacity.get(node, 0))))

    def idle(self, request: str) -> int:
        """Tokens that a request holds and no running one does, where these are most."""
        parts = self._holdings[request].parts
        return self.page_tokens * max(
            sum(1 for page in part.counted if not self._holders[part.window, page][0]) for part in parts
        )

    def validate(self, running: Collection[str]) -> None:
        """Check that exactly ``running`` requests are counted as such, and that all counts are the sums they should be.

        Raises:
            AssertionError: when that is wrong.
        """
        assert {name for name, held in self._holdings.items() if held.running} == set(running), "who runs"
        assert set(self._held) == set(running), "who has reserved"
        holders: dict[tuple[int, int], tuple[int, int]] = {}
        nodes_of: dict[tuple[int, int], Mapping[str, int]] = {}
        used, kept, grown = Counter[str](), Counter[str](), Counter[str]()
        for expected in self._held.values():
            used.update(expected)
        for held in self._holdings.values():
            for part in held.parts:
                for page in part.counted:
                    run, rest = holders.get((part.window, page), (0, 0))
                    holders[part.window, page] = (run + held.running, rest + (not held.running))
                    assert nodes_of.setdefault((part.window, page), part.nodes) == part.nodes, "a page on two routes"
                grown.update(_times(part.nodes, part.spare if held.running else 0))
        assert holders == self._holders, "who holds which page"
        for place, (run, _) in holders.items():
            (used if run else kept).update(_times(nodes_of[place], self.page_tokens))
        for name, counts, sums in (("used", self.used, used), ("kept", self.kept, kept), ("grown", self.grown, grown)):
            found = {node: tokens for node, tokens in counts.items() if tokens}
            assert found == {node: tokens for node, tokens in sums.items() if tokens}, f"{name}: {found}, not {sums}"
        assert not any(self.excess(node) for node in kept), "more is kept than there is room for"

    def _by_window(self, nodes: Iterable[str]) -> dict[int, dict[str, int]]:
        """By window, what a token counts on each of the nodes with layers that have it."""
        found: dict[int, dict[str, int]] = {}
        for node in nodes:
            shape = self.shapes.get(node, ALIKE)
            for window, layers in ((0, shape.whole), (shape.window, shape.windowed)):
                if layers:
                    found.setdefault(window, {})[node] = layers
        return found

    def _part(
        self, window: int, nodes: Mapping[str, int], expected: int, most: int, begun: int, pages: Sequence[int]
    ) -> _HoldingPart:
        """What a request that starts holds on nodes of a window, ``begun`` tokens of it somebody else's."""
        slides = first_page(most, window, self.page_tokens) > 0
        first = first_page(begun, window, self.page_tokens)
        counted = pages[first : begun // self.page_tokens] if slides else pages
        held = held_tokens(expected, window, self.piece, self.page_tokens)
        room = pages_for(held, self.page_tokens) * self.page_tokens
        return _HoldingPart(nodes, window, slides, first, counted, room, room - held)

    def _kept_part(self, part: _HoldingPart, tokens: int, pages: Sequence[int]) -> _HoldingPart:
        """What is kept of the first ``tokens`` tokens of a request on nodes of a window."""
        first = max(part.first, first_page(tokens, part.window, self.page_tokens))
        return _HoldingPart(part.nodes, part.window, first=first, counted=pages[first:])

    def _pages(self, known: Sequence[int], tokens: int) -> tuple[int, ...]:
        count = tokens // self.page_tokens
        return (*known[:count], *itertools.islice(self._names, max(0, count - len(known))))

    def _shift(self, part: _HoldingPart, *, running: int = 0, idle: int = 0) -> None:
        """So many more holders of a part's counted pages that run, and that are over."""
        used = kept = 0
        for page in part.counted:
            run, rest = self._holders.get((part.window, page), (0, 0))
            self._holders[part.window, page] = now = (run + running, rest + idle)
            used += (now[0] > 0) - (run > 0)
            kept += (now[0] == 0 < now[1]) - (run == 0 < rest)
            if now == (0, 0):
                del self._holders[part.window, page]
        _add(self.used, part.nodes, used * self.page_tokens)
        _add(self.kept, part.nodes, kept * self.page_tokens)


def _times(nodes: Mapping[str, int], tokens: int) -> dict[str, int]:
    return {node: tokens * layers for node, layers in nodes.items()}


def _add(counts: dict[str, int], nodes: Mapping[str, int], tokens: int) -> None:
    for node, layers in nodes.items():
        counts[node] = counts.get(node, 0) + tokens * layers
