"""``python -m trilemma.studio.worker EXIT VERB …``: one verb of the command, whose exit status is left in a file."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from trilemma import bars
from trilemma.files import write_text


def run(words: list[str]) -> None:
    """Do what ``words[1:]`` say and write how it ended into the file ``words[0]``."""
    bars.QUIET_SECONDS = 1.0  # its words are read by a page that is looked at
    code: object = 1
    try:
        sys.argv = ["trilemma", *words[1:]]
        runpy.run_module("trilemma", run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        raise
    finally:
        write_text(Path(words[0]), str(code))


if __name__ == "__main__":
    run(sys.argv[1:])
