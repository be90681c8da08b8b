"""The run folder: the only handoff from training to everything after it, and the only place that knows its paths.

    RUN/
      config.json               what the run is (`RunConfig`)
      tokenizer.json words.txt  how captions are read, and the words among them, where it is trained on captions
      metrics.jsonl             the training log, one line each few steps
      metrics.json              the last evaluation, with its pictures samples.png and neighbours.png
      samples/step-00000500.png sample grids from fixed seeds
      checkpoints/step-00000500/
        weights.safetensors  ema.safetensors  optimizers.pt  state.json  checksums.json

A checkpoint is written to a temporary folder, flushed to disk, verified and renamed, and only then is an older one
removed; the last two are kept. Whatever moment a process dies at, a whole checkpoint stands.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trilemma.config import RunConfig, flatten, to_dict
from trilemma.data import Dataset
from trilemma.data.captions import Tokens
from trilemma.families import FAMILIES
from trilemma.families.family import Family
from trilemma.noise import derive_seed

KEPT = 2
"""Checkpoints kept."""


@dataclass
class State:
    """What a checkpoint holds beside the config.

    ``images`` counts training images seen over all processes, ``seconds`` the time spent in training steps.
    """

    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizers: list[dict[str, Any]]
    step: int
    images: int
    seconds: float


class Run:
    """A run folder, opened. Make one with `Run.create`, or `Run.open` one that is there."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: RunConfig, tokens: Tokens | None = None) -> Run:
        """Make the folder and write its config, and how captions are read; ``ValueError`` if it holds a run already."""
        path = Path(path)
        if is_run(path):
            raise ValueError(f"{path} already holds a run: add --resume to continue it, or choose another --out")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path} exists and is not a run folder: choose another --out")
        path.mkdir(parents=True, exist_ok=True)
        for name, text in (tokens.files() if tokens else {}).items():
            write_text(path / name, text)
        write_json(path / "config.json", to_dict(config))
        return cls(path, config)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Open a run folder; one-line ``ValueError`` if it is none, or from a newer version."""
        path = Path(path)
        if not is_run(path):
            hint = "no such folder" if not path.exists() else "there is no config.json in it"
            raise ValueError(f"{path} is not a run folder ({hint}): give the --out folder of `trilemma train`")
        where = str(path / "config.json")
        try:
            record = json.loads((path / "config.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{where} cannot be read: {error}") from None
        return cls(path, RunConfig.from_dict(record, where))

    # The model

    def build(self) -> Family:
        """A fresh model with the weights that the run's seed gives, on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.seed, "initialisation"))
            return FAMILIES[self.config.family](self.config.model, self.config.spec)

    def model(self, device: torch.device | str = "cpu") -> Family:
        """The trained model, ready to sample from and to ask: its averaged weights where there are any."""
        folder = self.checkpoint()
        name = "ema.safetensors" if (folder / "ema.safetensors").exists() else "weights.safetensors"
        model = self.build()
        load_weights(model, load_file(folder / name), str(folder / name))
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.eval().requires_grad_(False)

    # Conditions

    def tokens(self) -> Tokens | None:
        """How this run reads captions; None where it reads none."""
        return Tokens.read(self.path, self.config.spec.length) if self.config.spec.vocabulary else None

    def conditions(self, dataset: Dataset, indices: Sequence[int] | Any) -> Tensor | None:
        """What a model of this run is told of images of a data set: labels int64 [N], captions int64 [N, length].

        Classes are matched by their names. None where it is told nothing, or the data set does not know it.

        Raises:
            ValueError: the images are of classes that the run does not know, in one line.
        """
        spec, names = self.config.spec, self.config.class_names
        if spec.vocabulary and dataset.captions is not None:
            tokens = self.tokens()
            assert tokens is not None
            return tokens.rows([dataset.captions[i] for i in indices])
        if not spec.classes:
            return None
        if not self.config.data_fingerprint:  # imported without its data: it knows its classes by number alone
            return dataset.label_batch(indices) if spec.classes == len(dataset.class_names) else None
        return dataset.labels_as(names, indices, str(self.path))

    # Checkpoints

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self) -> Path:
        """The newest whole checkpoint; damaged ones are named in a warning and passed over."""
        folders = sorted(self._checkpoints.glob("step-*"), reverse=True)
        for folder in folders:
            if fault := damage(folder):
                warnings.warn(f"checkpoint {folder} is damaged ({fault}); using the one before it", stacklevel=2)
            else:
                return folder
        raise ValueError(
            f"{self.path} has no {'whole ' if folders else ''}checkpoint"
            + (": every one is damaged" if folders else " yet: train it first")
        )

    @property
    def has_checkpoint(self) -> bool:
        return any(self._checkpoints.glob("step-*"))

    def progress(self) -> dict[str, float]:
        """``step``, ``images`` and ``seconds`` of the newest whole checkpoint."""
        progress: dict[str, float] = json.loads((self.checkpoint() / "state.json").read_text("utf-8"))
        return progress

    def save(self, state: State) -> Path:
        """Write a checkpoint atomically, verify it, and only then drop those before the last two."""
        self._checkpoints.mkdir(exist_ok=True)
        final = self._checkpoints / f"step-{state.step:08d}"
        if final.exists() and not damage(final):
            return final
        partial = self._checkpoints / f".partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in state.model.items()}, partial / "weights.safetensors"
            )
            if state.ema is not None:
                save_file({k: v.detach().cpu().contiguous() for k, v in state.ema.items()}, partial / "ema.safetensors")
            torch.save(state.optimizers, partial / "optimizers.pt")
            counters = {"step": state.step, "images": state.images, "seconds": state.seconds}
            (partial / "state.json").write_text(json.dumps(counters), "utf-8")
            sums = {file.name: sha256(file) for file in sorted(partial.iterdir())}
            (partial / "checksums.json").write_text(json.dumps(sums), "utf-8")
            for file in partial.iterdir():
                flush(file)
            flush(partial)
            if fault := damage(partial):
                raise OSError(f"the checkpoint could not be written whole to {partial} ({fault}); is the disk full?")
            shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
            partial.rename(final)
            flush(self._checkpoints)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        whole = [folder for folder in sorted(self._checkpoints.glob("step-*")) if not damage(folder)]
        for folder in whole[:-KEPT]:
            shutil.rmtree(folder)
        return final

    def load(self) -> State:
        """The state in the newest whole checkpoint; nothing in it is unpickled."""
        folder = self.checkpoint()
        ema = folder / "ema.safetensors"
        counters = json.loads((folder / "state.json").read_text("utf-8"))
        return State(
            model=load_file(folder / "weights.safetensors"),
            ema=load_file(ema) if ema.exists() else None,
            optimizers=torch.load(folder / "optimizers.pt", weights_only=True, map_location="cpu"),
            step=int(counters["step"]),
            images=int(counters["images"]),
            seconds=float(counters["seconds"]),
        )

    # Logs and pictures

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to the training log."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def logs(self) -> list[dict[str, Any]]:
        """The training log; a last line cut off by a kill is left out."""
        records = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.path / "metrics.jsonl").read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    records.append(json.loads(line))
        return records

    def rewind_logs(self, step: int) -> None:
        """Drop log lines after ``step``, which a resumed run will write again."""
        if (self.path / "metrics.jsonl").exists():
            kept = [json.dumps(record) for record in self.logs() if record.get("step", 0) <= step]
            write_text(self.path / "metrics.jsonl", "".join(line + "\n" for line in kept))

    def picture(self, step: int) -> Path:
        """Where the sample grid of a step belongs."""
        return self.path / "samples" / f"step-{step:08d}.png"

    @property
    def evaluation(self) -> Path:
        """Where the last evaluation belongs."""
        return self.path / "metrics.json"

    def figure(self, name: str) -> Path:
        """Where a picture of the last evaluation belongs."""
        return self.path / f"{name}.png"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder for writing; ``ValueError`` at once if another process holds it."""
        with (self.path / "lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise ValueError(
                    f"{self.path} is in use by another process (pid {file.read().strip() or 'unknown'}): "
                    "wait for it or stop it"
                ) from None
            _stamp(file)
            yield


def _stamp(file: IO[str]) -> None:
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a run folder."""
    return (Path(path) / "config.json").is_file()


def same_run(saved: RunConfig, wanted: RunConfig) -> str | None:
    """What differs between a saved config and the one asked for, in words, or None. Versions may differ."""
    old, new = flatten(saved), flatten(replace(wanted, version=saved.version))
    return next(
        (f"{key} is {old[key]!r} in the run, {new[key]!r} was asked for" for key in old if old[key] != new.get(key)),
        None,
    )


def load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load weights that fit exactly; a one-line ``ValueError`` names the first tensor that does not."""
    own = model.state_dict()
    names: Sequence[str] = sorted(set(own) ^ set(weights))
    if names:
        side = "lacks" if names[0] in own else "has an unknown"
        raise ValueError(f"{where} does not belong to this config: it {side} tensor {names[0]!r}")
    for name, tensor in weights.items():
        if own[name].shape != tensor.shape:
            raise ValueError(
                f"{where} does not belong to this config: {name!r} has shape {list(tensor.shape)}, "
                f"the config says {list(own[name].shape)}"
            )
    model.load_state_dict(dict(weights))


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, in words, or None if every checksum holds."""
    try:
        sums = json.loads((folder / "checksums.json").read_text("utf-8"))
        for name in ("weights.safetensors", "optimizers.pt", "state.json"):
            if name not in sums:
                return f"{name} is not listed in checksums.json"
        for name, digest in sums.items():
            if sha256(folder / name) != digest:
                return f"{name} does not match its checksum"
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> Path:
    """Replace a text file atomically."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, "utf-8")
        flush(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_json(path: Path, record: Any) -> Path:
    """Replace a JSON file atomically; NaN is refused."""
    return write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
