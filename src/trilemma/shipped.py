"""The zoo: small trained runs that lie in the package, and are opened as copies in the cache folder.

So whatever is written beside such a run is written there, and the installation stays as it is.
"""

from __future__ import annotations

import hashlib
import shutil
from difflib import get_close_matches
from pathlib import Path

from trilemma.files import partial, remove
from trilemma.machine import cache_folder

ZOO = Path(__file__).with_name("zoo")
"""The folder of the runs that ship with the package."""


def names() -> list[str]:
    """The names of all runs of the zoo."""
    return sorted(path.parent.name for path in ZOO.glob("*/config.json"))


def asked_for(path: Path) -> str | None:
    """NAME, where a path is ``zoo/NAME`` and nothing is there; a folder of the user's own is meant first."""
    return path.parts[1] if len(path.parts) == 2 and path.parts[0] == ZOO.name and not path.exists() else None


def title(path: Path) -> str:
    """What a run folder is called: ``zoo/NAME`` where it is a copy of one of the zoo, else its path."""
    copy = path.parent.parent == cache_folder() / ZOO.name
    return f"{ZOO.name}/{path.name}" if copy else str(path)


def folder(name: str) -> Path:
    """The copy of a run of the zoo in the cache, made if need be; it is the copy of these very files.

    Raises:
        ValueError: there is no such run, or the cache folder cannot be written, in one line.
    """
    if name not in names():
        near = get_close_matches(name, names(), 1)
        raise ValueError(
            f"there is no run zoo/{name}: "
            + (f"did you mean zoo/{near[0]}?" if near else f"there are {', '.join(names())}")
        )
    source = ZOO / name
    known = ("config.json", "metrics.json", "checkpoints/*/checksums.json")
    told = [file.read_bytes() for pattern in known for file in sorted(source.glob(pattern))]
    place = cache_folder() / ZOO.name / hashlib.sha256(b"".join(told)).hexdigest()[:12] / name
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = partial(place)
        for file in (file for file in source.rglob("*") if file.is_file()):
            copy = fresh / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)  # not its permissions: an installation may be read-only
        try:
            fresh.rename(place)
        except OSError:
            remove(fresh)
            if not place.is_dir():  # another process was quicker
                raise
    except OSError as error:
        raise ValueError(
            f"zoo/{name} is copied to the cache before it is opened, and {place.parent} cannot be written "
            f"({error.strerror}): set TRILEMMA_CACHE to another folder"
        ) from None
    return place
