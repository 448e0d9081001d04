"""The page pool: a page is shared only on purpose, none is lost, a refusal changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from helix_df.profiles.kv_windows import first_page, held_by_layers, held_tokens, kv_shape
from helix_df.rules.pages import pages_for
from helix_df.runtime.worker.kv_pages import PagePool

REQUESTS = st.sampled_from("abcdef")
PAGE_TOKENS = 4


class PagePoolMachine(RuleBasedStateMachine):
    """The model gives every reserved page a name of its own, which a fork repeats; 0 stands for one that was let go."""

    windows: tuple[int, ...] = (0,)
    pages = 12

    def __init__(self):
        super().__init__()
        self.pool = PagePool(self.pages, PAGE_TOKENS, self.windows)
        self.model: dict[str, list[list[int]]] = {}
        self.named = 0

    @property
    def held(self):
        return {name for tables in self.model.values() for table in tables for name in table if name}

    def count(self, request):
        return len(self.model[request][0]) if request in self.model else 0

    @rule(request=REQUESTS, tokens=st.integers(1, 30))
    def reserve(self, request, tokens):
        before, free = self.tables(request), self.pool.free_pages
        lacking = -(-tokens // PAGE_TOKENS) - self.count(request)
        accepted = self.pool.reserve(request, tokens)
        assert accepted == (lacking * len(self.windows) <= free)
        if not accepted:
            assert self.tables(request) == before
            assert self.pool.free_pages == free
            return
        for table in self.model.setdefault(request, [[] for _ in self.windows]) if lacking > 0 else ():
            for _ in range(lacking):
                self.named += 1
                table.append(self.named)

    @rule(parent=REQUESTS, child=REQUESTS, tokens=st.integers(0, 30))
    def fork(self, parent, child, tokens):
        pages = tokens // PAGE_TOKENS
        before = {name: self.tables(name) for name in "abcdef"}
        seen = [first_page(tokens, window, PAGE_TOKENS) for window in self.windows]
        gone = any(not all(table[first:pages]) for first, table in zip(seen, self.model.get(parent, ()), strict=False))
        if child in self.model or self.count(parent) < pages or gone:
            with pytest.raises(ValueError, match="share"):
                self.pool.fork(parent, child, tokens)
            assert before == {name: self.tables(name) for name in "abcdef"}
            return
        self.pool.fork(parent, child, tokens)
        if pages:
            both = zip(seen, self.model[parent], strict=True)
            self.model[child] = [[0] * first + table[first:pages] for first, table in both]

    @rule(request=REQUESTS, tokens=st.integers(0, 30))
    def slide(self, request, tokens):
        before = self.held
        self._let_go(request, tokens)
        assert self.pool.slide(request, tokens) == len(before - self.held)

    @rule(request=REQUESTS, tokens=st.integers(0, 30))
    def trim(self, request, tokens):
        self._shrink(request, tokens, lambda: self.pool.trim(request, tokens))

    @rule(request=REQUESTS)
    def release(self, request):
        self._shrink(request, 0, lambda: self.pool.release(request))

    def _let_go(self, request, tokens):
        for window, table in zip(self.windows, self.model.get(request, ()), strict=False):
            first = min(len(table), first_page(tokens, window, PAGE_TOKENS))
            table[:first] = [0] * first

    def _shrink(self, request, tokens, act):
        before, pages = self.held, -(-tokens // PAGE_TOKENS)
        for table in self.model.get(request, ()):
            del table[pages:]
        self._let_go(request, tokens)
        if not pages:
            self.model.pop(request, None)
        assert act() == len(before - self.held)

    def tables(self, request):
        return [list(table) for table in self.pool.tables(request)]

    @invariant()
    def tables_are_as_in_the_model(self):
        assert set(self.pool.requests) == set(self.model)
        page_of: dict[int, int] = {0: 0}
        for request, tables in self.model.items():
            for names, table in zip(tables, self.tables(request), strict=True):
                for name, page in zip(names, table, strict=True):
                    assert page_of.setdefault(name, page) == page
        assert len(set(page_of.values())) == len(page_of)
        assert set(page_of.values()) <= set(range(self.pages + 1))

    @invariant()
    def every_page_is_free_or_held(self):
        self.pool.validate()
        assert self.pool.used_pages == len(self.held)
        assert self.pool.free_pages + self.pool.used_pages == self.pages

    def teardown(self):
        for request in self.pool.requests:
            self.pool.release(request)
        assert self.pool.free_pages == self.pages
        assert self.pool.reserve("all", self.pages // len(self.windows) * PAGE_TOKENS)


class WindowPoolMachine(PagePoolMachine):
    """All layers have a window."""

    windows = (6,)


class MixedPoolMachine(PagePoolMachine):
    """Layers with tables of their own, some with a window."""

    windows = (6, 0, 6)
    pages = 36


TestPagePool = PagePoolMachine.TestCase
TestPagePool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWindowPool = WindowPoolMachine.TestCase
TestWindowPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMixedPool = MixedPoolMachine.TestCase
TestMixedPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

WINDOW, PIECE = st.integers(1, 60), st.integers(1, 40)


@given(WINDOW, PIECE, st.integers(1, 20), st.integers(0, 300), st.integers(1, 40))
def test_a_request_never_holds_more_than_it_is_taken_for(window, piece, page, position, tokens):
    tokens = min(tokens, piece)
    held = pages_for(position + tokens, page) - first_page(position, window, page)
    assert held <= pages_for(held_tokens(position + tokens, window, piece, page), page)


@given(WINDOW, st.integers(1, 20), st.integers(0, 300), st.integers(0, 40))
def test_all_that_is_seen_is_held(window, page, tokens, later):
    assert first_page(tokens, window, page) * page <= max(0, tokens - window + 1)
    assert first_page(tokens, window, page) <= first_page(tokens + later, window, page)
    assert first_page(tokens, window, page) == first_page(tokens // page * page, window, page)


@given(st.lists(st.sampled_from((0, 24)), min_size=1, max_size=8).filter(any), st.integers(1, 200), PIECE)
def test_whichever_layers_a_node_holds_they_keep_no_more_than_is_planned(windows, tokens, piece):
    planned = held_by_layers(tuple(windows), tokens, piece, 16)
    for start in range(len(windows)):
        for stop in range(start + 1, len(windows) + 1):
            own = windows[start:stop]
            shape = kv_shape(len(own), sum(map(bool, own)), max(own))
            held = shape.held(tokens, piece, 16) / shape.layers
            assert held <= planned[len(own) - 1] + 1e-9
    assert planned[-1] == pytest.approx(
        kv_shape(len(windows), sum(map(bool, windows)), 24).held(tokens, piece, 16)
        / (len(windows) if 0 in windows else 1)
    )
