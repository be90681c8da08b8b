"""Weights to and from others: diffusers' pipeline folders, and ONNX.

Only a network that has diffusers' layers can become one of its models: that is ``network = "ddpm"``. Ours has none:
its norms have groups of 16 channels, its skips leave out the stem and the resampling, and its patches have no layer
there. Nothing is unpickled: weights are safetensors.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from trilemma.families.diffusion.base import Denoising
from trilemma.families.diffusion.model import Diffusion, DiffusionConfig
from trilemma.families.diffusion.schedule import Schedule, ScheduleName
from trilemma.families.family import Family
from trilemma.files import new_folder, write_bytes, write_json
from trilemma.images import Spec
from trilemma.nets.ddpm_unet import EPS, DDPMUNet
from trilemma.validate import Amount, Count, Limits, check_limits, decode_known, read_json

T = TypeVar("T")
PREDICTIONS = {"noise": "epsilon", "x0": "sample", "v": "v_prediction"}
SCHEDULES: tuple[ScheduleName, ...] = ("linear", "cosine", "snr")
WEIGHTS = "diffusion_pytorch_model.safetensors"
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Of attention layers in folders written before 2023."""

FIXED: Mapping[str, tuple[Any, Any]] = {
    # What `DDPMUNet` is, and what diffusers takes for granted where its config says nothing.
    "freq_shift": (1, 0),
    "flip_sin_to_cos": (False, True),
    "norm_eps": (EPS, 1e-5),
    "downsample_padding": (0, 1),
    "attention_head_dim": (None, 8),
    "act_fn": ("silu", "silu"),
    "mid_block_scale_factor": (1, 1),
    "center_input_sample": (False, False),
    "time_embedding_type": ("positional", "positional"),
    "resnet_time_scale_shift": ("default", "default"),
    "downsample_type": ("conv", "conv"),
    "upsample_type": ("conv", "conv"),
    "add_attention": (True, True),
    "class_embed_type": (None, None),
}


@dataclass(frozen=True)
class _Network:
    """What is read of a network's config; what follows the model's shape has no default."""

    block_out_channels: Annotated[tuple[Count, ...], Limits(count=1)]
    down_block_types: tuple[str, ...]
    sample_size: Count | tuple[Count, Count]
    in_channels: Annotated[int, Limits(1, 4)]
    out_channels: Count
    layers_per_block: Count
    norm_num_groups: Count = 32
    num_class_embeds: Amount | None = None

    def __post_init__(self) -> None:
        check_limits(self)
        if len(self.down_block_types) != len(self.block_out_channels):
            raise ValueError(
                f"block_out_channels and down_block_types must be equally many, not {len(self.block_out_channels)} and "
                f"{len(self.down_block_types)}"
            )


@dataclass(frozen=True)
class _Chain:
    """What is read of a scheduler's config."""

    num_train_timesteps: Annotated[int, Limits(2, 100_000)] = 1000
    beta_schedule: str = "linear"
    beta_start: Annotated[float, Limits(above=0, below=1)] = 1e-4
    beta_end: Annotated[float, Limits(above=0, below=1)] = 0.02
    trained_betas: Annotated[tuple[float, ...], Limits(above=0, below=1, count=2)] | None = None
    prediction_type: str = "epsilon"
    rescale_betas_zero_snr: bool | None = None
    variance_type: str | None = None
    clip_sample: bool = True

    def __post_init__(self) -> None:
        check_limits(self)
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas must be as many as the {self.num_train_timesteps} timesteps, not "
                f"{len(self.trained_betas)}"
            )


def export_diffusers(model: Family, folder: str | os.PathLike[str]) -> Path:
    """Write a folder that ``diffusers.DDIMPipeline.from_pretrained`` opens and that draws the same images.

    The same to 1e-4 from the same noise under two conditions: ours is DDIM without clipping (``--clip false``), and the
    number of steps divides T. The stock pipeline clips the image without making its noise agree, so there is no telling
    it to clip as ours does; and its step goes down by T/steps, wherever the list of times leads.

    A class-conditional network is a UNet2DModel with class embeddings, the last meaning "no label"; the stock pipeline
    does not ask for labels, so there one calls the network and the scheduler oneself.

    Raises:
        ValueError: a model that has no counterpart there, in one line.
    """
    model = _exported(model)
    net = model.net
    if not isinstance(model, Diffusion) or not isinstance(net, DDPMUNet):
        raise ValueError(
            "diffusers has no network with these layers: train diffusion with --model.network ddpm, or export to ONNX"
        )
    if model.learned_variance:
        raise ValueError("diffusers' DDIM takes a network that predicts no variance: train with --model.variance fixed")
    folder = Path(folder)
    config, spec, levels = model.config, model.spec, len(model.config.multipliers)
    attends = [bool(len(level.attentions)) for level in net.down_blocks]  # type: ignore[arg-type]
    names = ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends]
    unet = {
        "_class_name": "UNet2DModel",
        "sample_size": [spec.height, spec.width],
        "in_channels": spec.channels,
        "out_channels": spec.channels,
        "block_out_channels": [config.width * m for m in config.multipliers],
        "layers_per_block": config.blocks,
        "down_block_types": names,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(names)],
        "norm_num_groups": net.conv_norm_out.num_groups,
        "num_class_embeds": spec.classes + 1 if spec.classes else None,
        **{name: ours for name, (ours, _) in FIXED.items()},
    }
    scheduler = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": model.schedule.T,
        "trained_betas": model.schedule.beta[1:].tolist(),
        "prediction_type": PREDICTIONS[config.prediction],
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "set_alpha_to_one": True,
    }
    index = {
        "_class_name": "DDIMPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    assert len(names) == levels
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    with new_folder(folder) as fresh:
        for name, record in (("unet/config", unet), ("scheduler/scheduler_config", scheduler), ("model_index", index)):
            write_json(fresh / f"{name}.json", record)
        write_bytes(fresh / "unet" / WEIGHTS, to_safetensors(weights, metadata={"format": "pt"}))
    return folder


def import_diffusers(folder: str | os.PathLike[str]) -> Diffusion:
    """The model in a pipeline folder with an unconditional (or class-embedding) UNet2DModel of Ho et al. 2020's kind.

    Its times, noise and prediction are the folder's; images have 256 levels. The model samples, scores and completes
    like any other; `trilemma.training.import_run` makes a run folder of it. How the folder's scheduler draws is no part
    of a model: `drawn_otherwise` says where ours differs.

    Raises:
        ValueError: no such folder, weights that would have to be unpickled, or layers that ours lacks, in one line.
    """
    folder = Path(folder)
    # a pipeline has subfolders; a lone network kept with its scheduler, as the first of them were, has none
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    settings = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    unet, noise = _read(place / "config.json"), _chain(settings / "scheduler_config.json")
    if unet.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"{folder} has a {unet['_class_name']}; only a UNet2DModel without text can be read")
    shape = _typed(_Network, unet, place / "config.json")
    if not (place / WEIGHTS).is_file():
        raise ValueError(f"{place} has no {WEIGHTS}: save it again with diffusers as safetensors")
    for name, (ours, theirs) in FIXED.items():
        value = unet.get(name, theirs)
        near = name == "norm_eps" and isinstance(value, float) and math.isclose(value, EPS)
        if value != ours and not near:
            raise ValueError(f"{folder} has a network with {name} = {value!r}; only {ours!r}, as of DDPM, can be read")
    widths, names = shape.block_out_channels, shape.down_block_types
    if set(names) - {"DownBlock2D", "AttnDownBlock2D"} or any(width % widths[0] for width in widths):
        raise ValueError(f"{folder} has blocks other than DownBlock2D and AttnDownBlock2D, which cannot be read")
    size = shape.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    predictions = {theirs: ours for ours, theirs in PREDICTIONS.items()}
    prediction = noise.prediction_type
    if prediction not in predictions or shape.out_channels != shape.in_channels:
        raise ValueError(
            f"{folder} predicts {prediction!r} in {shape.out_channels} channels; only {', '.join(predictions)} in as "
            "many as an image has can be read"
        )
    schedule, name, betas = _schedule(noise, folder)
    config = DiffusionConfig(
        width=widths[0],
        multipliers=tuple(each // widths[0] for each in widths),
        blocks=shape.layers_per_block,
        patch=1,
        timesteps=schedule.T,
        schedule=name,
        betas=betas,
        prediction=predictions[prediction],  # type: ignore[arg-type]
        network="ddpm",
        attention_levels=tuple(level for level, name in enumerate(names) if name.startswith("Attn")),
    )
    spec = Spec((shape.in_channels, height, width), 256, (shape.num_class_embeds or 1) - 1)
    groups, ours = shape.norm_num_groups, math.gcd(32, config.width)
    if groups != ours:
        raise ValueError(f"{folder} has norms of {groups} groups; only {ours} can be read")
    model = Diffusion(config, spec, schedule)
    try:
        weights = load_file(place / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{place / WEIGHTS} cannot be read: {error}") from None
    for old, new in OLD_NAMES.items():
        weights = {name.replace(old, new): value for name, value in weights.items()}
    own = model.net.state_dict()
    wrong = sorted(set(weights) ^ set(own)) or [name for name in own if own[name].shape != weights[name].shape]
    if shape.in_channels not in (1, 3):
        raise ValueError(f"{folder} makes images of {shape.in_channels} channels; only 1 or 3 can be read")
    if wrong:
        raise ValueError(
            f"{place / WEIGHTS} does not fit its own config: tensor {wrong[0]!r} is missing, unknown or misshapen"
        )
    if broken := [name for name in own if not bool(weights[name].isfinite().all())]:
        raise ValueError(f"{place / WEIGHTS} is damaged: tensor {broken[0]!r} holds NaN or infinity")
    model.net.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def drawn_otherwise(folder: str | os.PathLike[str]) -> str:
    """What a pipeline folder's scheduler does otherwise than our samplers do by default, in a line; "" for nothing.

    Raises:
        ValueError: no such folder, in one line.
    """
    settings = Path(folder) / "scheduler"
    noise = _chain((settings if settings.is_dir() else Path(folder)) / "scheduler_config.json")
    flags = []
    if str(noise.variance_type).startswith("fixed_large"):
        flags.append("adds the large variance (--sampler ddpm --variance large)")
    if not noise.clip_sample:
        flags.append("does not clip (--clip false)")
    return f"its own scheduler {' and '.join(flags)}, ours by default otherwise" if flags else ""


def _exported(model: Family) -> Denoising:
    """The model itself, or a one-line ``ValueError`` for one that cannot be written for others."""
    if not isinstance(model, Denoising):
        raise ValueError(f"{model.name} has no denoiser to export: it does not denoise step by step")
    if model.spec.vocabulary:
        raise ValueError("a model that reads captions cannot be exported: its tokenizer has no place in the file")
    return model


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, ", so this is no diffusers pipeline folder")


def _typed(cls: type[T], record: Mapping[str, Any], path: Path) -> T:
    """The fields of ``cls`` in a config; what is null there stands for the default, as diffusers has it."""
    try:
        return decode_known(cls, {key: value for key, value in record.items() if value is not None}, str(path))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _chain(path: Path) -> _Chain:
    return _typed(_Chain, _read(path), path)


def _schedule(noise: _Chain, folder: Path) -> tuple[Schedule, ScheduleName, tuple[float, float] | None]:
    """The chain that a scheduler config describes, and the name and ends by which a config of ours describes it.

    A list of betas that no name stands for is told as linear; the schedule that comes with it is right.
    """
    T, kind = noise.num_train_timesteps, noise.beta_schedule
    if noise.rescale_betas_zero_snr:
        raise ValueError(f"{folder} has a noise schedule rescaled to no signal at T, which cannot be read")
    if noise.trained_betas is not None:
        schedule = Schedule.from_beta(torch.tensor(noise.trained_betas, dtype=torch.float64))
        for name in SCHEDULES:
            if torch.allclose(Schedule.named(name, T).beta, schedule.beta, rtol=1e-6, atol=0):
                return schedule, name, None
        return schedule, "linear", (float(schedule.beta[1]), float(schedule.beta[-1]))
    if kind == "squaredcos_cap_v2":
        return Schedule.named("cosine", T), "cosine", None
    if kind != "linear":
        raise ValueError(f"{folder} has the noise schedule {kind!r}; linear and squaredcos_cap_v2 can be read")
    betas = noise.beta_start, noise.beta_end
    return Schedule.named("linear", T, betas), "linear", betas


class Plain(nn.Module):
    """The network as a function of tensors alone, for export: (x_t, t in 1 … T, labels) → its raw output."""

    def __init__(self, model: Denoising) -> None:
        super().__init__()
        self.net, self.T = model.net, model.schedule.T

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.net(x_t, self.net.at(t, self.T), labels)  # type: ignore[no-any-return]


def export_onnx(model: Family, path: str | os.PathLike[str]) -> Path:
    """Write the network, of either kind, as ONNX with any number of images: inputs x_t, t (float, 1 … T) and labels.

    Needs the packages onnx and onnxscript.
    """
    model = _exported(model)
    spec, path = model.spec, Path(path)
    inputs: tuple[Tensor, ...] = (torch.zeros(2, *spec.shape), torch.ones(2))
    names = ["x_t", "t"]
    if spec.classes:
        inputs, names = (*inputs, torch.zeros(2, dtype=torch.int64)), [*names, "labels"]
    images = torch.export.Dim("images", min=1)
    plain = Plain(model).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    with warnings.catch_warnings():
        # Of the exporter's own insides, and of one name for the batch of every input, which is meant.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            plain,
            inputs,
            input_names=names,
            output_names=["output"],
            dynamic_shapes=tuple({0: images} for _ in inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        assert program is not None
        write_bytes(path, program.model_proto.SerializeToString())
    return path
