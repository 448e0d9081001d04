"""What gives way does so alone, and comes back with what it made."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from helix_df.runtime.priority import STEP, as_ever, giving_way


def nice_here() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is a process'")
def test_only_the_work_is_nicer_and_neither_who_waits_nor_whom_it_starts_later():
    before = nice_here()
    assert giving_way(nice_here) == min(19, before + STEP)
    assert nice_here() == as_ever(nice_here) == before
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(nice_here()))
    later.start()
    later.join()
    assert seen == [before]


@pytest.mark.parametrize("priority", [as_ever, giving_way])
def test_what_is_raised_reaches_whoever_waits(priority):
    with pytest.raises(ZeroDivisionError):
        priority(lambda: 1 // 0)
    assert priority(lambda: "made") == "made"
