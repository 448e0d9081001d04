"""How many examples a property that takes long is tried with."""

from __future__ import annotations

import os

EVERY = "HELIX_DF_EVERY_CASE"
"""Set in the environment by ``pytest --every-case``, before tests are imported."""


def examples(every: int, some: int) -> int:
    """``some`` of them while people wait, ``every`` one with ``--every-case``."""
    return every if os.environ.get(EVERY) else some
