"""The run folder: the only handoff from training to everything after it, and the only place that knows its paths.

    RUN/
      config.json               what the run is (`RunConfig`)
      tokenizer.json words.txt  how captions are read, and the words among them, where it is trained on captions
      metrics.jsonl             the training log, one line each few steps
      learning.jsonl            what snapshots of the training reached on images held out from it, where some were
      metrics.json              the last evaluation, with its pictures samples.png and neighbours.png
      samples/step-00000500.png sample grids from fixed seeds
      checkpoints/step-00000500/
        weights.safetensors  ema.safetensors  optimizers.pt  state.json  checksums.json
      checkpoints/best/         the weights of the snapshot that was best on those images

A checkpoint is written to a temporary folder, flushed to disk, compared with what the disk gives back and renamed, and
only then is an older one removed; the last two are kept. Whatever moment a process dies at, a whole checkpoint stands.
Weights that are not finite are never saved. Nothing that is read is trusted: names, shapes, types and counters are
those that the config says, or a line says which is not.

Small trained runs, the zoo, lie in the package. ``zoo/NAME`` names one wherever a run is read; it is
opened as a copy in the cache folder, so that whatever is written beside it is written there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import html
import io
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from trilemma import shipped
from trilemma.config import RunConfig, to_dict
from trilemma.data import Dataset
from trilemma.data.captions import TOKEN_FILES, Tokens
from trilemma.families import FAMILIES
from trilemma.families.family import Family
from trilemma.files import PARTIAL, confirm, new_folder, sweep, write_json, write_text
from trilemma.images import NotFinite
from trilemma.noise import derive_seed
from trilemma.preview import picture_html, shape_text, short
from trilemma.text import printable
from trilemma.validate import read_json

KEPT = 2
"""Checkpoints kept."""

LAST, BEST = "last", "best"
"""The names of checkpoints that can be asked for."""

LEARNING = "learning.jsonl"
"""The file of what was measured of snapshots of a training."""

LOCK = "lock"
"""The file by which a process holds a run folder."""

if TYPE_CHECKING:
    from trilemma.questions import Answer


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
        self.stopped = 0
        """The signal that stopped its training in this process; 0 if none did."""
        self.which = LAST
        """The checkpoint whose weights are meant: see `at`."""

    @property
    def title(self) -> str:
        """What it is called where it is spoken of: its path, or ``zoo/NAME``."""
        return shipped.title(self.path)

    def __repr__(self) -> str:
        config, spec = self.config, self.config.spec
        parts = [f"{config.family}, {printable(Path(config.data.source).name)} {shape_text(spec.shape)}"]
        if spec.conditional:
            parts.append(f"{spec.classes} classes" if spec.classes else "captions")
        if done := self.counters():
            parts.append(f"{done['step']:,} steps, {short(done['images'])} images")
        return f"Run({printable(self.title)!r}: {', '.join(parts)})"

    def _repr_html_(self) -> str:
        """The newest sample grid of its training, for a notebook."""
        with contextlib.suppress(IndexError, OSError):
            return picture_html([*self.pictures().values()][-1].read_bytes(), repr(self))
        return f"<p>{html.escape(repr(self))}</p>"

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: RunConfig, tokens: Tokens | None = None) -> Run:
        """Make the folder and write its config, and how captions are read; ``ValueError`` if it holds a run already.

        Of two that may make one folder at a time, each holds its `lock` meanwhile.
        """
        path = Path(path)
        check_new(path)
        path.mkdir(parents=True, exist_ok=True)
        for name, text in (tokens.files() if tokens else {}).items():
            write_text(path / name, text)
        write_json(path / "config.json", to_dict(config))
        return cls(path, config)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Open a run folder, or ``zoo/NAME``; one-line ``ValueError`` if it is none, or from a newer version."""
        path = Path(path)
        if (name := shipped.asked_for(path)) is not None:
            path = shipped.folder(name)
        if not is_run(path):
            hint = "no such folder" if not path.exists() else "there is no config.json in it"
            of_zoo = f", or zoo/{path.name}" if path.name in shipped.names() else ""
            raise ValueError(f"{path} is not a run folder ({hint}): give the --out folder of `trilemma train`{of_zoo}")
        file = path / "config.json"
        return cls(path, RunConfig.from_dict(read_json(file), str(file)))

    def ask(self, question: str = "likelihood", /, **fields: Any) -> Answer:
        """Ask one question: see `trilemma.ask`."""
        from trilemma.questions import ask  # it lives above, and this only hands on

        return ask(self, question, **fields)

    # The model

    def build(self) -> Family:
        """A fresh model with the weights that the run's seed gives, on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.seed, "initialisation"))
            return FAMILIES[self.config.family](self.config.model, self.config.spec)

    def model(self, device: torch.device | str = "cpu") -> Family:
        """The trained model, ready to sample from and to ask: its averaged weights where there are any.

        Raises:
            ValueError: there is no whole checkpoint, or it does not belong to the config, in one line.
            NotFinite: weights are not numbers.
        """
        folder = self.checkpoint()
        name = "ema.safetensors" if (folder / "ema.safetensors").exists() else "weights.safetensors"
        model = self.build()
        weights = read_weights(folder / name)
        load_weights(model, weights, str(folder / name))
        if bad := not_finite(weights):
            raise NotFinite(
                f"{folder / name} holds weights that are not numbers ({bad}): the training had diverged; train again "
                "with a lower --train.lr"
            )
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

    def at(self, checkpoint: str = BEST) -> Run:
        """The same run with the weights of another checkpoint; its evaluation and answers lie in a folder of their own.

        Args:
            checkpoint: ``last``, or ``best``: the snapshot that was best on images held out from the training images.

        Raises:
            ValueError: there is no such checkpoint, in one line.
        """
        if checkpoint not in (LAST, BEST):
            raise ValueError(f"there is no checkpoint {checkpoint!r}: choose {LAST} or {BEST}")
        if checkpoint == BEST and not (self._checkpoints / BEST).is_dir():
            raise ValueError(
                f"{self.path} has no checkpoint {BEST}: nothing was held out to choose it by, or no snapshot could be "
                "afforded; train with --train.validation 0.1"
            )
        found = Run(self.path, self.config)
        found.which = checkpoint
        return found

    def checkpoint(self) -> Path:
        """The newest whole checkpoint; damaged ones are named in a warning and passed over. Or the `best`: see `at`."""
        if self.which == BEST:
            if fault := damage(self._checkpoints / BEST):
                raise ValueError(f"checkpoint {self._checkpoints / BEST} is damaged ({fault}): use the last one")
            return self._checkpoints / BEST
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
        return _counters(self.checkpoint())

    @property
    def packed(self) -> bool:
        """Whether it holds weights alone, without the state of an optimiser, so that it cannot be trained on."""
        return self.has_checkpoint and not (max(self._checkpoints.glob("step-*")) / "optimizers.pt").exists()

    def pack(self, path: str | os.PathLike[str]) -> Run:
        """A copy in a new folder that is a few times smaller: averaged weights in half precision, no optimiser state.

        It draws, answers and is measured, but cannot be trained on. Statistics, which are no parameters, stay as they
        are. The training log and its sample grids come along; evaluations and answers, which are of the full weights,
        do not.

        Raises:
            ValueError: there is something at ``path`` already, or no checkpoint, in one line.
            NotFinite: a weight is too large for half precision.
        """
        path, model = Path(path), self.model()
        check_new(path)
        trained = {name for name, _ in model.named_parameters()}
        weights = {name: value.half() if name in trained else value for name, value in model.state_dict().items()}
        if bad := not_finite(weights):
            raise NotFinite(f"{bad} of {self.path} is too large for half precision")
        with new_folder(path) as folder:
            for name in ("config.json", "metrics.jsonl", LEARNING, *TOKEN_FILES):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(self.path / name, folder / name)
            if (self.path / "samples").is_dir():
                shutil.copytree(self.path / "samples", folder / "samples")
            checkpoint = folder / "checkpoints" / self.checkpoint().name
            checkpoint.mkdir(parents=True)
            sums = {
                "weights.safetensors": _write(checkpoint / "weights.safetensors", _packed(weights)),
                "state.json": _write(checkpoint / "state.json", json.dumps(self.progress()).encode()),
            }
            _write(checkpoint / "checksums.json", json.dumps(sums).encode())
        return Run(path, self.config)

    def counters(self) -> dict[str, float] | None:
        """The same of the newest checkpoint, be it whole or not, for a list of many runs; None where there is none."""
        with contextlib.suppress(ValueError, OSError):
            return _counters(max(self._checkpoints.glob("step-*")))
        return None

    def save(self, state: State) -> Path:
        """Write a checkpoint atomically, verify it, and only then drop those before the last two.

        Raises:
            NotFinite: weights are not numbers; nothing was written.
            OSError: it could not be written whole; the checkpoints before it stand.
        """
        parts = {"": state.model, "the averaged ": state.ema or {}}
        for name, tensors in parts.items():
            if bad := not_finite(tensors):
                raise NotFinite(f"{name}{bad} is not finite after step {state.step}")
        if bad := not_finite(_tensors(state.optimizers)):
            raise NotFinite(f"the optimiser's {bad} is not finite after step {state.step}")
        self._checkpoints.mkdir(exist_ok=True)
        final = self._checkpoints / f"step-{state.step:08d}"
        if final.exists() and not damage(final):
            return final
        counters = {"step": state.step, "images": state.images, "seconds": state.seconds}
        optimizers = io.BytesIO()
        torch.save(state.optimizers, optimizers)
        with new_folder(final) as folder:
            sums = {
                "weights.safetensors": _write(folder / "weights.safetensors", _packed(state.model)),
                "optimizers.pt": _write(folder / "optimizers.pt", optimizers.getbuffer()),
                "state.json": _write(folder / "state.json", json.dumps(counters).encode()),
            }
            if state.ema is not None:
                sums["ema.safetensors"] = _write(folder / "ema.safetensors", _packed(state.ema))
            _write(folder / "checksums.json", json.dumps(sums).encode())
        whole = [folder for folder in sorted(self._checkpoints.glob("step-*")) if not damage(folder)]
        for folder in whole[:-KEPT]:
            shutil.rmtree(folder)
        return final

    def keep_best(self, weights: Mapping[str, Tensor], counters: Mapping[str, float]) -> Path:
        """Keep the weights of a snapshot as the checkpoint ``best``, in the place of the one before.

        Raises:
            NotFinite: weights are not numbers; nothing was written.
            OSError: it could not be written whole; the one before it stands.
        """
        if bad := not_finite(weights):
            raise NotFinite(f"{bad} is not finite after step {counters['step']}")
        self._checkpoints.mkdir(exist_ok=True)
        with new_folder(self._checkpoints / BEST) as folder:
            sums = {
                "weights.safetensors": _write(folder / "weights.safetensors", _packed(weights)),
                "state.json": _write(folder / "state.json", json.dumps(dict(counters)).encode()),
            }
            _write(folder / "checksums.json", json.dumps(sums).encode())
        return self._checkpoints / BEST

    def load(self) -> State:
        """The state in the newest whole checkpoint; nothing in it is unpickled."""
        folder = self.checkpoint()
        ema, path = folder / "ema.safetensors", folder / "optimizers.pt"
        counters = _counters(folder)
        if not path.exists():
            raise ValueError(f"{self.path} {PACKED}")
        try:
            optimizers = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # of many kinds, as torch reads it; none of them executes anything
            raise ValueError(f"{path} cannot be read ({_first_line(error)}): it was not written by trilemma") from None
        if not isinstance(optimizers, list) or not all(isinstance(each, dict) for each in optimizers):
            raise ValueError(f"{path} holds no list of optimiser states: it was not written by trilemma")
        return State(
            model=read_weights(folder / "weights.safetensors"),
            ema=read_weights(ema) if ema.exists() else None,
            optimizers=optimizers,
            step=int(counters["step"]),
            images=int(counters["images"]),
            seconds=float(counters["seconds"]),
        )

    # Logs and pictures

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to the training log."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def logs(self, most: int = 0) -> list[dict[str, Any]]:
        """The training log; damaged lines are left out and counted in a warning, but for a torn last one.

        ``most`` bytes of its end are read; 0 for all.
        """
        records, damaged = [], 0
        with contextlib.suppress(FileNotFoundError):
            with (self.path / "metrics.jsonl").open("rb") as file:
                file.seek(-most, os.SEEK_END) if most else None
                content = file.read().decode("utf-8", errors="replace")
            for line in content.splitlines(keepends=True)[1 if most else 0 :]:
                if (record := _log_line(line)) is not None:
                    records.append(record)
                else:
                    damaged += line.endswith("\n")
        if damaged:
            warnings.warn(f"{damaged} damaged lines of {self.path / 'metrics.jsonl'} are left out", stacklevel=2)
        return records

    def rewind_logs(self, step: int) -> None:
        """Drop log lines after ``step``, which a resumed run will write again."""
        for name, records in (("metrics.jsonl", self.logs()), (LEARNING, self.learning())):
            if (self.path / name).exists():
                kept = [json.dumps(record) for record in records if record["step"] <= step]
                write_text(self.path / name, "".join(line + "\n" for line in kept))

    def note_learning(self, record: Mapping[str, Any]) -> None:
        """Append what was measured of a snapshot of the training."""
        with (self.path / LEARNING).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def learning(self) -> list[dict[str, Any]]:
        """What was measured of snapshots of the training, in order; lines that are damaged are left out."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.path / LEARNING).read_text(encoding="utf-8", errors="replace").splitlines()
            found = [record for line in lines if (record := _counted(line)) is not None]
            return sorted(found, key=lambda record: record["step"])
        return []

    @property
    def place(self) -> Path:
        """The folder of the evaluation and the answers of the checkpoint that is meant."""
        return self.path if self.which == LAST else self.path / self.which

    def picture(self, step: int) -> Path:
        """Where the sample grid of a step belongs."""
        return self.path / "samples" / f"step-{step:08d}.png"

    def pictures(self) -> dict[int, Path]:
        """The sample grids that were drawn while it was trained, by their step."""
        found = sorted((self.path / "samples").glob("step-*.png"))
        return {int(path.stem.removeprefix("step-")): path for path in found if path.stem[5:].isdigit()}

    @property
    def evaluation(self) -> Path:
        """Where the last evaluation belongs."""
        return self.place / "metrics.json"

    def figure(self, name: str) -> Path:
        """Where a picture of the last evaluation belongs."""
        return self.place / f"{name}.png"

    @property
    def answers(self) -> Path:
        """The folder of the answers that were asked for."""
        return self.place / "queries"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the run folder for writing; ``ValueError`` at once if another process holds it."""
        return lock(self.path)


PACKED = "holds weights alone, without the state of an optimiser: it cannot be trained on"
"""What is said of a packed run."""


@overload
def zoo() -> list[str]: ...
@overload
def zoo(name: str, /) -> Run: ...
def zoo(name: str | None = None, /) -> Run | list[str]:
    """One of the small trained runs that ship with the package, or the names of all.

    >>> import trilemma
    >>> trilemma.sample(trilemma.zoo("vae"), 16).images.shape  # doctest: +SKIP
    torch.Size([16, 1, 28, 28])

    A run of the zoo is opened as a copy in the cache folder: answers and evaluations of it are kept there. It cannot be
    trained on.

    Raises:
        ValueError: there is no such run, or the cache folder cannot be written, in one line.
    """
    return shipped.names() if name is None else Run.open(shipped.folder(name))


@contextlib.contextmanager
def lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder for writing, which is made if need be; ``ValueError`` at once if another process holds it.

    What a killed process left behind in it is swept.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise ValueError(
                f"{path} is in use by another process (pid {file.read().strip() or 'unknown'}): wait for it or stop it"
            ) from None
        _stamp(file)
        for folder in (path, path / "checkpoints", path / "samples"):
            sweep(folder, all_of_them=True)
        yield


def held(path: Path) -> bool:
    """Whether a process holds the folder for writing."""
    try:
        with (path / LOCK).open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _stamp(file: IO[str]) -> None:
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()


def check_new(path: Path) -> None:
    """``ValueError`` if a new run cannot be made at ``path``; nothing is written."""
    if is_run(path):
        raise ValueError(f"{path} already holds a run: add --resume to continue it, or choose another --out")
    if path.exists() and not (path.is_dir() and _begun({entry.name for entry in path.iterdir()})):
        raise ValueError(f"{path} exists and is not a run folder: choose another --out")


def opened(run: Run | Family | str | os.PathLike[str]) -> Run | Family:
    """A run, from the path of its folder where it is one; a model stays what it is.

    Raises:
        ValueError: it is none of these, or no run folder, in one line.
    """
    if isinstance(run, str | os.PathLike):
        return Run.open(run)
    if not isinstance(run, Run | Family):
        kind = type(run).__name__
        raise ValueError(f"a run must be a Run, the path of its folder, or a model, not the {kind} {run!r:.40}")
    return run


def _begun(names: set[str]) -> bool:
    """Whether all files of a folder are of a run whose making was cut short: what comes before its config.json."""
    known = {LOCK, *TOKEN_FILES} if LOCK in names else set()
    return all(name in known or name.startswith(PARTIAL) for name in names)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a run folder."""
    return (Path(path) / "config.json").is_file()


def names_run(path: str | os.PathLike[str]) -> bool:
    """Whether `Run.open` finds a run by this name: a run folder, or ``zoo/NAME`` of one that ships with the package."""
    return is_run(path) or shipped.asked_for(Path(path)) in shipped.names()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; a one-line ``ValueError`` if it is damaged or names a tensor twice."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size <= path.stat().st_size:
                json.loads(file.read(size), object_pairs_hook=_once)
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {_first_line(error)}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"it names {next(name for name in names if names.count(name) > 1)!r} twice")
    return dict(pairs)


def load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load weights that fit exactly; a one-line ``ValueError`` names the first tensor that does not.

    Half precision, in which weights are packed, is widened.
    """
    own = model.state_dict()
    weights = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in weights.items()}
    names: Sequence[str] = sorted(set(own) ^ set(weights))
    if names:
        side = "lacks" if names[0] in own else "has an unknown"
        raise ValueError(f"{where} does not belong to this config: it {side} tensor {names[0]!r}")
    for name, tensor in weights.items():
        for what, wanted, found in (
            ("shape", list(own[name].shape), list(tensor.shape)),
            ("type", own[name].dtype, tensor.dtype),
        ):
            if wanted != found:
                raise ValueError(
                    f"{where} does not belong to this config: {name!r} has {what} {found}, the config says {wanted}"
                )
    model.load_state_dict(dict(weights))


def fitting(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The state of Adam as ``optimizer.load_state_dict`` takes it, from one that was saved.

    Of what was saved only the moments and their steps are taken, each copied into memory that is laid out like its
    parameter: a fused step trusts its state blindly.

    Raises:
        ValueError: the names, shapes, types or values are not those of an Adam of these parameters, in one line.
    """
    own = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = saved.get("state")
    if not isinstance(moments, dict) or not set(moments) <= set(range(len(parameters))):
        raise ValueError(f"{where} does not belong to this config: its optimiser state is of other parameters")
    state: dict[int, dict[str, Tensor]] = {}
    for index, values in moments.items():
        if not isinstance(values, dict) or set(values) != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(f"{where} does not belong to this config: its optimiser state is not that of Adam")
        state[index] = {}
        for name, value in values.items():
            like = torch.zeros(()) if name == "step" else parameters[index].detach()
            if not isinstance(value, Tensor) or value.shape != like.shape or value.dtype != like.dtype:
                shown = f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"{where} does not belong to this config: {name} of the optimiser for parameter {index} is "
                    f"{shown}, the config says {list(like.shape)} {like.dtype}"
                )
            if not bool(torch.isfinite(value).all()) or (name != "exp_avg" and bool((value < 0).any())):
                raise ValueError(f"{where} is damaged: {name} of the optimiser for parameter {index} is out of range")
            state[index][name] = torch.empty_like(like).copy_(value)
    return {"state": state, "param_groups": own["param_groups"]}


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a value that is not finite, or None."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    return next((name for name, tensor in floats.items() if not bool(torch.isfinite(tensor).all())), None)


def _tensors(optimizers: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    return {
        f"{name} of parameter {index}": value
        for each in optimizers
        for index, values in each["state"].items()
        for name, value in values.items()
    }


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    return to_safetensors({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def _write(path: Path, content: bytes | memoryview) -> str:
    """Write a file of a checkpoint and have it confirmed; returns the hash of what was meant to be written."""
    with path.open("w+b") as file:
        file.write(content)
        confirm(file, content)
    return hashlib.sha256(content).hexdigest()


def _counters(folder: Path) -> dict[str, float]:
    """``step``, ``images`` and ``seconds`` of a checkpoint; a one-line ``ValueError`` if they are not what they are."""
    path = folder / "state.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {_first_line(error)}") from None
    good = isinstance(record, dict) and all(
        type(record.get(name)) in kinds and 0 <= record[name] < math.inf
        for name, kinds in (("step", (int,)), ("images", (int,)), ("seconds", (int, float)))
    )
    if not good:
        raise ValueError(f"{path} must hold the numbers step, images and seconds, 0 or more: it is damaged")
    return {name: record[name] for name in ("step", "images", "seconds")}


def _log_line(line: str) -> dict[str, Any] | None:
    """A line of the training log, or None if it is damaged: counters, numbers by name, and alarms in words."""
    record = _counted(line)
    known = (isinstance(v, str) if k == "alarm" else type(v) in (int, float) for k, v in (record or {}).items())
    return record if all(known) else None


def _counted(line: str) -> dict[str, Any] | None:
    """A line with a step and a number of images, or None if it is damaged."""
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(line)
        if isinstance(record, dict) and all(type(record.get(name)) is int for name in ("step", "images")):
            return record
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, in words, or None if every checksum holds."""
    try:
        sums = read_json(folder / "checksums.json")
        for name in ("weights.safetensors", "state.json"):  # and optimizers.pt, but where it is packed
            if name not in sums:
                return f"{name} is not listed in checksums.json"
        for name, digest in sums.items():
            if sha256(folder / name) != digest:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, RecursionError) as error:
        return str(error) or type(error).__name__
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
