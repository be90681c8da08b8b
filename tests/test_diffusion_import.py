"""The verbs export and import: a run becomes a folder, and the folder a run that draws the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import write_blobs
from denoisers import ddpm
from tiny import call

from trilemma.data import load
from trilemma.families.diffusion import DiffusionOptions
from trilemma.families.diffusion.exchange import drawn_otherwise, export_diffusers, import_diffusers
from trilemma.images import Spec
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.training import import_run, train

OPTIONS = DiffusionOptions(steps=4, precision="fp32")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("exchange")
    data = load(write_blobs(folder / "blobs.npz"), progress=False)
    settings = {"batch": 8, "pictures": 0}
    small = {"width": 16, "multipliers": [1, 2], "timesteps": 30}
    return {
        network: train(
            "diffusion", data, out=folder / network, budget="2steps", model=small | {"network": network},
            settings=settings, say=print,
        )
        for network in ("ddpm", "unet")
    }  # fmt: skip


def test_there_and_back_by_the_verbs(runs: dict[str, Run], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Export, import, and then whatever a run is asked."""
    source, pipeline, back = runs["ddpm"], tmp_path / "pipeline", tmp_path / "back"
    code, out, err = call(capsys, "export", source.path, "--out", pipeline)
    assert code == 0, err
    assert out.strip() == str(pipeline)
    code, _, err = call(capsys, "export", source.path, "--out", pipeline)
    assert code == 1 and "exists" in err
    blobs = source.config.data.source
    code, out, err = call(capsys, "import", pipeline, "--out", back, "--data", blobs, "--json")
    assert code == 0, err
    note = "its own scheduler does not clip (--clip false), ours by default otherwise"
    assert json.loads(out) == {"run": str(back), "shape": [1, 8, 8], "classes": 0, "note": note}
    again = Run.open(back)
    ours, theirs = (sample(run, 3, seed=5, options=OPTIONS).images for run in (source, again))
    assert torch.equal(ours, theirs)
    assert again.config.data_fingerprint == source.config.data_fingerprint
    assert again.config.model.schedule == "cosine" and again.config.model.betas is None
    for arguments in (
        ["sample", back, "-n", 2, "--steps", 2],
        ["query", "likelihood", back, "-n", 2],
        ["query", "complete", back, "-n", 1, "--copies", 1, "--steps", 2, "--repeats", 1],
        ["evaluate", back, "-n", 16, "--steps", 2, "--metrics", "precision,bits_per_dim", "--likelihood-n", 2],
    ):
        code, _, err = call(capsys, *arguments)
        assert code == 0, (arguments, err)
    code, _, err = call(capsys, "import", pipeline, "--out", back)
    assert code == 1 and "already holds a run" in err


def test_what_the_folders_scheduler_does_otherwise_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = export_diffusers(ddpm(Spec((1, 8, 8))), tmp_path / "pipeline")
    path = folder / "scheduler" / "scheduler_config.json"
    noise = json.loads(path.read_text())
    large, unclipped = "adds the large variance (--sampler ddpm --variance large)", "does not clip (--clip false)"
    for change, said in (
        ({"variance_type": "fixed_small", "clip_sample": True}, []),
        ({"variance_type": "fixed_large", "clip_sample": True}, [large]),
        ({"variance_type": "fixed_large_log"}, [large, unclipped]),
        ({}, [unclipped]),
    ):
        path.write_text(json.dumps(noise | change))
        told = drawn_otherwise(folder)
        assert [flag for flag in (large, unclipped) if flag in told] == said and bool(told) == bool(said)
    path.write_text(json.dumps(noise | {"variance_type": "fixed_large"}))
    code, out, err = call(capsys, "import", folder, "--out", tmp_path / "run")
    assert code == 0 and len([line for line in out.splitlines() if large in line and unclipped in line]) == 1, err


def test_an_import_without_data_says_so(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pipeline, back = tmp_path / "pipeline", tmp_path / "back"
    assert call(capsys, "export", runs["ddpm"].path, "--out", pipeline)[0] == 0
    code, out, err = call(capsys, "import", pipeline, "--out", back)
    assert code == 0 and "does not say on what it was trained" in out, err
    assert call(capsys, "sample", back, "-n", 1, "--steps", 2)[0] == 0
    blobs = runs["ddpm"].config.data.source
    assert call(capsys, "query", "likelihood", back, blobs, "-n", 2)[0] == 0
    code, _, err = call(capsys, "query", "likelihood", back, "-n", 2)
    assert code == 1 and "imported" in err and len(err.strip().splitlines()) == 1
    code, _, err = call(capsys, "import", pipeline, "--out", tmp_path / "rgb", "--data", tmp_path / "none.npz")
    assert code == 1 and not (tmp_path / "rgb").exists()


def test_an_imported_run_holds_the_weights_and_fresh_optimisers(runs: dict[str, Run], tmp_path: Path) -> None:
    source = runs["ddpm"]
    pipeline = export_diffusers(source.model(), tmp_path / "pipeline")  # type: ignore[arg-type]
    run = import_run(pipeline, tmp_path / "run", source.config.data)
    before = {name: value.clone() for name, value in run.model().state_dict().items()}
    state = run.load()
    assert state.step == 0 and len(state.optimizers) == 1
    assert all(torch.equal(value, before[name]) for name, value in state.model.items())


def test_a_lone_network_beside_its_scheduler_is_read_too(runs: dict[str, Run], tmp_path: Path) -> None:
    pipeline = export_diffusers(runs["ddpm"].model(), tmp_path / "pipeline")  # type: ignore[arg-type]
    for file in (*(pipeline / "unet").iterdir(), *(pipeline / "scheduler").iterdir()):
        file.rename(pipeline / file.name)
    (pipeline / "unet").rmdir()
    (pipeline / "scheduler").rmdir()
    there = import_diffusers(pipeline).state_dict()
    assert all(torch.equal(value, there[name]) for name, value in runs["ddpm"].model().state_dict().items())
    config = json.loads((pipeline / "config.json").read_text())
    (pipeline / "config.json").write_text(json.dumps(config | {"sample_size": None}))
    with pytest.raises(ValueError, match="has no 'sample_size'"):
        import_diffusers(pipeline)


def test_the_ends_of_a_linear_schedule_travel(tmp_path: Path) -> None:
    """Betas that are not Ho et al. 2020's scaled to another T, as a folder with few steps may have."""
    folder = export_diffusers(ddpm(Spec((1, 8, 8)), schedule="linear"), tmp_path / "pipeline")
    path = folder / "scheduler" / "scheduler_config.json"
    noise = json.loads(path.read_text())
    noise |= {"trained_betas": None, "beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.05}
    path.write_text(json.dumps(noise))
    run = import_run(folder, tmp_path / "run")
    model = run.model()
    assert torch.allclose(model.schedule.beta[1:], torch.linspace(0.001, 0.05, 60, dtype=torch.float64))  # type: ignore[attr-defined]
    for change, fault in (
        ({"trained_betas": [0.01, 0.02] * 30}, "no config can tell"),
        ({"rescale_betas_zero_snr": True}, "rescaled"),
        ({"beta_schedule": "sigmoid"}, "'sigmoid'"),
        ({"prediction_type": "flow"}, "predicts 'flow'"),
    ):
        path.write_text(json.dumps(noise | change))
        with pytest.raises(ValueError, match=fault):
            import_run(folder, tmp_path / "other")
    path.write_text(json.dumps(noise))
    unet = folder / "unet" / "config.json"
    config = json.loads(unet.read_text())
    for change, fault in (
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ({"out_channels": 2}, "in 2 channels"),
        ({"layers_per_block": 2}, "missing, unknown or misshapen"),
        ({"in_channels": 3, "out_channels": 3}, "missing, unknown or misshapen"),
    ):
        unet.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=fault):
            import_run(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_export_by_the_verb(runs: dict[str, Run], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = call(capsys, "export", runs["unet"].path, "--out", tmp_path / "pipeline")
    assert code == 1 and "--model.network ddpm" in err
    for verb in ("export", "import"):
        code, out, _ = call(capsys, verb, "--help")
        assert code == 0 and "Example" in out
        words = " ".join(out.split())
        told = {"export": "--clip false --steps S, to 1e-4, where S divides the timesteps", "import": "does not clip"}
        assert told[verb] in words


def test_onnx_by_the_verb(runs: dict[str, Run], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "net.onnx"
    code, _, err = call(capsys, "export", runs["unet"].path, "--out", path)
    assert code == 0, err
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([1.0, 7.0, 30.0])
    (output,) = runtime.InferenceSession(path).run(None, {"x_t": x.numpy(), "t": t.numpy()})
    model = runs["unet"].model()
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(output), model.predict(x, t, None), atol=1e-4)  # type: ignore[attr-defined]


def test_an_import_that_was_cut_short_starts_over(runs: dict[str, Run], tmp_path: Path) -> None:
    export_diffusers(runs["ddpm"].model(), tmp_path / "pipeline")
    run = import_run(tmp_path / "pipeline", tmp_path / "back")
    shutil.rmtree(run.path / "checkpoints")  # as if it was killed before they were there
    assert import_run(tmp_path / "pipeline", tmp_path / "back").has_checkpoint
    with pytest.raises(ValueError, match="already holds a run: choose another --out"):
        import_run(tmp_path / "pipeline", tmp_path / "back")
    with pytest.raises(ValueError, match="already holds a run"):
        import_run(tmp_path / "pipeline", runs["unet"].path)


def test_an_import_names_the_folder(runs: dict[str, Run], tmp_path: Path) -> None:
    export_diffusers(runs["ddpm"].model(), tmp_path / "pipeline")
    file = tmp_path / "pipeline" / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_class_embeds": 0, "sample_size": [8, 0]}))
    with pytest.raises(ValueError, match="pipeline"):
        import_run(tmp_path / "pipeline", tmp_path / "back")
