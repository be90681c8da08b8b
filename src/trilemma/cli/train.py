"""``trilemma train FAMILY [DATA] --out RUN``: one subcommand for each family, its flags made from its config."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from cyclopts import App, Parameter

from trilemma.bars import Bars
from trilemma.cli.flags import DataFlags, Device, Json, Size, data_config, given, overrides, print_json, read_toml
from trilemma.cli.interrupts import Interrupted
from trilemma.config import TrainConfig, to_dict
from trilemma.families import FAMILIES
from trilemma.families.family import Family
from trilemma.parallel import join
from trilemma.run import PACKED, Run, is_run, names_run
from trilemma.text import printable
from trilemma.training import train
from trilemma.training.driver import show
from trilemma.validate import Seed, check_limits, decode

app = App(
    name="train",
    help_epilogue="""Examples:

```
trilemma train vae --out runs/vae --budget 2m
trilemma train diffusion photos/ --out runs/photos --image-size 64 --size small --budget 8h
trilemma train pixelcnn mnist --binarize dynamic --out runs/pixelcnn --budget 20000steps
trilemma train gan fashion-mnist --conditional --out runs/gan --model.discriminator-steps 2 --train.lr 1e-4
trilemma train diffusion emoji.zip --text --image-size 32 --out runs/emoji --budget 20m
trilemma train vae --out runs/vae --budget 10m --resume
trilemma train flow photos/ --out runs/flow --budget 2h --stop early
torchrun --nproc-per-node 4 -m trilemma train diffusion photos/ --out runs/photos
```
""",
    help_format="markdown",
)
TrainFlags = overrides(TrainConfig)


@dataclass(frozen=True)
class Settings:
    """A settings file."""

    size: Size | None = None
    budget: str | None = None
    seed: Seed | None = None
    conditional: bool | None = None
    text: bool | None = None
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_limits(self)


def _command(cls: type[Family]) -> Callable[..., None]:
    """The subcommand of one family."""
    ModelFlags = overrides(cls.Config)

    def command(
        data: str | None = None,
        /,
        *,
        out: Path,
        size: Optional[Size] = None,  # noqa: UP045
        budget: str | None = None,
        seed: int | None = None,
        conditional: Annotated[bool | None, Parameter(negative=())] = None,
        text: Annotated[bool | None, Parameter(negative=())] = None,
        stop: Optional[Literal["budget", "early"]] = None,  # noqa: UP045
        resume: Annotated[bool, Parameter(negative=())] = False,
        tensorboard: Annotated[bool, Parameter(negative=())] = False,
        config: Path | None = None,
        device: Device = "auto",
        json: Json = False,
        images: Annotated[DataFlags | None, Parameter(name="*", group="Images")] = None,
        model: Annotated[ModelFlags | None, Parameter(name="model", group="Model")] = None,  # type: ignore[valid-type]
        training: Annotated[TrainFlags | None, Parameter(name="train", group="Training")] = None,  # type: ignore[valid-type]
    ) -> None:
        file = decode(Settings, read_toml(config), str(config))
        saved = to_dict(Run.open(out).config.data) if resume and is_run(out) else {}
        if resume and names_run(out) and not is_run(out):
            raise ValueError(f"{out} is of the zoo and {PACKED}; `trilemma train {cls.name} --out RUN` trains your own")
        asked = None
        if data is not None or file.data or given(images) or not saved:
            # of a run that is continued only what is typed is compared
            base = saved | file.data
            asked = data_config(base.get("source", "mnist") if data is None else data, images, base)
        with join(device) as where, Bars() as bars:
            run = train(
                cls.name,
                asked,
                out=out,
                size=size or file.size,
                budget=budget or file.budget or "2m",
                seed=file.seed if seed is None else seed,
                conditional=file.conditional if conditional is None else conditional,
                text=file.text if text is None else text,
                model=file.model | given(model),
                settings=file.train | given(training),
                stop=stop,
                resume=resume,
                tensorboard=tensorboard,
                device=device,
                progress=lambda report: show(bars, cls.name, report),
                say=bars.say,
            )
        if not where.first:
            return
        progress = run.progress()
        if json:
            print_json({"run": str(run.path), **progress})
        else:
            where_to = printable(run.path)
            print(f"{where_to}: {progress['step']:,} steps, {progress['images']:,} images, {progress['seconds']:.0f} s")
        if run.stopped:
            raise Interrupted(run.stopped)

    command.__doc__ = f"""{cls.title}. {cls.paper}

    Parameters
    ----------
    data
        mnist, mnist-pairs, stacked-mnist, ring, grid (built in), fashion-mnist, cifar10, a folder or zip of images, an
        .npz, .npy, .csv or idx file, or a Hub id
    out
        the run folder to make
    size
        the preset, tiny by default
    budget
        how long in all: 90s, 2m, 1h, 5000steps, 200kimages; 2m by default
    seed
        decides weights, batches and noise; 0 by default
    conditional
        train P(x|y) on the data's labels
    text
        train P(x|caption) on the data's captions (diffusion, flow, consistency; extra: trilemma[text])
    stop
        early: end once the run is twice as long as at its best, by images held out from the training images
        (--train.validation, a tenth by default); the best is kept as --checkpoint best
    resume
        continue the run in --out; its final weights equal those of an uninterrupted run
    tensorboard
        write the log for TensorBoard too (extra: trilemma[tensorboard])
    config
        a TOML file with any of these, and the tables [data], [model] and [train]
    """
    return command


def _register() -> None:
    for name, cls in FAMILIES.items():
        command: Any = _command(cls)
        app.command(command, name=name)


_register()
