"""A family of one's own on the command line: ``path.py:Class`` wherever the name of a family may stand.

``--family path.py:Class`` beside any verb says the same for a run that is there, whose folder has the name alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

OWN = re.compile(r"[^\s,=]+\.py:[A-Za-z_]\w*")


def own_families(words: Sequence[str]) -> list[str]:
    """The words of a command with each such class imported, and its name in its place.

    Raises:
        ValueError: the file or the class is not there, or is no family, in one line.
    """
    found: list[str] = []
    for word in words:
        if not OWN.search(word) or found[:1] == ["check-family"]:
            found.append(word)
        elif found[-1:] == ["--family"]:
            found.pop()
            _named(word)
        elif word.startswith("--family="):
            _named(word.removeprefix("--family="))
        else:
            found.append(OWN.sub(lambda match: _named(match[0]), word))
    return found


def _named(text: str) -> str:
    from trilemma.families.family import Family
    from trilemma.plugins import load_class

    cls = load_class(text)
    if not issubclass(cls, Family) or "name" not in vars(cls):
        raise ValueError(f"{text} is no family: it must be a Family with a name")
    return str(cls.name)
