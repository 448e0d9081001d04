"""Passes in shapes that are compiled, while others are to come; what a worker compiles at its leisure."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from helix_df.runtime.priority import as_ever
from helix_df.runtime.worker.leisure import Leisure
from helix_df.runtime.worker.shapes import ASKED, ShapePlan
from helix_df.runtime.worker.warm_shapes import WarmShapes


def plan(pages_at_once: int | None = 8) -> ShapePlan:
    return ShapePlan(lambda tokens: -(-tokens // 16), 16, 2048, 64, pages_at_once)


@pytest.mark.parametrize("pages_at_once", [8, None])
def test_a_short_request_needs_two_shapes(pages_at_once: int | None) -> None:
    shapes = plan(pages_at_once)
    assert [(one.rows, one.tokens) for one in shapes.in_order[: shapes.num_first]] == [(1, 1), (1, 16)]
    assert len(set(shapes.in_order)) == len(shapes.in_order)


def test_nothing_is_small_before_anything_is_warm() -> None:
    warm = WarmShapes(plan())
    assert (warm.decodes_at_once(7, 100), warm.tokens_at_once(60, 60)) == (16, 64)


def test_what_lacks_a_shape_runs_in_smaller_ones_until_it_was_asked_for_often() -> None:
    shapes = plan()
    warm = WarmShapes(shapes)
    for shape in shapes.in_order[: shapes.num_first]:
        warm.note(shape)
    for _ in range(ASKED):
        assert warm.tokens_at_once(60, 60) == 16
        assert warm.decodes_at_once(5, 300) == 1
    assert warm.tokens_at_once(60, 60) == 64, "worth its compiling"
    assert warm.decodes_at_once(5, 300) == 16
    assert warm.tokens_at_once(20, 20) == 16, "one that was never asked for"
    assert (warm.decodes_at_once(1, 300), warm.decodes_at_once(0, 0), warm.tokens_at_once(1, 9)) == (16, 16, 64)


def test_a_context_without_any_shape_is_compiled_for() -> None:
    shapes = plan(None)
    warm = WarmShapes(shapes)
    for shape in shapes.in_order[: shapes.num_first]:
        warm.note(shape)
    assert warm.tokens_at_once(60, 2000) == 64
    assert warm.decodes_at_once(4, 2000) == 16


class Cold:
    """Two shapes, the first of which can't be compiled ahead."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.go_on = threading.Event()

    def compile_next(self) -> None:
        assert self.go_on.wait(30)
        self.told.append(f"compiled by {threading.current_thread().name}")
        if len(self.told) == 1:
            raise RuntimeError

    def warm_up(self) -> Iterator[object]:
        for number in range(2):
            self.told.append(f"made {number}")
            yield number


def test_shapes_are_compiled_beside_what_is_asked_and_made_in_between() -> None:
    engine, woken = Cold(), threading.Semaphore(0)
    leisure = Leisure(engine, woken.release, as_ever)

    leisure.use(as_ever)
    leisure.use(as_ever)
    assert leisure.is_busy
    assert not engine.told
    engine.go_on.set()
    for _ in range(3):
        assert woken.acquire(timeout=30)
        leisure.close()
        leisure.use(as_ever)
        leisure.use(as_ever)
    leisure.close()
    assert [one for one in engine.told if one.startswith("made")] == ["made 0", "made 1"]
    assert engine.told[0] == "compiled by compiles-ahead"
