"""What goes wrong for a user, in one line: whatever leaves a verb or a page passes here, and no traceback does."""

from __future__ import annotations

import errno
import re
import traceback

MEMORY = "ask for less: a smaller --size, --image-size, --train.batch or -n"

DAMAGED = {
    "SafetensorError": "a file of weights is damaged, or could not be written whole: is the disk full?",
    "UnpicklingError": "a file is damaged, or holds pickled Python objects, which are never opened",
    "BadZipFile": "an archive is damaged",
    "LZMAError": "an archive is damaged",
    "EOFError": "a file ends too early: it is damaged",
    "DecompressionBombError": "an image is too large to be opened",
}
"""Errors of other libraries by the name of their class (so that none of them is imported for it), in words."""


def in_words(error: BaseException) -> str | None:
    """One line for an error that a user can cause; None for a bug."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "OutOfMemoryError" in kinds or _of_memory(error, text):
        asked = re.search(r"allocate:? ([\d.,]+ ?\w*)", text)
        return f"out of memory{f' ({asked[1]} more were needed)' if asked else ''}: {MEMORY}"
    if isinstance(error, OSError) and error.strerror:
        hint = ": make room and run the same command again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}{hint}"
    for name, words in DAMAGED.items():
        if name in kinds:
            return f"{words} ({text})" if text and name != "UnpicklingError" else words  # torch's advice: unpickle it
    if type(error).__module__ in ("struct", "zlib", "lzma", "zipfile") or "PytorchStreamReader" in text:
        return f"a file is damaged ({text})"
    if isinstance(error, RecursionError):
        return "something given is nested too deeply to be read"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("trilemma"):
        return f"the package {error.name} is missing: pip install {error.name.split('.')[0]}"
    if isinstance(error, ValueError | OSError) or type(error).__module__.startswith("trilemma."):
        return text or type(error).__name__
    return None


def _of_memory(error: BaseException, text: str) -> bool:
    """Whether a ``RuntimeError`` of torch is one of memory: on a CPU they have no class of their own."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, RuntimeError) and any(word in text for word in words)


def bug(error: BaseException) -> str:
    """One line on an error that no user should see."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "trilemma" in frame.filename]
    place = f" at {frames[-1].filename.rpartition('trilemma/')[2]}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())[:300]
    return (
        f"this is a bug in trilemma: {type(error).__name__}{place}{f': {text}' if text else ''}. Please report it with "
        "the command and what it prints after TRILEMMA_DEBUG=1"
    )
