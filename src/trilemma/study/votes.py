"""Where votes are kept: a SQLite file that survives whatever happens to the process, the power and the disk's room.

A vote is acknowledged when the disk has it (write-ahead log, ``synchronous=FULL``, one INSERT for each vote); votes
that come while the disk is busy share its next turn. A vote for the same trial of the same rater changes nothing, so
that a page may send it again.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trilemma.files import Unwritten, write_text
from trilemma.study.vote import Vote

FILE = "votes.sqlite"
FIELDS = tuple(field.name for field in dataclasses.fields(Vote))
PATIENCE = 10.0
"""Seconds to wait for another process that writes."""

KINDS = {(str, int, str, str, str, int, str, str, int, shown, float, float) for shown in (float, type(None))}
"""The types of a row."""

TABLES = f"""
CREATE TABLE IF NOT EXISTS votes ({", ".join(FIELDS)}, PRIMARY KEY (rater, trial)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS raters (code PRIMARY KEY, made) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name PRIMARY KEY, value) WITHOUT ROWID;
"""
INSERT = f"INSERT OR IGNORE INTO votes VALUES ({', '.join('?' * len(FIELDS))})"
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
"""Letters of a code: none is taken for another."""
LETTERS = 10
MOST_RATERS = 100_000


class Votes:
    """The votes of one study; of several threads and processes at once.

    Args:
        folder: of the study.

    Raises:
        ValueError: the file is none of SQLite, or from elsewhere.
        Unwritten: it cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / FILE
        self._lock, self._reading = threading.RLock(), threading.RLock()
        self._waiting: deque[_Waiting] = deque()
        with self._told("be opened"):
            self._base = self._connection()
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.executescript(TABLES)
            self._base.execute("INSERT OR IGNORE INTO facts VALUES ('secret', ?)", (secrets.token_hex(32),))
            self._reader = self._connection()  # who reads need not wait for the disk
        self.secret = bytes.fromhex(str(self._fact("secret")))
        """What the addresses of images are made with."""

    def _connection(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False, isolation_level=None)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock, self._reading:
            self._reader.close()
            self._base.close()

    def new_rater(self) -> str:
        """A code for one more rater, who is known by nothing else."""
        with self._told("take another rater"):
            (count,) = self._base.execute("SELECT count(*) FROM raters").fetchone()
            if count >= MOST_RATERS:
                raise ValueError("this study has had too many raters: make another")
            code = "".join(secrets.choice(ALPHABET) for _ in range(LETTERS))
            self._base.execute("INSERT INTO raters VALUES (?, ?)", (code, time.time()))
        return code

    def knows(self, code: str) -> bool:
        """Whether a code was given out."""
        with self._told("be read", reading=True):
            return self._reader.execute("SELECT 1 FROM raters WHERE code = ?", (code,)).fetchone() is not None

    def add(self, vote: Vote) -> bool:
        """Keep a vote; when this returns, the disk has it. False for a trial that this rater has answered before."""
        own = _Waiting(tuple(getattr(vote, name) for name in FIELDS))
        self._waiting.append(own)
        with self._told("be kept: send it again"):
            if own.new is None:  # else somebody has written it meanwhile, with their own
                try:
                    self._write([own, *self._others(own)])
                except sqlite3.Error:
                    self._write([own])
        return bool(own.new)

    def _others(self, own: _Waiting) -> Iterator[_Waiting]:
        """Whoever else waits at this moment."""
        while self._waiting:
            if (each := self._waiting.popleft()) is not own:
                yield each

    def _write(self, batch: Sequence[_Waiting]) -> None:
        """Write votes at once. Where that fails none is written, and whoever waits for one tries with it alone."""
        try:
            self._base.execute("BEGIN IMMEDIATE")
            new = [self._base.execute(INSERT, each.row).rowcount == 1 for each in batch]
            self._base.execute("COMMIT")
        except sqlite3.Error:
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
            raise
        for each, was_new in zip(batch, new, strict=True):
            each.new = was_new

    def answered(self, rater: str) -> int:
        """How many trials a rater has answered."""
        with self._told("be read", reading=True):
            return int(self._reader.execute("SELECT count(*) FROM votes WHERE rater = ?", (rater,)).fetchone()[0])

    def of(self, rater: str, start: int = 0) -> list[Vote]:
        """What one rater said, in order, from trial ``start`` on."""
        return self._read("WHERE rater = ? AND trial >= ? ORDER BY trial", rater, start)

    def all(self) -> list[Vote]:
        """Every vote, in the order of the raters' codes and of their trials."""
        return self._read("ORDER BY rater, trial")

    def counts(self) -> tuple[int, int]:
        """How many people voted, and how many votes there are beside practice."""
        with self._told("be read", reading=True):
            found = self._reader.execute("SELECT count(DISTINCT rater), count(*) FROM votes WHERE role <> 'practice'")
            people, votes = found.fetchone()
        return int(people), int(votes)

    @property
    def open(self) -> bool:
        """Whether raters are let in."""
        return self._fact("open") != "no"

    @open.setter
    def open(self, value: bool) -> None:
        with self._told("be changed"):
            self._base.execute("INSERT OR REPLACE INTO facts VALUES ('open', ?)", ("yes" if value else "no",))

    def _fact(self, name: str) -> str | None:
        with self._told("be read", reading=True):
            found = self._reader.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def _read(self, where: str, *given: str | int) -> list[Vote]:
        with self._told("be read", reading=True):
            rows = self._reader.execute(f"SELECT {', '.join(FIELDS)} FROM votes {where}", given).fetchall()
        if any(tuple(map(type, row)) not in KINDS for row in rows):
            raise ValueError(f"{self.path} is damaged: a vote holds what no vote holds")
        return [Vote(*row) for row in rows]

    @contextlib.contextmanager
    def _told(self, what: str, reading: bool = False) -> Iterator[None]:
        """One thread at a time that reads and one that writes; what SQLite says becomes one line."""
        with self._reading if reading else self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:  # no room, no access, or another process for too long
                raise Unwritten(f"{self.path.name} cannot {what} ({error})") from None
            except sqlite3.DatabaseError as error:
                raise ValueError(f"{self.path} is damaged or not of a study ({error})") from None


@dataclass
class _Waiting:
    """A vote on its way to the disk; ``new`` is None until it is there."""

    row: tuple[Any, ...]
    new: bool | None = None


def export(votes: list[Vote], out: Path) -> Path:
    """Write votes as a table, .csv, or as a list of objects, .json."""
    return write_text(out, as_text(votes, out.suffix.lower().removeprefix(".")))


def as_text(votes: list[Vote], kind: str) -> str:
    """Votes as ``csv`` or ``json``, each with whether it was right; one-line ``ValueError`` for another kind."""
    rows = [{**dataclasses.asdict(vote), "right": vote.right} for vote in votes]
    if kind == "json":
        return json.dumps(rows, indent=1)
    if kind != "csv":
        raise ValueError("votes are written as .csv or .json: name such a file")
    file = io.StringIO()
    table = csv.DictWriter(file, [*FIELDS, "right"], lineterminator="\n")
    table.writeheader()
    # a spreadsheet computes a cell that begins like a formula
    table.writerows(
        {k: f"'{v}" if isinstance(v, str) and v[:1] in "=+-@\t" else v for k, v in row.items()} for row in rows
    )
    return file.getvalue()
