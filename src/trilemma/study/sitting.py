"""A study while people sit at it: what a rater is shown next, and nothing that tells which image is which.

Everything a rater's page receives has one shape and one number of bytes (`State.text`, `design.alike`), images are read
from memory in one way, and their addresses are a keyed hash of rater, trial and side. Whether an answer was right is
said in the practice round only, after the vote is stored.
"""

from __future__ import annotations

import hmac
import json
import math
import os
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from trilemma.study.design import IMAGES, Study, Trial, exposure, open_study, trials
from trilemma.study.results import results
from trilemma.study.vote import REAL, Vote
from trilemma.study.votes import Votes

AHEAD = 3
"""Trials whose images a page may load before they are shown."""
LENGTH = 4096
"""Bytes of every answer to a rater's page."""
SLACK = 25.0
"""Milliseconds by which an exposure may differ from what was meant and still be called so; a frame takes 17."""
KEPT = 256
"""Raters whose trials and votes are kept in memory."""

Answer = Literal["real", "fake", "left", "right"]


@dataclass(frozen=True)
class State:
    """What a rater's page knows: where the rater stands and what comes next.

    Attributes:
        code: the rater's; ``trial``: the number of the next; ``of``: how many there are; ``practice``: of them.
        title, question, form, pair: of the study.
        shape: ``(height, width)`` of the images.
        images: the addresses of this trial's images and of the next ones'.
        exposure: milliseconds that this trial's image is shown; None without limit.
        pause: whether there is a break first; ``done``: whether that was all.
        feedback: after a vote in the practice round, ``right`` or ``wrong``; "" where there is nothing to say.
        score: at the end and where the study tells it, the share of right answers.
    """

    code: str
    trial: int
    of: int
    practice: int
    title: str
    question: str
    form: str
    pair: str
    shape: tuple[int, int]
    images: tuple[tuple[str, ...], ...]
    exposure: float | None = None
    pause: bool = False
    done: bool = False
    feedback: str = ""
    score: float | None = None

    def text(self) -> bytes:
        """JSON of `LENGTH` bytes, whatever it says."""
        return json.dumps(asdict(self)).encode().ljust(LENGTH)


class Sitting:
    """An open study.

    Args:
        folder: of the study.

    Raises:
        ValueError: it is none, or an image is missing, in one line.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.study: Study = open_study(folder)
        self._images: dict[tuple[str, int], bytes] = {}
        for name, item in self.study.items():
            file = self.folder / IMAGES / self.study.file(name, item)
            try:
                self._images[name, item] = file.read_bytes()
            except OSError as error:
                raise ValueError(f"{file} cannot be read ({error.strerror}): make the study anew") from None
        if len({len(content) for content in self._images.values()}) > 1:
            raise ValueError(f"the images in {self.folder} are not of one length, which tells them apart: make it anew")
        self.votes = Votes(folder)
        self._trials: OrderedDict[str, tuple[Trial, ...]] = OrderedDict()
        self._said: OrderedDict[str, list[Vote]] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the votes."""
        self.votes.close()

    def begin(self, code: str = "") -> State:
        """A new rater, or one who comes back with a code.

        Raises:
            ValueError: the study is closed, or there is no such code.
        """
        self._let_in()
        if not code:
            code = self.votes.new_rater()
        return self._state(self._known(code), self._of_rater(code))

    def vote(self, code: str, trial: int, answer: Answer, milliseconds: float, shown: float | None = None) -> State:
        """Keep what a rater says of a trial, and what comes next. A trial that was answered before stays as it was.

        Args:
            milliseconds: until the answer; ``shown``: how long the image was to be seen, where that is limited.
        """
        self._let_in()
        said = self._of_rater(self._known(code))
        if trial >= self.study.length or trial < 0 or trial > len(said):
            raise ValueError(f"trial {trial} has not come yet: load the page again")
        if answer not in (("real", "fake") if self.study.form == "real-or-fake" else ("left", "right")):
            raise ValueError(f"{answer!r} is no answer to this question")
        if not 0 <= milliseconds < math.inf or not 0 <= (shown or 0) < math.inf:
            raise ValueError("a time must be a number of milliseconds")
        which = self._of(code)[trial]
        if trial == len(said):
            meant = exposure(self.study, said)
            if meant is not None and shown is not None and abs(shown - meant) > SLACK:
                meant = float(shown)  # as it was, not as it was meant
            vote = Vote(
                code, trial, self.study.form, which.role, which.source, which.item, answer, which.other,
                which.other_item, meant, min(float(milliseconds), 1e9), time.time(),
            )  # fmt: skip
            self.votes.add(vote)
            said = self._of_rater(code)  # another page of the same rater may have been quicker
        feedback = ""
        if which.role == "practice" and (right := said[trial].right) is not None:
            feedback = "right" if right else "wrong"
        return self._state(code, said, feedback)

    def image(self, code: str, address: str) -> bytes | None:
        """The image at an address: one of the next trials of this rater; None where there is none."""
        if not self.votes.knows(code):
            return None
        at = self.votes.answered(code)
        found = None
        for number in range(max(0, at - 1), min(at + AHEAD, self.study.length)):
            for side, key in enumerate(self._shown(code, number)):
                if hmac.compare_digest(self._address(code, number, side), address):
                    found = self._images[key]
        return found

    def _let_in(self) -> None:
        if not self.votes.open:
            raise Closed("this study is closed: thank you for looking in")

    def _known(self, code: str) -> str:
        if not self.votes.knows(code):
            raise ValueError("nobody has this code: look at it once more, or begin anew")
        return code

    def _of_rater(self, code: str) -> list[Vote]:
        """What a rater has said; a vote never changes, so that only new ones are read."""
        with self._lock:
            before = self._said.pop(code, [])
            self._said[code] = now = [*before, *self.votes.of(code, len(before))]
            while len(self._said) > KEPT:
                self._said.popitem(last=False)
            return now

    def _of(self, code: str) -> tuple[Trial, ...]:
        with self._lock:
            if code not in self._trials:
                self._trials[code] = trials(self.study, code)
                while len(self._trials) > KEPT:
                    self._trials.popitem(last=False)
            self._trials.move_to_end(code)
            return self._trials[code]

    def _shown(self, code: str, number: int) -> list[tuple[str, int]]:
        """The images of a trial from left to right."""
        trial = self._of(code)[number]
        return [(trial.source, trial.item)] + ([(trial.other, trial.other_item)] if trial.other else [])

    def _address(self, code: str, number: int, side: int) -> str:
        return blake2b(f"{code}/{number}/{side}".encode(), key=self.votes.secret, digest_size=16).hexdigest()

    def _state(self, code: str, said: list[Vote], feedback: str = "") -> State:
        study, at = self.study, len(said)
        coming = range(at, min(at + AHEAD, study.length))
        images = tuple(
            tuple(self._address(code, i, side) for side in range(2 if study.form == "pairs" else 1)) for i in coming
        )
        judged = [vote.right for vote in said if vote.role == "main" and vote.right is not None]
        done = at >= study.length
        return State(
            code, at, study.length, study.practice, study.title, study.question, study.form, study.pair,
            study.shape[1:], images, exposure(study, said), at == study.pause, done, feedback,
            sum(judged) / len(judged) if done and study.score and judged else None,
        )  # fmt: skip


class Closed(ValueError):
    """The study takes no votes now."""


def conclusions(votes: Votes) -> dict[str, Any]:
    """What the votes of a study say so far, as plain values (`results.Results`)."""
    study = open_study(votes.path.parent)
    return results(votes.all(), staircase=study.staircase).to_json()


def standing(votes: Votes, study: Study) -> dict[str, Any]:
    """How a study stands, without what the votes say: for a list of studies."""
    people, count = votes.counts()
    return {
        "title": study.title,
        "form": study.form,
        "pair": study.pair,
        "question": study.question,
        "sources": [source.name for source in study.sources],
        "real": study.real.origin if study.real.name == REAL else "",
        "exposure": "staircase" if study.staircase else study.exposure,
        "trials": study.trials,
        "raters": people,
        "votes": count,
        "open": votes.open,
    }
