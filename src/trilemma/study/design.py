"""What a study shows: which images from where, and which of them one rater judges in which order.

A study is a folder: ``study.json`` says how it was made, ``images/`` holds its pictures, all alike in size, form and
number of bytes, and ``votes.sqlite`` what was said (``votes.py``). The trials of a rater are a function of the seed of
the study and the rater's code, so that nothing else needs to be kept for a session to go on.

The forms are those of Zhou et al., "HYPE: A Benchmark for Human eYe Perceptual Evaluation of Generative Models"
(NeurIPS 2019), one image at a time without limit (HYPE∞) or for a moment (HYPE_time), and pairs of which one is chosen
(two-alternative forced choice).
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from trilemma.data import DataConfig, Dataset, load, subset
from trilemma.evaluation import check_alike
from trilemma.files import new_folder, write_json
from trilemma.images import to_display, to_pil
from trilemma.metrics.exposure import START, next_exposure
from trilemma.noise import derive_seed, philox
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.study.vote import REAL, Form, Vote
from trilemma.validate import Amount, Count, Limits, Seed, check_limits, decode, read_json

NOISE = "noise"
"""The name of the source of planted easy images."""
FILE = "study.json"
IMAGES = "images"

PAUSED_FROM = 20
"""Trials from which there is a break in the middle."""

QUESTIONS = {
    "real-or-fake": "Is this image real or generated?",
    "real": "Which of the two is real?",
    "models": "Which of the two is better?",
}
"""What is asked unless the study says otherwise."""

Tell = Callable[[str, int, int], None]
"""Called as ``tell(source, done, total)``."""


@dataclass(frozen=True)
class Source:
    """Where some of the images are from.

    Attributes:
        name: of its row in the results.
        origin: the run, the folder or the data set.
        main: how many of its images are judged, numbered from 0.
        practice: how many more, numbered after them, are shown in the practice round only.
    """

    name: str
    origin: str
    main: Count
    practice: Amount = 0


@dataclass(frozen=True)
class Study:
    """How a study was made and what a rater does in it.

    Attributes:
        title: for raters: it says nothing of the sources.
        form: one image at a time, or two side by side.
        sources: those under test; ``real``: the held-out real images.
        shape: ``(channels, height, width)`` of every image.
        question: what is asked.
        pair: of two images, one is real, or both are of models.
        trials: that count, of one rater; ``checks``: planted easy ones among them; ``practice``: before them.
        exposure: milliseconds that an image is shown; None for as long as the rater wishes.
        staircase: ``exposure`` is the first, and the answers move the next ones (HYPE_time, `metrics/exposure.py`).
        score: tell raters at the end how often they were right.
        seed: of the images and of the trials.
    """

    title: str
    form: Form
    sources: tuple[Source, ...]
    real: Source
    shape: Annotated[tuple[int, int, int], Limits(1)]
    question: str
    pair: Literal["real", "models"] = "real"
    trials: Annotated[int, Limits(1, 2000)] = 60
    checks: Annotated[int, Limits(0, 50)] = 6
    practice: Annotated[int, Limits(0, 50)] = 6
    exposure: Annotated[float | None, Limits(16, 60_000)] = None
    staircase: bool = False
    score: bool = True
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_limits(self)
        names = [source.name for source in self.sources]
        if not names:
            raise ValueError("a study needs something to judge: give it --runs or --samples")
        if self.form == "pairs" and self.pair == "models" and len(names) < 2:
            raise ValueError("pairs of models need two of them: give another of --runs or --samples")
        for name in names:
            if name in (REAL, NOISE) or names.count(name) > 1 or not name.strip():
                raise ValueError(f"a source cannot be called {name!r}: give it a name of its own, as in NAME=FOLDER")
        if self.exposure is not None and self.form == "pairs":
            raise ValueError("only one image at a time can be shown for a moment: leave --exposure, or --form pairs")
        if self.staircase and self.exposure is None:
            raise ValueError("a staircase needs its first exposure")
        if self.staircase and len(names) > 1:
            raise ValueError(
                "a staircase finds the threshold of one source, and an easy one would pull down all: make a study of "
                "each, or give --exposure in milliseconds"
            )

    @property
    def length(self) -> int:
        """Trials of a whole session."""
        return self.practice + self.trials + self.checks

    @property
    def pause(self) -> int:
        """The trial before which there is a break; -1 for none."""
        rest = self.trials + self.checks
        return self.practice + rest // 2 if rest >= PAUSED_FROM else -1

    def items(self) -> Iterator[tuple[str, int]]:
        """Every image: its source and its number."""
        for source in (*self.sources, self.real):
            yield from ((source.name, i) for i in range(source.main + source.practice))
        yield from ((NOISE, i) for i in range(self.checks))

    def file(self, source: str, item: int) -> str:
        """The name of an image's file, which says nothing to who does not know the seed and the names."""
        return f"{derive_seed(self.seed, 'image', source, item):016x}.png"


@dataclass(frozen=True)
class Trial:
    """What is shown at once; see `Vote`."""

    role: Literal["practice", "check", "main"]
    source: str
    item: int
    other: str = ""
    other_item: int = -1


def open_study(folder: str | os.PathLike[str]) -> Study:
    """The study in a folder; one-line ``ValueError`` where there is none, or a damaged one."""
    file = Path(folder) / FILE
    return decode(Study, read_json(file, ", so this is no study: `trilemma study new` makes one"), str(file))


# --------------------------------------------------------------------------------------------------------- trials


def trials(study: Study, rater: str) -> tuple[Trial, ...]:
    """The session of one rater: practice, then the trials with the checks among them.

    As many images are real as are generated, so that 50 % is chance and d′ is estimated where it is best; the sources
    share the generated ones equally, to one trial. In pairs every pair comes equally often and on either side equally
    often. No image comes twice until all of its source have been shown.
    """
    random = philox(derive_seed(study.seed, "rater", rater))
    sizes = {source.name: source for source in (*study.sources, study.real)}
    decks = {name: itertools.cycle(random.permutation(size.main).tolist()) for name, size in sizes.items()}
    spare = {
        name: itertools.cycle((size.main + random.permutation(size.practice)).tolist())
        if size.practice
        else decks[name]
        for name, size in sizes.items()
    }
    practice = _dealt(study, "practice", study.practice, spare, random)
    main = _dealt(study, "main", study.trials, decks, random)
    # A check somewhere in each of as many stretches of equal length.
    bounds = np.linspace(0, len(main), study.checks + 1).astype(int)
    places = [int(random.integers(low, max(high, low + 1))) for low, high in itertools.pairwise(bounds)]
    for number, place in reversed(list(enumerate(places))):
        easy: tuple[str, int] = (NOISE, number)
        if study.form == "real-or-fake":
            main.insert(place, Trial("check", *easy))
        else:
            sides = [easy, (REAL, next(decks[REAL]))]
            random.shuffle(sides)
            main.insert(place, Trial("check", *sides[0], *sides[1]))
    return (*practice, *main)


def _dealt(
    study: Study, role: Literal["practice", "main"], count: int, decks: Mapping[str, Iterator[int]], random: Any
) -> list[Trial]:
    """So many balanced trials in an order of their own, each with the next image of its sources."""
    names = [source.name for source in study.sources]
    random.shuffle(names)
    flip = int(random.integers(2))
    kinds: list[tuple[str, ...]]
    if study.form == "real-or-fake":
        kinds = [(REAL if (i + flip) % 2 else names[i // 2 % len(names)],) for i in range(count)]
    else:
        couples = [(name, REAL) for name in names] if study.pair == "real" else list(itertools.combinations(names, 2))
        kinds = [couples[i % len(couples)][:: 1 - 2 * ((i // len(couples) + flip) % 2)] for i in range(count)]
    dealt = []
    for place in random.permutation(count):
        one, *other = ((name, next(decks[name])) for name in kinds[place])
        dealt.append(Trial(role, *one, *other[0]) if other else Trial(role, *one))
    return dealt


def exposure(study: Study, said: Sequence[Vote]) -> float | None:
    """Milliseconds for which the next image is shown, after what this rater has said; None without limit."""
    now = study.exposure
    if now is None or not study.staircase:
        return now
    for vote in said:
        if vote.role == "main":  # an easy one would pull it down
            now = next_exposure(now, bool(vote.right))
    return now


# --------------------------------------------------------------------------------------------------------- making


@dataclass(frozen=True)
class Wanted:
    """What a new study should be; the fields are those of `Study`.

    Attributes:
        title: what raters read above the first page.
        form: real-or-fake, one image at a time; pairs, two side by side.
        pair: of pairs, which is real (real) or which of two models' is better (models).
        question: what is asked, in words of your own.
        exposure: unlimited, staircase (HYPE_time), or milliseconds.
        images: images of each source.
        trials: that count, of each rater.
        checks: planted easy trials among them.
        practice: trials with feedback before them.
        score: tell raters at the end how often they were right.
        seed: of the images and the trials.
    """

    title: str = "Real or generated?"
    form: Form = "real-or-fake"
    pair: Literal["real", "models"] = "real"
    question: str = ""
    exposure: str = "unlimited"
    images: Annotated[int, Limits(2, 100_000)] = 100
    trials: Annotated[int, Limits(1, 2000)] = 60
    checks: Annotated[int, Limits(0, 50)] = 6
    practice: Annotated[int, Limits(0, 50)] = 6
    score: bool = True
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_limits(self)
        for field, most in (("title", 120), ("question", 200)):
            if len(getattr(self, field)) > most:
                raise ValueError(f"{field} must be at most {most} letters long")
        _ = self.milliseconds

    @property
    def milliseconds(self) -> float | None:
        """The exposure, the first of a staircase, or None."""
        if self.exposure in ("unlimited", "staircase"):
            return START if self.exposure == "staircase" else None
        try:
            return float(self.exposure.removesuffix("ms"))
        except ValueError:
            raise ValueError(
                f"exposure must be unlimited, staircase or milliseconds such as 250, not {self.exposure!r}"
            ) from None


def make(
    out: str | os.PathLike[str],
    runs: Mapping[str, Run] | None = None,
    samples: Mapping[str, str] | None = None,
    against: DataConfig | str | None = None,
    wanted: Wanted | None = None,
    *,
    device: str = "auto",
    tell: Tell | None = None,
) -> Study:
    """Make the folder of a study.

    Args:
        out: where; it must not hold a study with votes.
        runs: trained runs by the names of their rows; samples: folders, archives and data sets by theirs.
        against: the real images, of which the held-out ones are shown; by default those of the first run.
        wanted: what is asked and how.

    Raises:
        ValueError: sources that are not alike, too few images, or what cannot be shown, in one line.
    """
    wanted, runs, samples, out = wanted or Wanted(), runs or {}, samples or {}, Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists: choose a new folder for a new study")
    first = next(iter(runs.values()), None)
    if against is None and first is None:
        raise ValueError("a study needs real images: give it --against")
    source = against if against is not None else first.config.data if first else ""
    if first is not None and isinstance(source, str):
        source = first.config.data.like(first.config.spec, source)
    dataset = load(source, progress=False)
    if dataset.vector:
        raise ValueError(f"{dataset.name} holds vectors, which nobody can tell from others by looking: give it images")
    for run in runs.values():
        check_alike(run, dataset)
    count, practice = wanted.images, wanted.practice
    real = _real(dataset, wanted, len(runs) + len(samples))
    pictures: dict[str, Tensor] = {}
    sources = []
    for name, run in runs.items():
        draws = (lambda done, total, name=name: tell(name, done, total)) if tell else None
        drawn = sample(run, count + practice, seed=derive_seed(wanted.seed, "study"), device=device, progress=draws)
        pictures[name] = to_display(drawn.images, drawn.spec.levels)
        sources.append(Source(name, str(run.path), count, practice))
    for name, place in samples.items():
        pictures[name] = _sampled(place, dataset, count + practice, wanted.seed)
        spare = min(practice, len(pictures[name]) // 4)
        sources.append(Source(name, place, len(pictures[name]) - spare, spare))
    pictures[REAL] = real
    spare = min(practice, len(real) // 4)
    shown = Source(REAL, dataset.name, len(real) - spare, spare)
    pictures[NOISE] = _noise(real, wanted.checks, wanted.seed)
    question = wanted.question.strip() or QUESTIONS[wanted.pair if wanted.form == "pairs" else wanted.form]
    study = Study(
        wanted.title.strip() or Wanted.title, wanted.form, tuple(sources), shown, dataset.spec().image_shape, question,
        wanted.pair, wanted.trials, wanted.checks, wanted.practice, wanted.milliseconds,
        wanted.exposure == "staircase", wanted.score, wanted.seed,
    )  # fmt: skip
    encoded = alike([pictures[name][item] for name, item in study.items()])
    with new_folder(out) as folder:
        (folder / IMAGES).mkdir()
        for (name, item), content in zip(study.items(), encoded, strict=True):
            (folder / IMAGES / study.file(name, item)).write_bytes(content)
        write_json(folder / FILE, dataclasses.asdict(study))
    return study


def _real(dataset: Dataset, wanted: Wanted, sources: int) -> Tensor:
    """Held-out real images, as many as all sources together have, or as there are."""
    rounds = 1 if wanted.form == "pairs" and wanted.pair == "models" else max(1, sources)
    chosen = subset(dataset.test, wanted.images * rounds + wanted.practice, wanted.seed)
    if len(chosen) < 2:
        raise ValueError(f"{dataset.name} has no held-out images to show")
    return to_display(dataset.batch(np.sort(chosen)), dataset.levels)


def _sampled(place: str, dataset: Dataset, count: int, seed: int) -> Tensor:
    """Images from anywhere, brought to the form of the real ones."""
    found = load(dataset.config.like(dataset.spec(), place), split=False, progress=False)
    if len(found.images) < 2:
        raise ValueError(f"{place} holds too few images to be judged: give at least 2")
    return to_display(found.batch(np.sort(subset(np.arange(len(found.images)), count, seed))), found.levels)


def _noise(real: Tensor, count: int, seed: int) -> Tensor:
    """Images that anybody tells from real ones: noise, the pixels of a real image in disorder, one grey, in turn."""
    random = philox(derive_seed(seed, "checks"))
    made = []
    for i in range(count):
        image = real[i % len(real)].numpy()
        if i % 3 == 0:
            made.append(random.integers(0, 256, image.shape))
        elif i % 3 == 1:
            made.append(random.permuted(image.reshape(len(image), -1), axis=1).reshape(image.shape))
        else:
            made.append(np.full(image.shape, random.integers(64, 192)))
    return torch.from_numpy(np.stack(made).astype(np.uint8)) if made else real[:0]


# ---------------------------------------------------------------------------------------------------------- bytes


def alike(images: Sequence[Tensor]) -> list[bytes]:
    """uint8 [C, H, W] images as PNG without a word about them, all of the same number of bytes.

    How well an image compresses says much about where it is from. So each is filled up to one length by a chunk that
    viewers skip (PNG, second edition, 4.7.2: ancillary, private).
    """
    files = []
    for image in images:
        file = io.BytesIO()
        to_pil(image).save(file, "PNG", compress_level=6)
        files.append(file.getvalue())
    longest = max(map(len, files)) + 12
    return [_filled(content, -(-longest // 1024) * 1024) for content in files]


def _filled(content: bytes, length: int) -> bytes:
    chunk = b"paDd" + bytes(length - len(content) - 12)
    return (
        content[:-12] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[-12:]
    )
