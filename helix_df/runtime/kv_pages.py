"""Who owns which page of the KV cache.

Owns the free list and each request's page table. Doesn't know the arrays behind the pages, nor layers: one page number
stands for the same page in every layer that a worker holds.
"""

from __future__ import annotations

PAGE_TOKENS = 16


class PagePool:
    """Pages ``1 … num_pages``, each for ``page_tokens`` tokens of one request. Page 0 is scratch, owned by nobody.

    Args:
        num_pages: pages that requests can own.
        page_tokens: tokens a page.
    """

    def __init__(self, num_pages: int, page_tokens: int = PAGE_TOKENS) -> None:
        if num_pages < 1 or page_tokens < 1:
            raise ValueError(f"a pool needs pages and tokens, got {num_pages} pages of {page_tokens}")
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self._free = list(range(num_pages, 0, -1))
        self._tables: dict[str, list[int]] = {}

    @property
    def free_pages(self) -> int:
        """Pages that nobody owns."""
        return len(self._free)

    @property
    def used_pages(self) -> int:
        """Pages that requests own."""
        return self.num_pages - len(self._free)

    @property
    def requests(self) -> tuple[str, ...]:
        """Requests that own pages, in the order of their first reservation."""
        return tuple(self._tables)

    def pages_for(self, tokens: int) -> int:
        """Pages that ``tokens`` tokens fill or begin."""
        return -(-tokens // self.page_tokens)

    def reserve(self, request: str, tokens: int) -> bool:
        """Own enough pages for the first ``tokens`` tokens of ``request``.

        Returns:
            False, with nothing changed, when there aren't enough free pages.
        """
        owned = self._tables.get(request, [])
        lacking = self.pages_for(tokens) - len(owned)
        if lacking > len(self._free):
            return False
        if lacking > 0:
            self._tables[request] = owned + [self._free.pop() for _ in range(lacking)]
        return True

    def table(self, request: str) -> tuple[int, ...]:
        """The request's pages in the order of its positions; empty when it owns none."""
        return tuple(self._tables.get(request, ()))

    def release(self, request: str) -> int:
        """Free the request's pages and say how many; 0 when it owns none."""
        pages = self._tables.pop(request, [])
        self._free.extend(reversed(pages))
        return len(pages)
