"""What files outside the package add: families, samplers, metrics and questions, each one file.

A file is named in ``$TRILEMMA_PLUGINS`` (several with the path separator of the system between them), or is a module
that a package names as an entry point of the group ``trilemma.plugins``. It is imported once, when the first registry
is asked; what it defines is found there by its base class, like what is built in. Samplers, whose fields become options
of every denoising family, are registered by a decorator. On the command line ``path.py:Class`` may stand where the name
of a family would.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")


@functools.cache
def load_plugins() -> None:
    """Import what is named; ``ValueError``, one line, for a file that is not there or fails."""
    for entry in entry_points(group="trilemma.plugins"):
        try:
            entry.load()
        except Exception as error:  # nobody asked for it by name: a warning is enough, and the others work
            warnings.warn(f"the plugin {entry.name} ({entry.value}) cannot be used: {error}", stacklevel=3)
    for name in filter(None, os.environ.get("TRILEMMA_PLUGINS", "").split(os.pathsep)):
        load_file(name, "TRILEMMA_PLUGINS")


def load_file(name: str, where: str) -> ModuleType:
    """Import a Python file, once.

    Args:
        where: it was named, for the error.

    Raises:
        ValueError: it is not there or fails, in one line.
    """
    path = Path(name).expanduser()
    if (known := _FILES.get(path.resolve())) is not None:
        return known
    module = f"trilemma_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"{where} names {path}, which is no Python file")
    made = sys.modules[module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except Exception as error:
        raise ValueError(f"{path}, named by {where}, fails: {type(error).__name__}: {error}") from error
    _FILES[path.resolve()] = made
    return made


_FILES: dict[Path, ModuleType] = {}
"""Those that were imported."""


def load_class(text: str) -> Any:
    """The class that ``path.py:Class`` names; ``ValueError``, one line, where there is none."""
    path, _, name = text.rpartition(":")
    found = getattr(load_file(path, text), name, None)
    if not isinstance(found, type):
        raise ValueError(f"there is no class {name} in {path}")
    return found


class Registry(Mapping[str, type[T]]):
    """Classes by their ``name``: those that are built in, in their order, then those of plugins.

    Args:
        base: of all of them.
        known: what is built in.
    """

    def __init__(self, base: Any, known: Iterable[type[T]] = ()) -> None:
        self._base, self._known = base, tuple(known)

    @property
    def built_in(self) -> tuple[str, ...]:
        """The names of what is built in, in their order."""
        return tuple(str(vars(cls)["name"]) for cls in self._known)

    def _classes(self) -> dict[str, type[T]]:
        load_plugins()
        found: dict[str, type[T]] = {}
        for cls in (*self._known, *defined(self._base)):
            name = vars(cls)["name"]
            if found.setdefault(name, cls) is not cls:
                raise ValueError(f"there are two of the name {name!r}: {found[name].__module__} and {cls.__module__}")
        return found

    def __getitem__(self, name: str) -> type[T]:
        return self._classes()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes())

    def __len__(self) -> int:
        return len(self._classes())


def defined(base: Any) -> list[Any]:
    """The final classes below a base, in the order of their definition: those that give themselves a ``name``."""
    found: list[Any] = []
    for cls in base.__subclasses__():
        found += [cls] if "name" in vars(cls) else []
        found += defined(cls)
    return found
