"""Where votes are kept: a SQLite file that survives whatever happens to the process, the power and the disk's room.

A vote is acknowledged when the disk has it (write-ahead log, ``synchronous=FULL``, one INSERT and one commit for each
vote). A vote for the same trial of the same rater changes nothing, so that a page may send it again.
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
from collections.abc import Iterator
from pathlib import Path

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
        self._lock = threading.Lock()
        with self._told("be opened"):
            self._base = sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.executescript(TABLES)
            self._base.execute("INSERT OR IGNORE INTO facts VALUES ('secret', ?)", (secrets.token_hex(32),))
        self.secret = bytes.fromhex(str(self._fact("secret")))
        """What the addresses of images are made with."""

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
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
        with self._told("be read"):
            return self._base.execute("SELECT 1 FROM raters WHERE code = ?", (code,)).fetchone() is not None

    def add(self, vote: Vote) -> bool:
        """Keep a vote; when this returns, the disk has it. False for a trial that this rater has answered before."""
        row = dataclasses.astuple(vote)
        marks = ", ".join("?" * len(row))
        with self._told("be kept: send it again"):
            return self._base.execute(f"INSERT OR IGNORE INTO votes VALUES ({marks})", row).rowcount == 1

    def answered(self, rater: str) -> int:
        """How many trials a rater has answered."""
        with self._told("be read"):
            return int(self._base.execute("SELECT count(*) FROM votes WHERE rater = ?", (rater,)).fetchone()[0])

    def of(self, rater: str) -> list[Vote]:
        """What one rater said, in order."""
        return self._read("WHERE rater = ? ORDER BY trial", rater)

    def all(self) -> list[Vote]:
        """Every vote, in the order of the raters' codes and of their trials."""
        return self._read("ORDER BY rater, trial")

    def counts(self) -> tuple[int, int]:
        """How many people voted, and how many votes there are beside practice."""
        with self._told("be read"):
            found = self._base.execute("SELECT count(DISTINCT rater), count(*) FROM votes WHERE role <> 'practice'")
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
        with self._told("be read"):
            found = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def _read(self, where: str, *given: str) -> list[Vote]:
        with self._told("be read"):
            rows = self._base.execute(f"SELECT {', '.join(FIELDS)} FROM votes {where}", given).fetchall()
        if any(tuple(map(type, row)) not in KINDS for row in rows):
            raise ValueError(f"{self.path} is damaged: a vote holds what no vote holds")
        return [Vote(*row) for row in rows]

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """One thread at a time; what SQLite says becomes one line."""
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:  # no room, no access, or another process for too long
                raise Unwritten(f"{self.path.name} cannot {what} ({error})") from None
            except sqlite3.DatabaseError as error:
                raise ValueError(f"{self.path} is damaged or not of a study ({error})") from None


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
