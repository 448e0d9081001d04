"""KV cache by the page: a request holds whole pages, of which the last may be half empty. Plain numbers."""

from __future__ import annotations


def pages_for(tokens: int, page_tokens: int) -> int:
    """Pages that ``tokens`` tokens fill or begin."""
    return -(-tokens // page_tokens)


def begins_page(tokens: int, page_tokens: int) -> bool:
    """Whether a request that holds ``tokens`` tokens takes another page for its next one."""
    return tokens % page_tokens == 0


def more_pages(start: int, stop: int, page_tokens: int) -> int:
    """Pages that a request has to take when it grows from ``start`` to ``stop`` tokens."""
    return -(-stop // page_tokens) + -start // page_tokens
