"""One dial, ``--size``: the sizes of every family, matched for the compute of a training image.

A size fixes the arithmetic of one training step per image, forward and backward over all objectives, at 28 × 28 grey:

    tiny 0.25 GFLOP · small 1 GFLOP · base 4 GFLOP · large 16 GFLOP

so that a training image costs every family as much. Under equal seconds they still see unequal numbers of images, since
not all operations run equally fast; the report says how many each saw. The rows below are for 28 × 28 grey; at the
resolution and channels of other data the width is scaled so that the arithmetic per pixel stays the same. Operations
are counted, not guessed: `gflop` runs one step on shapes alone.

Vectors have no resolution: for them a size is `VECTOR_GFLOP`, a 250th of that of images, whatever their number of
values, and the width of the perceptron is scaled to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from trilemma.config import TrainConfig, decode, to_dict
from trilemma.families import FAMILIES
from trilemma.images import Spec
from trilemma.noise import Noise

SIZES = ("tiny", "small", "base", "large")
GFLOP = {"tiny": 0.25, "small": 1.0, "base": 4.0, "large": 16.0}
"""Training operations per image (a product and a sum count as two), at 28 × 28."""

VECTOR_GFLOP = {size: value / 250 for size, value in GFLOP.items()}
"""The same per vector: 1, 4, 16 and 64 million."""

REFERENCE = Spec((1, 28, 28))
"""The data that the rows below are written for."""

CLOSE = 0.15
"""A width within this share of the target is left as it stands in the table."""


@dataclass(frozen=True)
class Preset:
    """The model fields of each size, the training settings of a family, and what is scaled with the data.

    ``width`` names the field that is scaled, in multiples of ``step``; the arithmetic grows with its square. For
    vectors ``vector`` and ``vector_train`` replace what the row of the size and ``train`` say. A row may be written for
    one value of a field, ``kind``; with another one ``otherwise`` is the row.
    """

    width: str
    step: int
    tiny: Mapping[str, Any]
    small: Mapping[str, Any]
    base: Mapping[str, Any]
    large: Mapping[str, Any]
    train: Mapping[str, Any]
    vector: Mapping[str, Any] = field(default_factory=dict)
    vector_train: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    otherwise: Preset | None = None

    def row(self, size: str, model: Mapping[str, Any] | None) -> Preset:
        """This one, or the one for what is asked for."""
        usual = getattr(self, size).get(self.kind)
        if self.otherwise and (model or {}).get(self.kind, usual) != usual:
            return self.otherwise
        return self


CODES = Preset(
    width="width",
    step=4,
    tiny=dict(width=48, depth=1, latent=16),
    small=dict(width=96, depth=1, latent=32),
    base=dict(width=144, depth=2, latent=64),
    large=dict(width=272, depth=2, latent=128),
    train=dict(batch=64, lr=2e-3, warmup=50, anneal=0.5),
    vector=dict(width=128, depth=3, latent=4),
    vector_train=dict(batch=256, lr=1e-3, anneal=0.3, precision="fp32"),
)
"""The nets of an encoder and a decoder: those of the autoencoder are those of the VAE."""

DENOISER = Preset(
    width="width",
    step=16,
    tiny=dict(width=48, multipliers=(1, 1, 2), patch=2),
    small=dict(width=96, multipliers=(1, 1, 2), patch=2),
    base=dict(width=192, multipliers=(1, 1, 2), patch=2),
    large=dict(width=192, multipliers=(1, 1, 2), patch=1),
    train=dict(batch=32, lr=2e-3, betas=(0.9, 0.99), warmup=50, anneal=0.5),
    vector=dict(width=128, blocks=3),
    vector_train=dict(batch=256, lr=1e-3, anneal=0.3, precision="fp32"),
)
"""Diffusion and flow matching differ in path and loss, not in their network."""

DCGAN = Preset(
    width="width",
    step=4,
    tiny=dict(width=80, latent=64),
    small=dict(width=160, latent=100),
    base=dict(width=320, latent=100),
    large=dict(width=640, latent=100),
    train=dict(batch=64, lr=5e-4, betas=(0.5, 0.999), warmup=100, clip=0.0),
    vector=dict(width=128, latent=2),
    vector_train=dict(batch=128, lr=5e-4, precision="fp32"),
)
"""A GAN of the losses before the relativistic one."""

PRESETS: dict[str, Preset] = {
    "autoencoder": CODES,
    "vae": CODES,
    "pixelcnn": Preset(
        width="features",
        step=2,
        tiny=dict(features=16, layers=5, kernel=5, head=32),
        small=dict(features=32, layers=6, kernel=5, head=64),
        base=dict(features=56, layers=8, kernel=5, head=128),
        large=dict(features=112, layers=8, kernel=5, head=256),
        train=dict(batch=16, lr=1e-2, betas=(0.9, 0.99), warmup=50, anneal=0.5),
    ),
    "pixelrnn": Preset(
        width="features",
        step=2,
        tiny=dict(features=32, layers=1, head=32),
        small=dict(features=52, layers=2, head=64),
        base=dict(features=108, layers=2, head=128),
        large=dict(features=176, layers=3, head=256),
        train=dict(batch=16, lr=5e-3, betas=(0.9, 0.99), warmup=50, anneal=0.5),
    ),
    "gan": Preset(
        width="width",
        step=4,
        tiny=dict(width=64, latent=64, loss="relativistic"),
        small=dict(width=136, latent=100, loss="relativistic"),
        base=dict(width=272, latent=100, loss="relativistic"),
        large=dict(width=544, latent=100, loss="relativistic"),
        train=dict(batch=32, lr=2e-3, betas=(0.0, 0.99), warmup=100, anneal=0.5, clip=0.0),
        # Smooth first, so that D finds every mode, then sharp: modes are narrow in units of the whole.
        vector=dict(width=128, latent=2, generator_norm="none", octaves=3, r1=0.03, r2=0.03, penalty_end=0.007),
        vector_train=dict(batch=256, lr=2e-3, betas=(0.0, 0.99), anneal=0.5, precision="fp32"),
        kind="loss",
        otherwise=DCGAN,
    ),
    "diffusion": DENOISER,
    "flow": DENOISER,
    "consistency": DENOISER,  # counted in its first part; a step of the student costs a third more
}

UNKNOWN = Preset(width="", step=1, tiny={}, small={}, base={}, large={}, train={})
"""Of a family that has no row: its own defaults at every size, which are not matched for compute."""


def configure(
    family: str,
    size: str = "tiny",
    spec: Spec = REFERENCE,
    model: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
) -> tuple[Any, TrainConfig]:
    """The model and training config of a family at a size, for some data, with any field replaced.

    Raises:
        ValueError: an unknown family, size or field, or a value of the wrong type, in one line.
    """
    check_fields(family, size, model, train)
    preset, cls = PRESETS.get(family, UNKNOWN).row(size, model), FAMILIES[family].Config
    settings = decode(
        TrainConfig,
        {**to_dict(TrainConfig()), **preset.train, **(preset.vector_train if spec.vector else {}), **(train or {})},
        f"training settings of {family}",
    )
    fields: dict[str, Any] = {**getattr(preset, size), **(preset.vector if spec.vector else {}), **(model or {})}
    config: Any = decode(cls, fields, f"model settings of {family}")
    if not preset.width or preset.width in (model or {}):
        return config, settings
    if spec.vector:
        target = VECTOR_GFLOP[size]
    else:
        target = GFLOP[size] * spec.height * spec.width / (REFERENCE.height * REFERENCE.width)
    for _ in range(2):  # the arithmetic is nearly quadratic in the width, so two corrections do
        excess = gflop(family, config, spec) / target
        if abs(excess - 1) < CLOSE:
            break
        width = round(fields[preset.width] / excess**0.5 / preset.step) * preset.step
        fields[preset.width] = max(width, preset.step)
        config = decode(cls, fields, f"model settings of {family}")
    return config, settings


def check_fields(
    family: str, size: str, model: Mapping[str, Any] | None = None, train: Mapping[str, Any] | None = None
) -> None:
    """Refuse what `configure` would, as far as it can be told without data; ``ValueError``, one line."""
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; there are {', '.join(FAMILIES)}")
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; there are {', '.join(SIZES)}")
    preset = PRESETS.get(family, UNKNOWN).row(size, model)
    decode(TrainConfig, {**preset.train, **(train or {})}, f"training settings of {family}")
    decode(FAMILIES[family].Config, {**getattr(preset, size), **(model or {})}, f"model settings of {family}")


class _Shapes(Noise):
    """Noise without values."""

    def __init__(self, count: int) -> None:
        self.count, self.device = count, torch.device("meta")

    def normal(self, *shape: int) -> Tensor:
        return torch.empty(self.count, *shape, device=self.device)

    uniform = normal


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts as `torch.utils.flop_counter.FlopCounterMode` does, which cannot follow a loss that differentiates inside
    (a gradient penalty)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.total += count(*args, **kwargs, out_val=out)
        return out


def gflop(family: str, config: Any, spec: Spec, batch: int = 48) -> float:
    """Operations of one training step per image, forward and backward over all objectives, in 1e9.

    Nothing is computed: shapes flow through the model on the meta device. 48 images fill the usual packs.
    """
    with torch.random.fork_rng(devices=[]):
        model = FAMILIES[family](config, spec).to("meta").train()
    batch = max(batch, FAMILIES[family].least_batch(config))
    x = torch.empty(batch, *spec.shape, dtype=torch.float32 if spec.vector else torch.uint8, device="meta")
    labels = spec.unlabelled(batch, "meta") if spec.conditional else None
    with _Operations() as counter:
        for objective in model.objectives():
            objective.freeze_others(model)
            for _ in range(objective.repeats):
                objective.loss(x, labels, _Shapes(batch)).total.backward()  # type: ignore[no-untyped-call]
    return float(counter.total) / batch / 1e9
