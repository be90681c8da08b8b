"""Models to and from diffusers, and to ONNX: the same images from the same noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from denoisers import ddpm, spread

from trilemma.families.diffusion import Diffusion, DiffusionConfig, Flow, FlowConfig
from trilemma.families.diffusion.exchange import export_diffusers, export_onnx, import_diffusers
from trilemma.families.diffusion.samplers import DDIM
from trilemma.images import Spec
from trilemma.noise import BatchNoise, ImageNoise


def predicting(prediction: str, classes: int = 0) -> Diffusion:
    """The noise is divided by the signal of x_T: with little of that left, the images of a fresh network are huge."""
    path = {"schedule": "linear", "betas": (1e-4, 0.02)} if prediction == "noise" else {}
    return ddpm(Spec((3, 8, 12), classes=classes), prediction=prediction, **path)


@pytest.mark.parametrize(("prediction", "classes"), [("noise", 0), ("v", 3), ("x0", 0)])
def test_diffusers_opens_the_export_and_draws_the_same(prediction: str, classes: int, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    model = predicting(prediction, classes)
    folder = export_diffusers(model, tmp_path / "pipeline")
    pipeline = diffusers.DDIMPipeline.from_pretrained(folder)
    assert type(pipeline.unet).__name__ == "UNet2DModel"
    z = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([1, 3]) if classes else None
    for steps in (10, 60):
        times = model.schedule.times(steps, "trailing")
        ours = DDIM().sample(model.denoiser(labels), model.schedule, times, z, ImageNoise(0, [0, 1]))
        pipeline.scheduler.set_timesteps(steps)
        x = z
        for t in pipeline.scheduler.timesteps:
            with torch.no_grad():
                output = pipeline.unet(x, t, class_labels=labels).sample
            x = pipeline.scheduler.step(output, t, x).prev_sample
        assert torch.allclose(ours, x, atol=1e-4)
    again = import_diffusers(folder)
    assert again.spec == model.spec and again.config.prediction == prediction
    assert torch.equal(again.predict(z, torch.tensor([1, 60]), labels), model.predict(z, torch.tensor([1, 60]), labels))
    assert torch.allclose(again.schedule.alpha_bar, model.schedule.alpha_bar)


@pytest.mark.parametrize("prediction", ["noise", "v", "x0"])
def test_the_stock_pipeline_draws_what_sampling_without_clipping_does(prediction: str, tmp_path: Path) -> None:
    """``DDIMPipeline.__call__`` as it comes, told no more than the number of steps, which divides T."""
    diffusers = pytest.importorskip("diffusers")
    model = predicting(prediction)
    pipeline = diffusers.DDIMPipeline.from_pretrained(export_diffusers(model, tmp_path / "pipeline"))
    pipeline.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(1)
    drawn = pipeline(2, seed, num_inference_steps=10, output_type="np").images  # [2, H, W, 3] on [0, 1]
    theirs = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    z = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    times = model.schedule.times(10, "trailing")
    raw = DDIM().sample(model.denoiser(None), model.schedule, times, z, ImageNoise(0, [0]))
    assert torch.allclose((raw / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4)
    assert ((theirs > 0) & (theirs < 1)).float().mean() > 0.2  # not all of it at the ends, where any two would agree
    options = model.Options(steps=10, clip=False, precision="fp32")
    assert (model.decode(z, ImageNoise(0, [0]), options=options).float() - 255 * theirs).abs().max() < 0.6
    clipped = model.decode(z, ImageNoise(0, [0]), options=model.Options(steps=10, precision="fp32"))
    assert (clipped.float() - 255 * theirs).abs().max() > 2


def test_a_ddpm_folder_of_diffusers_is_read(tmp_path: Path) -> None:
    """One with the settings of the published CIFAR-10 model, smaller."""
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        freq_shift=1,
        flip_sin_to_cos=False,
        norm_eps=1e-6,
        downsample_padding=0,
        attention_head_dim=None,
    ).eval()
    spread(unet)
    folder = tmp_path / "ddpm"
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder)
    model = import_diffusers(folder)
    assert model.schedule.T == 1000 and float(model.schedule.beta[1000]) == pytest.approx(0.02)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([1, 700])
    with torch.no_grad():
        assert torch.allclose(model.predict(x, t, None), unet(x, t - 1).sample, atol=1e-5)
    assert model.sample(ImageNoise(0, [0]), options=model.Options(steps=2)).shape == (1, 3, 8, 8)
    config = json.loads((folder / "unet" / "config.json").read_text())
    for change, fault in (({"attention_head_dim": 8}, "attention_head_dim = 8"), ({"norm_num_groups": 8}, "8 groups")):
        (folder / "unet" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=fault):
            import_diffusers(folder)
    with pytest.raises(ValueError, match="no diffusers pipeline folder"):
        import_diffusers(tmp_path / "nothing")


def test_the_ddpm_network_trains() -> None:
    model = ddpm(Spec((1, 8, 8), classes=2), objective="hybrid", variance="learned").train().requires_grad_(True)
    x = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    loss = model.loss(x, torch.tensor([0, 1, 2, 0]), BatchNoise((0,), 4, 0, 4, torch.device("cpu")))
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_has_no_counterpart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--model.network ddpm"):
        export_diffusers(Diffusion(DiffusionConfig(width=16), Spec((1, 8, 8))), tmp_path)
    with pytest.raises(ValueError, match="--model.variance fixed"):
        export_diffusers(ddpm(Spec((1, 8, 8)), objective="bound", variance="learned"), tmp_path)
    with pytest.raises(ValueError, match="does not allow"):
        ddpm(Spec((1, 9, 8)))


@pytest.mark.parametrize("kind", ["unet", "ddpm", "flow"])
def test_onnx_gives_the_same_numbers(kind: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    spec = Spec((1, 9, 7) if kind != "ddpm" else (1, 8, 8), classes=0 if kind == "flow" else 2)
    net = {"width": 16, "multipliers": (1, 2)}
    model: Diffusion | Flow
    if kind == "ddpm":
        model = ddpm(spec)
    else:
        model = Flow(FlowConfig(**net), spec) if kind == "flow" else Diffusion(DiffusionConfig(**net), spec)  # type: ignore[arg-type]
    spread(model)
    session = runtime.InferenceSession(export_onnx(model, tmp_path / "net.onnx"))
    for count in (1, 5):
        x, t = torch.randn(count, *spec.shape), torch.linspace(1, 50, count)
        labels = torch.arange(count) % 3 if spec.classes else None
        inputs = {"x_t": x.numpy(), "t": t.numpy()} | ({"labels": labels.numpy()} if labels is not None else {})
        (output,) = session.run(None, inputs)
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(output), model.predict(x, t, labels), atol=1e-4)
