"""A client of a job that runs here, or elsewhere. Imports no more than that takes: people wait for it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helix_df.runtime.access import Access
from helix_df.runtime.api.client import RemoteJob, RunningJob, http_client
from helix_df.runtime.jobs.directory import find_running


@asynccontextmanager
async def connect(name_or_url: str | None = None) -> AsyncIterator[RunningJob]:
    """A job that runs as a daemon, by its name or its API's URL; without either, the only one that runs here.

    To one by its URL, the key in the environment's ``HELIX_DF_API_KEY`` is sent.

    Raises:
        DeploymentError: when there is no such job.
    """
    is_url = name_or_url is not None and "://" in name_or_url
    if is_url and name_or_url is not None:
        access = Access(name_or_url, os.environ.get("HELIX_DF_API_KEY"))
    else:
        access = find_running(name_or_url)[1]
    async with http_client(access) as http:
        yield RemoteJob(http)
