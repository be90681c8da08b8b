"""What files beside the images say of them: captions and labels.

Read are ``metadata.jsonl``, ``metadata.json`` and ``metadata.csv`` of the Hub's image-folder convention (rows with
``file_name``, and ``text``, ``caption`` or ``prompt``, and ``label``, ``category`` or ``class``), StyleGAN's
``dataset.json`` (``{"labels": [["00000/a.png", 3], …]}``), and a ``.txt`` with the name of an image, which holds its
caption. Where several rows name an image, the last counts; a row counts more than a ``.txt``. Whatever is not used is
noted.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from trilemma.data.dataset import Loss, examples, label_name
from trilemma.data.fit import reason
from trilemma.text import printable

Files = Mapping[str, Callable[[], bytes]]

METADATA = ("metadata.csv", "metadata.json", "metadata.jsonl")
STYLEGAN = "dataset.json"
CAPTION_KEYS = ("text", "caption", "prompt")
LABEL_KEYS = ("label", "category", "class")


@dataclass
class Annotations:
    """Captions and class names by image; an image of which nothing is said is missing.

    Attributes:
        sharded: the source says itself that its subfolders are no classes.
        used: the files that were read.
        no_captions: why there are no captions, where there is something that looks like them.
    """

    captions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    sharded: bool = False
    used: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    no_captions: str = ""


def read_annotations(files: Files, images: Collection[str], path: Path) -> Annotations:
    """Read all that ``files`` say of ``images``; names are relative to the source at ``path``.

    Raises:
        ValueError: a file that cannot be read or understood, naming it and its line.
    """
    found = Annotations()
    names = {_plain(name): name for name in images}
    _read_rows(found, files, names, path)
    _read_stylegan(found, files, names, path)
    _read_texts(found, files, images, path)
    return found


def caption(value: object) -> tuple[str, bool]:
    """A caption from a file, "" where there is none, and whether others beside it are not used (a list of several).

    Raises:
        ValueError: a table, in the words for the middle of a line.
    """
    if isinstance(value, list | tuple):
        given = [text for text, _ in map(caption, value) if text]
        return (given[0] if given else "", len(given) > 1)
    if isinstance(value, dict):
        raise ValueError(f"a caption must be text, not {str(value)[:40]}")
    return ("" if value is None else str(value).strip(), False)


def several(count: int) -> list[str]:
    """The note on captions that were given in lists."""
    return [Loss(f"captions: {count:,} images have several, of which the first is used")] if count else []


# ------------------------------------------------------------------------------------------------------------- rows


def _read_rows(found: Annotations, files: Files, names: Mapping[str, str], path: Path) -> None:
    strangers: list[str] = []
    again, lists, rows, captioned = 0, 0, 0, False
    seen: set[str] = set()
    unused: set[str] = set()
    for name in sorted(name for name in files if PurePosixPath(name).name in METADATA):
        found.used.add(name)
        for number, row in _rows(_text(files, name, path), name, path):
            rows += 1
            file_name = row.get("file_name")
            if not isinstance(file_name, str) or not file_name:
                raise ValueError(f"{printable(name)} in {path}, line {number}: there is no file_name")
            image = _image(file_name, posixpath.dirname(name), names, path)
            if image is None:
                strangers.append(file_name)
                continue
            captioned |= any(key in row for key in CAPTION_KEYS)
            again += image in seen
            seen.add(image)
            try:
                text, more = caption(_first(row, CAPTION_KEYS))
                label = label_name(_first(row, LABEL_KEYS))
            except ValueError as error:
                raise ValueError(f"{printable(name)} in {path}, line {number}: {printable(error)}") from None
            lists += more
            found.captions[image], found.labels[image] = text, label
            unused |= {str(key) for key in row if key not in ("file_name", *CAPTION_KEYS, *LABEL_KEYS)}
    if strangers:
        found.notes.append(
            Loss(f"metadata: {len(strangers):,} of {rows:,} rows name no image here, such as {examples(strangers, 1)}")
        )
    if again:
        found.notes.append(Loss(f"metadata: {again:,} rows name an image again: the last row of each counts"))
    if unused:
        found.notes.append(f"metadata: columns not used: {examples(sorted(unused), 20)}")
    found.notes += several(lists)
    if not any(found.captions.values()) and found.used:
        which = f"{examples(sorted(found.used), 1)} is there, but "
        found.no_captions = which + (
            "none of its rows names an image of the folder"
            if len(strangers) == rows
            else f"no row has words under {', '.join(CAPTION_KEYS)}"
        )
        if captioned:
            found.notes.append(Loss(f"captions: none: {found.no_captions}"))


def _image(file_name: str, folder: str, names: Mapping[str, str], path: Path) -> str | None:
    """The image that a row means; names may be written with backslashes, composed otherwise, or be whole paths."""
    tries = [file_name, file_name.replace("\\", "/")]
    tries += [text.removeprefix(f"{path}/") for text in tries if text.startswith(f"{path}/")]
    for text in tries:
        if image := names.get(_plain(posixpath.normpath(posixpath.join(folder, text)))):
            return image
    return None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _rows(text: str, name: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with the numbers of their lines."""
    if name.endswith(".csv"):
        table = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in table:
                yield table.line_num, {key: value for key, value in row.items() if key is not None}
        except csv.Error as error:
            raise ValueError(f"{printable(name)} in {path}, line {table.line_num}: {error}") from error
        return
    if text.lstrip().startswith("["):  # one list of all, under either name
        for number, value in enumerate(_json(text, name, path), 1):
            if not isinstance(value, dict):
                raise ValueError(f"{printable(name)} in {path}: its item {number} is no JSON object")
            yield number, value
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise ValueError(f"{printable(name)} in {path}, line {number}: each line must be one JSON object")
            yield number, value


def _first(row: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    return next((row[key] for key in keys if row.get(key) is not None), None)


# ------------------------------------------------------------------------------------------- the other conventions


def _read_stylegan(found: Annotations, files: Files, names: Mapping[str, str], path: Path) -> None:
    for name in sorted(name for name in files if PurePosixPath(name).name == STYLEGAN):
        record = _json(_text(files, name, path), name, path)
        if not isinstance(record, dict) or "labels" not in record:
            continue  # another's dataset.json; it is named among the files not used
        found.used.add(name)
        found.sharded = True
        pairs = record["labels"] or []
        if isinstance(pairs, dict):
            pairs = list(pairs.items())
        strangers = []
        for number, pair in enumerate(pairs, 1):
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
                raise ValueError(f"{printable(name)} in {path}: label {number} must be [file name, class]")
            image = _image(pair[0], posixpath.dirname(name), names, path)
            if image is None:
                strangers.append(pair[0])
                continue
            try:
                found.labels[image] = label_name(pair[1])
            except ValueError as error:
                raise ValueError(f"{printable(name)} in {path}, label {number}: {printable(error)}") from None
        if strangers:
            few = examples(strangers, 1)
            found.notes.append(Loss(f"{name}: {len(strangers):,} of {len(pairs):,} labels name no image here: {few}"))


def _read_texts(found: Annotations, files: Files, images: Collection[str], path: Path) -> None:
    texts = {name: image for image in images if (name := str(PurePosixPath(image).with_suffix(".txt"))) in files}
    if not texts:
        return
    found.used |= set(texts)
    read = {image: _text(files, name, path) for name, image in texts.items()}
    if not any(c.isalpha() for text in read.values() for c in text):  # boxes of a detector, say
        found.notes.append(f"captions: not used, because the {len(read):,} .txt files hold no words")
        found.no_captions = found.no_captions or f"the {len(read):,} .txt files beside the images hold no words"
        return
    used, lists = 0, 0
    for image, text in read.items():
        if not found.captions.get(image):
            found.captions[image], more = caption(text.splitlines())
            used += 1
            lists += more
    found.notes.append(f"captions: {used:,} from .txt files beside the images")
    found.notes += several(lists)


def _text(files: Files, name: str, path: Path) -> str:
    try:
        return files[name]().decode("utf-8-sig")
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        if str(error) == "empty file":
            return ""
        raise ValueError(f"cannot read {printable(name)} in {path}: {reason(error)}") from error


def _json(text: str, name: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{printable(name)} in {path} is not JSON: {reason(error)}") from error
