"""Who holds which page of the KV cache.

Owns the free list, each request's page tables, and how many requests hold a page. Doesn't know the arrays behind the
pages, nor layers: where all layers keep the same, a page number stands for the same page in each and there is one table
a request; else there is a table for each layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from helix_df.profiles.kv_windows import PAGE_TOKENS, first_page
from helix_df.rules.pages import pages_for


class PagePool:
    """Pages ``1 … num_pages``, each for ``page_tokens`` tokens. Page 0 is scratch, held by nobody.

    Requests share only whole pages, so nobody ever writes to a page that somebody else holds too. A page is free when
    nobody holds it. A table keeps the places of pages that a request has let go: page 0 stands there.

    Args:
        num_pages: pages that requests can hold.
        page_tokens: tokens a page.
        windows: of each table, the tokens that a query sees at most; 0 for all.
    """

    def __init__(self, num_pages: int, page_tokens: int = PAGE_TOKENS, windows: Sequence[int] = (0,)) -> None:
        if num_pages < 1 or page_tokens < 1 or not windows:
            raise ValueError(f"a pool needs pages, tokens and tables, got {num_pages} pages of {page_tokens}")
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self.windows = tuple(windows)
        self._free = list(range(num_pages, 0, -1))
        self._tables: dict[str, list[list[int]]] = {}
        self._holders = [0] * (num_pages + 1)

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def used_pages(self) -> int:
        """Pages that requests hold, each counted once."""
        return self.num_pages - len(self._free)

    @property
    def used_tokens(self) -> int:
        """Tokens that these are for, on average over tables, rounded up."""
        return -(-self.used_pages * self.page_tokens // len(self.windows))

    @property
    def requests(self) -> tuple[str, ...]:
        """Requests that hold pages, in the order in which they came."""
        return tuple(self._tables)

    def pages_for(self, tokens: int) -> int:
        """Pages that ``tokens`` tokens fill or begin."""
        return pages_for(tokens, self.page_tokens)

    def reserve(self, request: str, tokens: int) -> bool:
        """Hold enough pages for the first ``tokens`` tokens of ``request``.

        Returns:
            False, with nothing changed, when there aren't enough free pages.
        """
        found = self._tables.get(request)
        lacking = self.pages_for(tokens) - (len(found[0]) if found else 0)
        if lacking * len(self.windows) > len(self._free):
            return False
        if lacking > 0:
            for table in self._tables.setdefault(request, [[] for _ in self.windows]):
                fresh = [self._free.pop() for _ in range(lacking)]
                self._hold(fresh)
                table.extend(fresh)
        return True

    def slide(self, request: str, tokens: int) -> int:
        """Let go of the request's pages that nobody sees who goes on from ``tokens`` tokens.

        Returns:
            how many became free.
        """
        free = len(self._free)
        for window, table in zip(self.windows, self._tables.get(request, ()), strict=False):
            behind = start = min(first_page(tokens, window, self.page_tokens), len(table))
            while start and table[start - 1]:
                start -= 1
            self._let_go(table[start:behind])
            table[start:behind] = [0] * (behind - start)
        return len(self._free) - free

    def fork(self, parent: str, child: str, tokens: int) -> None:
        """Let ``child`` begin with the pages of the first ``tokens`` tokens of ``parent``, whole pages only.

        Raises:
            ValueError: when ``child`` holds pages already, or ``parent`` has fewer, or let some go that are seen.
        """
        count = tokens // self.page_tokens
        shared = []
        for window, table in zip(self.windows, self._tables.get(parent, [[] for _ in self.windows]), strict=True):
            behind = first_page(tokens, window, self.page_tokens)
            if child in self._tables or len(table) < count or not all(table[behind:count]):
                raise ValueError(f"{child} can't share {tokens} tokens of {parent}, which has {table}")
            shared.append([0] * behind + table[behind:count])
        if count:
            for table in shared:
                self._hold(table)
            self._tables[child] = shared

    def trim(self, request: str, tokens: int) -> int:
        """Hold on to what others need who begin with the request's first ``tokens`` tokens; says how many pages became
        free."""
        free, count = len(self._free), self.pages_for(tokens)
        for table in self._tables.get(request, ()):
            self._let_go(table[count:])
            del table[count:]
        self.slide(request, tokens)
        if not count:
            self._tables.pop(request, None)
        return len(self._free) - free

    def tables(self, request: str) -> Sequence[Sequence[int]]:
        """The request's pages in the order of its positions, 0 for those that it let go; empty when it has none."""
        return self._tables.get(request, ())

    def table(self, request: str) -> tuple[int, ...]:
        """The first of its tables."""
        found = self._tables.get(request)
        return tuple(found[0]) if found else ()

    def own_pages(self, request: str) -> tuple[int, ...]:
        """The request's pages that nobody else holds."""
        return tuple(page for table in self.tables(request) for page in table if self._holders[page] == 1)

    def release(self, request: str) -> int:
        """Let go of the request's pages and say how many became free; 0 when it holds none."""
        return self.trim(request, 0)

    def validate(self) -> None:
        """Check that every page is counted by its holders, and free if it has none.

        Raises:
            AssertionError: when that is wrong.
        """
        holders = Counter(page for tables in self._tables.values() for table in tables for page in table if page)
        counted = {page: count for page, count in enumerate(self._holders) if count}
        assert counted == dict(holders), f"holders by page: {counted}, not {dict(holders)}"
        assert sorted([*self._free, *holders]) == list(range(1, self.num_pages + 1)), "a page is lost, or free and held"

    def _hold(self, pages: Sequence[int]) -> None:
        for page in filter(None, pages):
            self._holders[page] += 1

    def _let_go(self, pages: Sequence[int]) -> None:
        for page in filter(None, reversed(pages)):
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)
