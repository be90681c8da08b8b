"""Are our scores those of the packages that people use, on the same files, and how long do both take?

    pip install --no-deps --target refs torch-fidelity==0.4.0 pytorch-fid==0.3.0 clean-fid==0.1.35 prdc==0.2
    pip install --no-deps --target refs torchvision tqdm requests urllib3 certifi idna charset-normalizer scipy \\
        scikit-learn joblib threadpoolctl
    TRILEMMA_INCEPTION=…/default_1.pt PYTHONPATH=refs python benchmarks/peers.py [A B] [--images 24]

A and B are folders of images, all of one size; without them three pairs of sets are made: grey 28 x 28 digits, small
colour images, and large ones. Compared are FID (torch-fidelity, pytorch-fid, clean-fid), KID (torch-fidelity), and
precision, recall, density and coverage (prdc, of the same features). dgm-eval is in no registry of packages.

The references belong in a folder of their own, because they bring a torchvision that need not fit the torch that is
installed; two operators it may lack are declared here, and never called. The three of FID download their weights; here
all get the same tensors as we do, from the file that `trilemma[inception]` installs, under their own names. Everything
else is theirs: reading the files, resizing, the network and the distance. Seconds are of the processor, of reading,
features and distance. The last line is the largest relative difference of an FID.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.data import load
from trilemma.evaluation.official import statistics
from trilemma.images import save_png
from trilemma.metrics import frechet_distance, manifold_scores
from trilemma.metrics.inception import weights_file
from trilemma.metrics.kernel import unbiased_mmd

warnings.simplefilter("ignore")
LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for operator in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a, Tensor b, float c) -> Tensor"):
    LIBRARY.define(operator)


def published() -> Any:
    return torch.jit.load(str(weights_file())).eval()


def lend_weights() -> None:
    """Make every `load_state_dict` of an Inception take the published tensors, in order, whatever their names."""
    state = published().state_dict()
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    plain = nn.Module.load_state_dict

    def lent(module: nn.Module, given: Any, *args: Any, **kwargs: Any) -> Any:
        own = module.state_dict()
        layers = [key.removesuffix(".conv.weight") for key in own if key.endswith(".conv.weight")]
        if len(layers) != len(names):
            return plain(module, given, *args, **kwargs)
        for layer, name in zip(layers, names, strict=True):
            own[f"{layer}.conv.weight"] = state[f"{name}.weight"]
            own[f"{layer}.bn.weight"] = torch.ones_like(state[f"{name}.beta"])
            own[f"{layer}.bn.bias"] = state[f"{name}.beta"]
            own[f"{layer}.bn.running_mean"] = state[f"{name}.mean"]
            own[f"{layer}.bn.running_var"] = state[f"{name}.var"]
        return plain(module, own)

    nn.Module.load_state_dict = lent  # type: ignore[method-assign]


Result = tuple[Tensor, Tensor, float, float]
"""Features of both sets, the FID, and the seconds that its own command takes for it."""


def timed(score: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    return score(), time.process_time() - began


def by_pytorch_fid(a: Path, b: Path) -> Result:
    import pytorch_fid.fid_score as reference
    import pytorch_fid.inception as network

    network.load_state_dict_from_url = lambda *_, **__: {}
    model = network.InceptionV3([3])
    x, y = (torch.from_numpy(reference.get_activations(files(p), model, 8, 2048, "cpu", num_workers=0)) for p in (a, b))
    value, seconds = timed(lambda: reference.calculate_fid_given_paths([str(a), str(b)], 8, "cpu", 2048, num_workers=0))
    return x, y, float(value), seconds


def by_torch_fidelity(a: Path, b: Path) -> Result:
    import torch_fidelity
    import torch_fidelity.feature_extractor_inceptionv3 as network
    from torch_fidelity.datasets import ImagesPathDataset

    network.load_state_dict_from_url = lambda *_, **__: {}
    model = network.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])

    def features(folder: Path) -> Tensor:
        images = torch.stack(list(ImagesPathDataset(files(folder))))
        return torch.cat([model(part)[0] for part in images.split(8)])

    with torch.inference_mode():
        x, y = features(a), features(b)
    settings: dict[str, Any] = dict(cuda=False, fid=True, batch_size=8, verbose=False, cache=False)
    found, seconds = timed(lambda: torch_fidelity.calculate_metrics(input1=str(a), input2=str(b), **settings))
    return x, y, found["frechet_inception_distance"], seconds


def by_clean_fid(a: Path, b: Path) -> Result:
    from cleanfid import fid

    network = published()

    def model(batch: Tensor) -> Tensor:  # its wrapper of a TorchScript network, whose file it would download
        return network((batch - 128) / 128).reshape(len(batch), 2048)

    settings: dict[str, Any] = dict(mode="clean", num_workers=0, batch_size=8, device="cpu", verbose=False)
    x, y = (torch.from_numpy(fid.get_folder_features(str(p), model, **settings)) for p in (a, b))
    value, seconds = timed(lambda: fid.compute_fid(str(a), str(b), custom_feat_extractor=model, **settings))
    return x, y, float(value), seconds


REFERENCES: dict[str, Callable[[Path, Path], Result]] = {
    "torch-fidelity": by_torch_fidelity,
    "pytorch-fid": by_pytorch_fid,
    "clean-fid": by_clean_fid,
}


def files(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.iterdir())]


def made(folder: Path, count: int) -> list[tuple[str, Path, Path]]:
    """Three pairs of folders of PNG files."""
    digits = load("mnist")
    generator = torch.Generator().manual_seed(0)

    def clouds(n: int, height: int, width: int, detail: int) -> Tensor:
        coarse = torch.rand(n, 3, detail, detail, generator=generator) * 255
        fine = 40 * torch.randn(n, 3, height, width, generator=generator)
        smooth = F.interpolate(coarse, (height, width), mode="bicubic")
        return (smooth + fine).round().clamp(0, 255).to(torch.uint8)

    sets = [
        ("grey 28 x 28", digits.batch(digits.train[:count]), digits.batch(digits.test[:count])),
        ("colour 32 x 32", clouds(count, 32, 32, 5), clouds(count, 32, 32, 8)),
        ("colour 400 x 330", clouds(count, 400, 330, 9), clouds(count, 400, 330, 14)),
    ]
    pairs = []
    for name, *two in sets:
        folders = [folder / f"{name} {side}" for side in "AB"]
        for images, into in zip(two, folders, strict=True):
            for i, image in enumerate(images):
                save_png(image, into / f"{i:04}.png")
        pairs.append((name, *folders))
    return pairs


def compare(name: str, a: Path, b: Path) -> float:
    worst = 0.0
    for preprocessing, reference in REFERENCES.items():
        ours, began = [], time.process_time()
        for folder in (a, b):  # as `trilemma fid` reads it
            features = statistics(folder, preprocessing=preprocessing, device="cpu").features
            assert features is not None
            ours.append(features)
        distance = frechet_distance(*ours)
        seconds = time.process_time() - began
        *theirs, value, their_seconds = reference(a, b)
        off = max(float((x - y).norm() / y.norm()) for x, y in zip(ours, theirs, strict=True))
        worst = max(worst, abs(distance / value - 1))
        print(
            f"{name:18} {preprocessing:15} FID ours {distance:.5f}, theirs {value:.5f} ({distance / value - 1:+.1e}); "
            f"features {off:.1e} apart; {seconds:.1f} s for {their_seconds:.1f} s",
            flush=True,
        )
        if preprocessing == "torch-fidelity":
            print(f"{name:18} {'KID':15} {kernel_difference(*ours):.1e} apart from torch-fidelity's on equal features")
            print(f"{name:18} {'prdc':15} {manifold_difference(*ours)}")
    return worst


def kernel_difference(x: Tensor, y: Tensor) -> float:
    from torch_fidelity.metric_kid import kid_features_to_metric

    found = kid_features_to_metric(x.double(), y.double(), kid_subsets=1, kid_subset_size=len(x), verbose=False)
    theirs = found["kernel_inception_distance_mean"]
    return abs(unbiased_mmd(x.double(), y.double()).item() / theirs - 1)


def manifold_difference(real: Tensor, fake: Tensor) -> str:
    """The four scores beside those of their authors' package, and the seconds of both."""
    from prdc import compute_prdc

    nearest = min(5, len(real) - 1)
    ours, seconds = timed(lambda: manifold_scores(real, fake, k=nearest))
    with contextlib.redirect_stdout(io.StringIO()):
        theirs, their_seconds = timed(
            lambda: compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=nearest)
        )
    apart = max(abs((getattr(ours, key).value or 0.0) - value) for key, value in theirs.items())
    return f"largest difference of the four {apart:.1e}; {seconds:.2f} s for {their_seconds:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--images", type=int, default=24, help="of each set that is made")
    parser.add_argument("--only", default="", help="of the pairs that are made, those with this in their name")
    arguments = parser.parse_args()
    lend_weights()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.folders:
            a, b = arguments.folders
            pairs = [(f"{a.name}, {b.name}", a, b)]
        else:
            pairs = [pair for pair in made(Path(folder), arguments.images) if arguments.only in pair[0]]
        worst = max(compare(*pair) for pair in pairs)
    print(f"largest relative difference of an FID from its reference: {worst:.1e}")


if __name__ == "__main__":
    main()
