"""Text from outside, made fit to be shown."""

from __future__ import annotations

JOINERS = "\u200c\u200d"
"""Invisible, but letters and emoji are spelt with them."""


def printable(text: object) -> str:
    """``text`` in one line that does nothing but show: all that a terminal would obey becomes ``?``.

    Names of files and classes, captions and messages of other libraries come from outside: they may hold escape
    sequences, line ends, marks that turn the direction of writing, and bytes that are no text.

    >>> printable("cat\\x1b[2J")
    'cat?[2J'
    """
    return "".join(c if c.isprintable() or c in JOINERS else "?" for c in str(text))
