"""Who holds which page of the KV cache.

Owns the free list, each request's page table, and how many requests hold a page. Doesn't know the arrays behind the
pages, nor layers: one page number stands for the same page in every layer that a worker holds.
"""

from __future__ import annotations

from collections import Counter

from helix_df.rules.pages import PAGE_TOKENS, pages_for


class PagePool:
    """Pages ``1 … num_pages``, each for ``page_tokens`` tokens. Page 0 is scratch, held by nobody.

    Requests share only whole pages, so nobody ever writes to a page that somebody else holds too. A page is free when
    nobody holds it.

    Args:
        num_pages: pages that requests can hold.
        page_tokens: tokens a page.
    """

    def __init__(self, num_pages: int, page_tokens: int = PAGE_TOKENS) -> None:
        if num_pages < 1 or page_tokens < 1:
            raise ValueError(f"a pool needs pages and tokens, got {num_pages} pages of {page_tokens}")
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self._free = list(range(num_pages, 0, -1))
        self._tables: dict[str, list[int]] = {}
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
        lacking = self.pages_for(tokens) - len(self._tables.get(request, ()))
        if lacking > len(self._free):
            return False
        if lacking > 0:
            fresh = [self._free.pop() for _ in range(lacking)]
            self._hold(fresh)
            self._tables.setdefault(request, []).extend(fresh)
        return True

    def fork(self, parent: str, child: str, tokens: int) -> None:
        """Let ``child`` begin with the pages of the first ``tokens`` tokens of ``parent``, whole pages only.

        Raises:
            ValueError: when ``child`` holds pages already, or ``parent`` holds fewer.
        """
        pages = self._tables.get(parent, [])[: tokens // self.page_tokens]
        if child in self._tables or len(pages) < tokens // self.page_tokens:
            raise ValueError(
                f"{child} can't share {tokens} tokens of {parent}, which holds {len(self.table(parent))} pages"
            )
        if pages:
            self._hold(pages)
            self._tables[child] = pages

    def trim(self, request: str, tokens: int) -> int:
        """Hold on to the pages of the request's first ``tokens`` tokens alone; says how many pages became free."""
        table = self._tables.get(request, [])
        rest = table[self.pages_for(tokens) :]
        del table[self.pages_for(tokens) :]
        if not table:
            self._tables.pop(request, None)
        return self._let_go(rest)

    def table(self, request: str) -> tuple[int, ...]:
        """The request's pages in the order of its positions; empty when it holds none."""
        return tuple(self._tables.get(request, ()))

    def own_pages(self, request: str) -> tuple[int, ...]:
        """The request's pages that nobody else holds."""
        return tuple(page for page in self.table(request) if self._holders[page] == 1)

    def release(self, request: str) -> int:
        """Let go of the request's pages and say how many became free; 0 when it holds none."""
        return self.trim(request, 0)

    def validate(self) -> None:
        """Check that every page is counted by its holders, and free if it has none.

        Raises:
            AssertionError: when that is wrong.
        """
        holders = Counter(page for table in self._tables.values() for page in table)
        counted = {page: count for page, count in enumerate(self._holders) if count}
        assert counted == dict(holders), f"holders by page: {counted}, not {dict(holders)}"
        assert sorted([*self._free, *holders]) == list(range(1, self.num_pages + 1)), "a page is lost, or free and held"

    def _hold(self, pages: list[int]) -> None:
        for page in pages:
            self._holders[page] += 1

    def _let_go(self, pages: list[int]) -> int:
        free = len(self._free)
        for page in reversed(pages):
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)
        return len(self._free) - free
