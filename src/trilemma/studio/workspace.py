"""Where the studio looks and where it writes: what a page may name is what is listed here, and nothing else.

A page never sends a path. It sends a key, which is looked up among what was found in the folders that the user named
when the studio was started.
"""

from __future__ import annotations

import functools
import os
import re
import threading
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trilemma.machine import cache_folder
from trilemma.run import Run, is_run, zoo
from trilemma.shipped import ZOO
from trilemma.text import printable

DEPTH = 5
"""Folders within folders that are looked through."""
LOOKED = 4000
"""Folders looked through at most."""
FRESH = 1.0
"""Seconds for which a look is good."""


@dataclass
class Workspace:
    """The folders of a studio.

    Attributes:
        home: where it writes: ``runs``, ``data``, ``comparisons``, ``studies``, ``jobs``.
        folders: where else it looks for runs and comparisons.
    """

    home: Path
    folders: Sequence[Path] = ()
    _found: dict[str, dict[str, Path]] = field(default_factory=dict)
    _looked: float = -FRESH
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        for name in ("runs", "data", "comparisons", "studies", "jobs"):
            (self.home / name).mkdir(parents=True, exist_ok=True)

    def place(self, kind: str, name: str) -> Path:
        """Where something new of a kind belongs, under a name that a person typed."""
        return self.home / kind / safe_name(name)

    def paths(self, kind: str) -> dict[str, Path]:
        """The ``runs``, ``comparisons`` or ``studies`` by key, the newest first, and after them the runs of the zoo."""
        with self._lock:
            if time.monotonic() - self._looked > FRESH:
                self._found, self._looked = self._look(), time.monotonic()
                self._found["runs"] |= self._zoo
            return dict(self._found.get(kind, {}))

    @functools.cached_property
    def _zoo(self) -> dict[str, Path]:
        """The runs that ship with the package."""
        return {f"{ZOO.name}/{name}": zoo(name).path for name in zoo()}

    def forget(self) -> None:
        """Look again at the next question: something was made."""
        self._looked = -FRESH

    def path(self, kind: str, key: str) -> Path:
        """The path behind a key; one-line ``ValueError`` where nothing of that kind is called so."""
        found = self.paths(kind).get(key)
        if found is None:
            self.forget()
            found = self.paths(kind).get(key)
        if found is None:
            raise Unknown(f"there is no {kind[:-1]} {key[:80]!r} here")
        return found

    def run(self, key: str) -> Run:
        """The run behind a key."""
        return Run.open(self.path("runs", key))

    def words(self, key: str, run: Run) -> str:
        """What a command calls a run: its path, or ``zoo/NAME``."""
        return key if key in self._zoo else printable(run.path)

    def key(self, path: Path) -> str:
        """The key of a run, a comparison or a study at a path."""
        for root in (self.home, *self.folders):
            if path.is_relative_to(root):
                inner = path.relative_to(root).as_posix()
                return inner if root == self.home else f"{root.name}/{inner}" if inner != "." else root.name
        return path.name

    def data(self) -> dict[str, Path]:
        """The data sets that were brought here, by name."""
        folder = self.home / "data"
        return {each.name: each for each in sorted(folder.iterdir()) if not each.name.startswith(".")}

    def _look(self) -> dict[str, dict[str, Path]]:
        found: dict[str, list[Path]] = {"runs": [], "comparisons": [], "studies": []}
        left = LOOKED
        for root in dict.fromkeys((self.home, *self.folders)):
            for folder, inner, files in os.walk(root):
                left -= 1
                depth = len(Path(folder).relative_to(root).parts)
                if is_run(folder) and "config.json" in files:
                    found["runs"].append(Path(folder))
                    inner.clear()
                    continue
                if "report.json" in files:
                    found["comparisons"].append(Path(folder))
                if "study.json" in files:
                    found["studies"].append(Path(folder))
                # The studio's own folder is looked through by itself, and the zoo, with its copies, is listed as such.
                apart = (self.home, cache_folder(), ZOO)
                hidden = [name for name in inner if name.startswith(".") or Path(folder, name) in apart]
                inner[:] = [] if depth >= DEPTH or left <= 0 else sorted(set(inner) - set(hidden))
        newest = {kind: sorted(dict.fromkeys(paths), key=_age) for kind, paths in found.items()}
        return {kind: {self.key(path): path for path in paths} for kind, paths in newest.items()}


class Unknown(ValueError):
    """A key that names nothing."""


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def safe_name(name: str) -> str:
    """A name that a person typed as the name of one folder: letters, digits, ``-``, ``_`` and ``.``, no path.

    >>> safe_name("../../My photos (2)")
    'My-photos-2'

    Raises:
        ValueError: nothing is left of it.
    """
    plain = unicodedata.normalize("NFKC", name)
    kept = re.sub(r"[^\w.-]+", "-", plain)[:80].strip("-._")
    if not kept:
        raise ValueError("give it a name of letters and digits")
    return kept
