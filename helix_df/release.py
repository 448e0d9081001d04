"""Which release of helix-df this is."""

from __future__ import annotations

import sys


def release() -> str:
    """The version of the package, looked up where it stands: importing that would be every module's business."""
    version: str = sys.modules[__name__.partition(".")[0]].__version__
    return version
