"""A journal of what a coordinator has accepted and what there is of it, so that whoever comes after it can go on.

Whoever tells the journal something only appends it to a queue, which takes about a microsecond; a thread of the
journal's own writes what has gathered, a transaction a batch, at once where somebody waits for that. So what a process
that is killed had not yet written is the last of each request, never a part in between. Such tokens come again, the
same, since drawing depends on seed and position alone.

Owns the file, its bounds and the thread. What rows mean is ``journal_rows``'s. Doesn't know requests' states or nodes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from helix_df.layers import LayerRange
from helix_df.runtime.coordinator.journal_rows import (
    APPLICATION,
    SCHEMA,
    VERSION,
    Row,
    UnprovedError,
    answer_row,
    ending_row,
    read_answers,
    request_rows,
    token_row,
)
from helix_df.runtime.kept_answers import AcceptedAnswer, BrokenOff, KeptAnswer
from helix_df.runtime.requests import FinishReason, TokenEvent

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 0.02
"""So old may be what a process that is killed had not yet written."""

TIDY_EVERY_S = 5.0
KEEP_S = 600.0
"""Seconds that an answer is kept once it is over, for a client that comes back."""

MOST_BYTES = 2**30
"""Of the file; what is over goes early, the oldest first, to keep it below half of that."""

MOST_WAITING = 200_000
"""Records that may wait for a disk that takes no more; then the journal is given up, and the job goes on without."""

TRY_AGAIN_S = 1.0
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class KeptNode:
    """A worker that a coordinator had taken in: where it listens, the number of its greeting, and what it holds."""

    name: str
    address: str
    life: int
    layers: LayerRange


@dataclass(frozen=True, slots=True)
class _Refused:
    answer: str


@dataclass(frozen=True, slots=True)
class _Token:
    request: str
    event: TokenEvent


@dataclass(frozen=True, slots=True)
class _Ended:
    request: str
    why: BrokenOff


@dataclass(frozen=True, slots=True)
class _Flush:
    """Somebody waits until all that was told before is written; or, if he is ``hasty``, that it can't be now."""

    done: Callable[[], None]
    hasty: bool


Record = AcceptedAnswer | KeptNode | _Refused | _Token | _Ended | _Flush


@dataclass(slots=True)
class _Batch:
    """Records as rows: tokens of one request that follow one another are one row."""

    answers: list[AcceptedAnswer] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    events: dict[str, list[TokenEvent]] = field(default_factory=dict)
    broken_off: dict[str, BrokenOff] = field(default_factory=dict)
    nodes: dict[str, KeptNode] = field(default_factory=dict)
    flushed: list[_Flush] = field(default_factory=list)

    def add(self, record: Record) -> None:
        match record:
            case _Token():
                self.events.setdefault(record.request, []).append(record.event)
            case AcceptedAnswer():
                self.answers.append(record)
            case _Ended():
                self.broken_off.setdefault(record.request, record.why)
            case _Refused():
                self.refused.append(record.answer)
            case KeptNode():
                self.nodes[record.name] = record
            case _Flush():
                self.flushed.append(record)


class Journal:
    """One journal in a file. Any thread may tell it something; what it is told of one request keeps its order.

    Args:
        path: the file, which is made if it isn't there. Prompts are in it: only the user reads it.
        plan: what tells the plan from others; a journal of another plan is put aside.
        keep_s: seconds that an answer is kept once it is over.
        clock: seconds of a clock that goes on from one process to the next, and doesn't jump as the time of day may.
        most_bytes: of the file.
    """

    def __init__(
        self,
        path: Path,
        plan: str,
        *,
        keep_s: float = KEEP_S,
        clock: Callable[[], float] = time.monotonic,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.path: Final = path
        self.given_up: str | None = None
        self._keep_s = keep_s
        self._clock = clock
        self._most_bytes = most_bytes
        self._waiting: deque[Record] = deque()
        self._work = threading.Event()
        self._at_once = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._tidied_s = 0.0
        self._answer_of: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._connection = _open_or_begin(path, plan, most_bytes)
        self._file = path.stat()
        self.answers: tuple[KeptAnswer, ...] = self._read_back()
        self.nodes: tuple[KeptNode, ...] = tuple(
            KeptNode(name, address, life, LayerRange(start, stop))
            for name, address, life, start, stop in self._connection.execute("SELECT * FROM nodes ORDER BY name")
        )
        self.life: int = self._begin_life()

    # ------------------------------------------------------------------ what it is told

    def accept(self, answer: AcceptedAnswer) -> None:
        """An answer is promised, before the first of its tokens."""
        self._tell(answer)

    def refuse(self, answer: str) -> None:
        """There will be no answer, and the client knows."""
        self._tell(_Refused(answer))

    def token(self, request: str, event: TokenEvent) -> None:
        """A token of a request, or its end; of requests that belong to no answer nothing is kept."""
        self._tell(_Token(request, event))

    def break_off(self, request: str, why: BrokenOff) -> None:
        """A request ends without a finish."""
        self._tell(_Ended(request, why))

    def node(self, node: KeptNode) -> None:
        """A worker was taken in."""
        self._tell(node)

    def _tell(self, record: Record) -> None:
        if self.given_up is None:
            self._waiting.append(record)
            if not self._work.is_set():
                self._work.set()

    # ------------------------------------------------------------------ its thread

    def start(self) -> None:
        """Write from now on what it is told, and has been."""
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def flush(self) -> None:
        """Wait until all that it was told before is written; in vain once it was given up."""
        if self._thread is None:
            self._write_waiting()
            return
        done = threading.Event()
        self._tell(_Flush(done.set, hasty=False))
        self._at_once.set()
        while self.given_up is None and self._thread.is_alive() and not done.wait(TRY_AGAIN_S):
            pass

    def when_written(self, then: Callable[[], None]) -> None:
        """Call ``then`` once or twice, from any thread, when all that it was told before is written, or can't be."""
        self._tell(_Flush(then, hasty=True))
        self._at_once.set()
        if self.given_up is not None or self._closing.is_set():
            then()  # it may have come too late to be seen

    def close(self, *, delete: bool = False) -> None:
        """Write what is left, and end; or ``delete`` all of it, since nobody will go on."""
        self._closing.set()
        self._work.set()
        self._at_once.set()
        if self._thread is not None:
            self._thread.join()
        elif not delete:
            self._write_waiting()
        self._connection.close()
        if delete:
            _remove(self.path)

    def find(self, id_or_name: str) -> KeptAnswer | None:
        """What is written of an answer; from any thread."""
        if self.given_up is not None:
            return None
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
                connection.execute("BEGIN")  # all of it at one moment, whatever is written meanwhile
                found = next(read_answers(connection, id_or_name), None)
        except sqlite3.OperationalError as error:
            log.warning("the journal can't be read: %s", error)
            return None
        return found if isinstance(found, KeptAnswer) else None

    def _run(self) -> None:
        while not self._closing.is_set():
            self._work.wait(TIDY_EVERY_S)
            self._at_once.wait(FLUSH_EVERY_S)  # more may come, and is written with it
            self._at_once.clear()
            self._work.clear()
            self._write_and_tidy()
        self._write_and_tidy()

    def _write_and_tidy(self) -> None:
        if self.given_up is not None:
            return
        try:
            self._write_waiting()
            now = time.monotonic()
            if now - self._tidied_s > TIDY_EVERY_S:
                self._tidied_s = now
                with contextlib.suppress(OSError):  # where there is no folder for it now there may be one later
                    self._put_back()
                self.tidy()
        except Exception as error:  # whatever it is, the job goes on
            self._on_failure(error)

    def _on_failure(self, error: Exception) -> None:
        """A disk that is full may take more later; what waits for it is bounded."""
        may_pass = isinstance(error, sqlite3.OperationalError) and len(self._waiting) < MOST_WAITING
        if may_pass and not self._closing.is_set():
            log.warning("the journal can't be written, and is tried again: %s", error)
            self._tell_the_hasty()
            with contextlib.suppress(sqlite3.Error):
                self._drop_oldest(0.5)
            self._closing.wait(TRY_AGAIN_S)
            self._work.set()
            return
        self.given_up = str(error)
        self._tell_the_hasty()
        self._waiting.clear()
        log.error("THE JOURNAL IS GIVEN UP: a coordinator that ends takes its requests with it from now on: %s", error)
        _remove(self.path)  # what is in it goes on without it: nobody must take it for the truth

    def _tell_the_hasty(self) -> None:
        """A job goes on without its journal."""
        for record in self._waiting.copy():
            if isinstance(record, _Flush) and record.hasty:
                record.done()

    def _put_back(self) -> None:
        """Write the file anew if somebody has deleted it, of which this connection has all still.

        Raises:
            OSError: when it can't be written.
        """
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self.path.stat(), self._file):
                return
            self.path.unlink()
        _remove(self.path)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        copy = _connected(self.path, self._most_bytes)
        try:
            self._connection.backup(copy)
            copy.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.Error:
            copy.close()
            raise
        former, self._connection = self._connection, copy
        former.close()
        self._file = self.path.stat()
        log.warning("the journal was deleted, and is written anew")

    # ------------------------------------------------------------------ writing

    def _write_waiting(self) -> None:
        records = list(self._taken())
        if not records:
            return
        batch = _Batch()
        for record in records:
            batch.add(record)
        try:
            with self._connection:
                self._write(batch)
        except sqlite3.Error:
            self._waiting.extendleft(reversed(records))
            raise
        self._note(batch)
        for flush in batch.flushed:
            flush.done()

    def _taken(self) -> Iterable[Record]:
        with contextlib.suppress(IndexError):
            while True:
                yield self._waiting.popleft()

    def _write(self, batch: _Batch) -> None:
        run = self._connection.executemany
        run("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", map(answer_row, batch.answers))
        rows = [row for answer in batch.answers for row in request_rows(answer)]
        run("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)", rows)
        new = {asked.id: answer.id for answer in batch.answers for asked in answer.requests}
        known = self._answer_of | new if new else self._answer_of
        tokens, endings = self._token_rows(batch, known)
        run("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?)", tokens)
        run("INSERT INTO endings VALUES (?, ?, ?, ?, ?, ?)", endings)
        nodes = ((one.name, one.address, one.life, one.layers.start, one.layers.stop) for one in batch.nodes.values())
        run("REPLACE INTO nodes VALUES (?, ?, ?, ?, ?)", nodes)
        for answer in batch.refused:
            self._drop([answer])

    def _token_rows(self, batch: _Batch, known: dict[str, str]) -> tuple[list[Row], list[Row]]:
        tokens: list[Row] = []
        endings: list[Row] = []
        for request in {**batch.events, **batch.broken_off}:
            if request not in known:
                continue
            events, first = batch.events.get(request, []), self._counts.get(request, 0)
            ending: FinishReason | BrokenOff | None = events[-1].finish if events else None
            ending = ending or batch.broken_off.get(request)
            if events:
                tokens.append(token_row(request, first, events))
            if ending is not None:
                endings.append(ending_row(request, known[request], first + len(events), ending, self._clock()))
        return tokens, endings

    def _note(self, batch: _Batch) -> None:
        """What was written counts from now on."""
        for answer in batch.answers:
            for asked in answer.requests:
                self._answer_of[asked.id], self._counts[asked.id] = answer.id, 0
        for request, events in batch.events.items():
            if request in self._counts:
                self._counts[request] += len(events)
        over = {request for request, events in batch.events.items() if events[-1].finish is not None}
        gone = (
            [request for request, answer in self._answer_of.items() if answer in batch.refused] if batch.refused else []
        )
        for request in {*over, *batch.broken_off, *gone}:
            self._answer_of.pop(request, None)
            self._counts.pop(request, None)

    # ------------------------------------------------------------------ bounds

    def tidy(self) -> None:
        """Drop what has been over for long enough, and more where the file grows too large."""
        before = self._clock() - self._keep_s
        with self._connection:
            self._drop(self._over(before))
        used = self._bytes()
        if used > self._most_bytes / 2:
            self._drop_oldest(1 - self._most_bytes / 2 / used)
        self._connection.execute("PRAGMA incremental_vacuum").fetchall()

    def _over(self, before: float) -> list[str]:
        """Answers whose last request ended before some second, the longest over first."""
        found = self._connection.execute(
            "SELECT answers.id FROM answers JOIN endings ON answers.id = endings.answer GROUP BY answers.id "
            "HAVING count(*) = answers.requests AND max(endings.at) < ? ORDER BY max(endings.at)",
            (before,),
        )
        return [name for (name,) in found]

    def _drop_oldest(self, share: float) -> None:
        """Drop a share of what is over."""
        over = self._over(float("inf"))
        with self._connection:
            self._drop(over[: 1 + int(share * len(over))])

    def _drop(self, answers: Iterable[str]) -> None:
        names = [(name,) for name in answers]
        run = self._connection.executemany
        run("DELETE FROM tokens WHERE request IN (SELECT id FROM requests WHERE answer = ?)", names)
        run("DELETE FROM requests WHERE answer = ?", names)
        run("DELETE FROM endings WHERE answer = ?", names)
        run("DELETE FROM answers WHERE id = ?", names)

    def _bytes(self) -> int:
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages - free) * _PAGE_BYTES

    # ------------------------------------------------------------------ what was left

    def _read_back(self) -> tuple[KeptAnswer, ...]:
        answers = []
        for found in read_answers(self._connection):
            if isinstance(found, KeptAnswer):
                answers.append(found)
            else:
                log.error("THE JOURNAL'S ANSWER %s CAN'T BE PROVED, and is dropped: %s", *found)
                with self._connection:
                    self._drop([found[0]])
        for answer in answers:
            for one in answer.requests:
                if not one.is_over:
                    self._answer_of[one.asked.id], self._counts[one.asked.id] = answer.id, len(one.events)
        return tuple(answers)

    def _begin_life(self) -> int:
        with self._connection:
            self._connection.execute(
                "INSERT INTO facts VALUES ('life', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )
        (life,) = self._connection.execute("SELECT value FROM facts WHERE name = 'life'").fetchone()
        return int(life)


def open_journal(path: Path, plan: str, *, keep_s: float = KEEP_S) -> Journal | None:
    """As ``Journal``; none where no file can be: a job doesn't need one to serve."""
    try:
        return Journal(path, plan, keep_s=keep_s)
    except (OSError, sqlite3.Error) as error:
        log.error("THERE IS NO JOURNAL: a coordinator that ends takes its requests with it: %s: %s", path, error)
        return None


def _open_or_begin(path: Path, plan: str, most_bytes: int) -> sqlite3.Connection:
    """The journal at ``path`` if it is one, and of this plan; what else is there is put aside for a fresh one."""
    if path.exists():
        try:
            return _opened(path, plan, most_bytes)
        except (sqlite3.Error, UnprovedError) as error:
            aside = path.with_name(f"{path.name}.aside")
            log.error("THE JOURNAL IS BEGUN ANEW, what was there is at %s: %s", aside, error)
            path.replace(aside)
            for suffix in _BESIDE:
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = _connected(path, most_bytes)
    connection.executescript(
        f"PRAGMA auto_vacuum = INCREMENTAL; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
        f"PRAGMA journal_mode = WAL; BEGIN; {SCHEMA} COMMIT;"
    )
    with connection:
        connection.execute("INSERT INTO facts VALUES ('plan', ?)", (plan,))
    return connection


def _opened(path: Path, plan: str, most_bytes: int) -> sqlite3.Connection:
    connection = _connected(path, most_bytes)
    try:
        application, version = (
            connection.execute(f"PRAGMA {it}").fetchone()[0] for it in ("application_id", "user_version")
        )
        if (application, version) != (APPLICATION, VERSION):
            raise UnprovedError("the file isn't a journal of this release")
        (damage,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise UnprovedError(f"the file is damaged: {damage}")
        found = connection.execute("SELECT value FROM facts WHERE name = 'plan'").fetchone()
        if found != (plan,):
            raise UnprovedError("the journal is of another plan")
        for table in ("answers", "requests", "tokens", "endings", "nodes"):
            connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _connected(path: Path, most_bytes: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=5)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA max_page_count = {most_bytes // _PAGE_BYTES}")
    connection.execute(f"PRAGMA journal_size_limit = {most_bytes // 16}")
    return connection


_BESIDE = ("-wal", "-shm")
"""What sqlite puts beside a file."""


def _remove(path: Path) -> None:
    for suffix in ("", *_BESIDE):
        with contextlib.suppress(OSError):
            path.with_name(path.name + suffix).unlink()
