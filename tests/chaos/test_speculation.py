"""Few requests of ``python -m tests.chaos.speculation``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.speculation import compare

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="finds child processes in /proc")


async def test_no_token_changes_while_requests_are_cancelled_and_a_worker_is_killed() -> None:
    found = await compare(28, 8, "random:tiny")
    assert found.changed == ()
    assert (found.same + found.cancelled, found.cancelled > 0, found.restarts) == (28, True, 1)
    assert found.accepted > 0
