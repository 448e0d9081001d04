"""The page pool: a page is shared only on purpose, none is lost, a refusal changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from helix_df.runtime.worker.kv_pages import PagePool

REQUESTS = st.sampled_from("abcdef")
PAGES, PAGE_TOKENS = 12, 4


class PagePoolMachine(RuleBasedStateMachine):
    """The model gives every reserved page a name of its own, which a fork repeats."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(PAGES, PAGE_TOKENS)
        self.model: dict[str, list[int]] = {}
        self.named = 0

    @property
    def held(self):
        return {name for names in self.model.values() for name in names}

    @rule(request=REQUESTS, tokens=st.integers(1, 30))
    def reserve(self, request, tokens):
        before, free = self.pool.table(request), self.pool.free_pages
        lacking = -(-tokens // PAGE_TOKENS) - len(before)
        accepted = self.pool.reserve(request, tokens)
        assert accepted == (lacking <= free)
        if not accepted:
            assert self.pool.table(request) == before
            assert self.pool.free_pages == free
            return
        assert self.pool.table(request)[: len(before)] == before
        for _ in range(lacking):
            self.named += 1
            self.model.setdefault(request, []).append(self.named)

    @rule(parent=REQUESTS, child=REQUESTS, tokens=st.integers(0, 30))
    def fork(self, parent, child, tokens):
        pages = tokens // PAGE_TOKENS
        before = {name: self.pool.table(name) for name in "abcdef"}
        if child in self.model or len(self.model.get(parent, ())) < pages:
            with pytest.raises(ValueError, match="share"):
                self.pool.fork(parent, child, tokens)
            assert before == {name: self.pool.table(name) for name in "abcdef"}
            return
        self.pool.fork(parent, child, tokens)
        assert self.pool.table(child) == self.pool.table(parent)[:pages]
        if pages:
            self.model[child] = self.model[parent][:pages]

    @rule(request=REQUESTS, tokens=st.integers(0, 30))
    def trim(self, request, tokens):
        self._shrink(request, -(-tokens // PAGE_TOKENS), lambda: self.pool.trim(request, tokens))

    @rule(request=REQUESTS)
    def release(self, request):
        self._shrink(request, 0, lambda: self.pool.release(request))

    def _shrink(self, request, pages, act):
        before = self.held
        self.model[request] = self.model.get(request, [])[:pages]
        if not self.model[request]:
            del self.model[request]
        assert act() == len(before - self.held)

    @invariant()
    def tables_are_as_in_the_model(self):
        assert set(self.pool.requests) == set(self.model)
        page_of: dict[int, int] = {}
        for request, names in self.model.items():
            table = self.pool.table(request)
            assert len(table) == len(names)
            assert len(set(table)) == len(table)
            for name, page in zip(names, table, strict=True):
                assert page_of.setdefault(name, page) == page
        assert len(set(page_of.values())) == len(page_of)
        assert set(page_of.values()) <= set(range(1, PAGES + 1))

    @invariant()
    def every_page_is_free_or_held(self):
        assert self.pool.used_pages == len(self.held)
        assert self.pool.free_pages + self.pool.used_pages == PAGES

    def teardown(self):
        for request in self.pool.requests:
            self.pool.release(request)
        assert self.pool.free_pages == PAGES
        assert self.pool.reserve("all", PAGES * PAGE_TOKENS)


TestPagePool = PagePoolMachine.TestCase
TestPagePool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
