"""The answers of a coordinator, kept in its journal: those of now, and those that a former one has left.

Owns when a request of a former coordinator is tried again. Doesn't know text or clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace

from helix_df.errors import RequestError
from helix_df.runtime.coordinator.journal import Journal
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.kept_answers import AcceptedAnswer, KeptAnswer, KeptRequest
from helix_df.runtime.requests import TokenEvent


class JournaledAnswers:
    """What an API asks for to keep answers; see ``AnswerKeeper``."""

    def __init__(self, coordinator: Coordinator, journal: Journal) -> None:
        self._coordinator = coordinator
        self._journal = journal

    @property
    def left(self) -> tuple[KeptAnswer, ...]:
        """What former coordinators have left."""
        return self._journal.answers

    def accept(self, answer: AcceptedAnswer) -> None:
        """See ``AnswerKeeper``."""
        self._journal.accept(answer)
        self._coordinator.keep([asked.id for asked in answer.requests])

    async def written(self) -> None:
        """See ``AnswerKeeper``."""
        loop, written = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(written.set)

        self._journal.when_written(tell)
        await written.wait()

    def refuse(self, answer: str) -> None:
        """See ``AnswerKeeper``."""
        self._journal.refuse(answer)

    async def find(self, id_or_name: str) -> KeptAnswer | None:
        """See ``AnswerKeeper``."""
        return await asyncio.to_thread(self._find, id_or_name)

    async def go_on(self, kept: KeptRequest) -> AsyncGenerator[TokenEvent, None]:
        """See ``AnswerKeeper``. It waits for workers to be taken back as for any that are away, and for room."""
        so_far = tuple(event.token for event in kept.events if event.token is not None)
        asked = replace(kept.asked, so_far=so_far)
        self._coordinator.keep([asked.id])
        while True:
            try:
                async with aclosing(self._coordinator.submit(asked)) as events:
                    async for event in events:
                        yield event
                return
            except RequestError as error:
                if error.status != 429:
                    raise
            await self._coordinator.changed()  # others are before it in the queue

    def _find(self, id_or_name: str) -> KeptAnswer | None:
        self._journal.flush()
        return self._journal.find(id_or_name)
