"""The page pool: no page has two owners, none is lost, a refusal changes nothing."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from helix_df.runtime.kv_pages import PagePool

REQUESTS = st.sampled_from("abcdef")
PAGES, PAGE_TOKENS = 12, 4


class PagePoolMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.pool = PagePool(PAGES, PAGE_TOKENS)
        self.tokens: dict[str, int] = {}

    @rule(request=REQUESTS, tokens=st.integers(1, 30))
    def reserve(self, request, tokens):
        before, free = self.pool.table(request), self.pool.free_pages
        lacking = -(-tokens // PAGE_TOKENS) - len(before)
        accepted = self.pool.reserve(request, tokens)
        assert accepted == (lacking <= free)
        if accepted:
            self.tokens[request] = max(tokens, self.tokens.get(request, 0))
            assert self.pool.table(request)[: len(before)] == before
        else:
            assert self.pool.table(request) == before
            assert self.pool.free_pages == free

    @rule(request=REQUESTS)
    def release(self, request):
        assert self.pool.release(request) == -(-self.tokens.pop(request, 0) // PAGE_TOKENS)
        assert self.pool.table(request) == ()

    @invariant()
    def every_page_has_one_owner_or_none(self):
        owned = [page for request in self.pool.requests for page in self.pool.table(request)]
        assert len(set(owned)) == len(owned) == self.pool.used_pages
        assert set(owned) <= set(range(1, PAGES + 1))
        assert self.pool.free_pages + self.pool.used_pages == PAGES

    @invariant()
    def requests_own_exactly_what_they_need(self):
        for request, tokens in self.tokens.items():
            assert len(self.pool.table(request)) == -(-tokens // PAGE_TOKENS)

    def teardown(self):
        for request in self.pool.requests:
            self.pool.release(request)
        assert self.pool.free_pages == PAGES
        assert self.pool.reserve("all", PAGES * PAGE_TOKENS)


TestPagePool = PagePoolMachine.TestCase
TestPagePool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
