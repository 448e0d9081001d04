"""Where helix-df keeps files of its own on this machine."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

_TRIAL_BYTES = 64 * 1024
"""What must fit in a cache's folder for it to be of use."""


log = logging.getLogger(__name__)


@cache
def cache_folder(name: str) -> Path:
    """A folder of the cache that can be written: ``name`` below ``cache_root``.

    Where the disk is full or read-only it is a temporary folder of this process: a cache is no reason not to start.

    Raises:
        OSError: when no temporary folder can be made either.
    """
    folder = cache_root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as trial:
            trial.write(bytes(_TRIAL_BYTES))
            trial.flush()
    except OSError as error:
        log.warning("nothing is cached in %s, so each start compiles anew: %s", folder, error)
        folder = Path(tempfile.mkdtemp(prefix="helix-df-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def cache_root() -> Path:
    """The folder for things that can always be made again, such as compiled programs.

    ``HELIX_DF_CACHE`` overrides the user's cache folder. The folder may not exist yet.
    """
    override = os.environ.get("HELIX_DF_CACHE")
    return Path(override).expanduser() if override else platformdirs.user_cache_path("helix-df")


def package_environment() -> dict[str, str]:
    """This process's environment, in which ``python -m helix_df.…`` finds this very package, installed or not."""
    root = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
