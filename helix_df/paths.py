"""Where helix-df keeps files of its own on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """The folder for things that can always be made again, such as compiled programs.

    ``HELIX_DF_CACHE`` overrides the user's cache folder. The folder may not exist yet.
    """
    override = os.environ.get("HELIX_DF_CACHE")
    return Path(override).expanduser() if override else platformdirs.user_cache_path("helix-df")
