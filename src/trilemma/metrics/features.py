"""From images to matrices of features: the spaces that distances are measured in.

`small` needs nothing but this package. `inception` is the network of the FID of the literature, `dinov2` and `clip`
are those of its successors, and any function of images will do. A distance carries the name of its features: only
Inception's may be called FID, and even there preprocessing moves the value by 20 %.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FEATURES = (
    "small",
    "vectors",
    "inception",
    "inception/clean-fid",
    "inception/pytorch-fid",
    "inception/torch-fidelity",
    "dinov2",
    "dinov2/small",
    "dinov2/base",
    "dinov2/large",
    "dinov2/giant",
    "clip",
    "clip/base",
    "clip/large",
)
"""Names that `feature_network` knows, for command lines; ``dinov2/`` and ``clip/`` also take a folder or a Hub id."""


class Features(ABC):
    """A fixed function from images to feature vectors.

    Attributes:
        name: what a number measured with it must be labelled with; it changes whenever the values would.
        dims: length of a feature vector.
        weights: a hash of the network's weights, "" where there are none that can change under the name.
    """

    name: str
    dims: int
    weights: str = ""

    @property
    def key(self) -> str:
        """What cached features go by: the name, and the weights that gave them."""
        return f"{self.name} {self.weights}".rstrip()

    def __call__(self, images: Tensor) -> Tensor:
        """Features of ``uint8 [N, C, H, W]`` images with values 0 … 255 and C of 1 or 3.

        Returns:
            float32 ``[N, dims]`` on the CPU.

        Raises:
            ValueError: the images are not of that kind.
        """
        check_display_images(images)
        if len(images) and int(images.max()) == 1:
            raise ValueError(
                "these images hold only the values 0 and 1: turn them into 0 to 255 with images.to_display"
            )
        return self.of(images)

    def of(self, images: Tensor) -> Tensor:
        """The same of images that are known to be as they are shown, 0 … 255, however dark."""
        check_display_images(images)
        if not len(images):
            return torch.empty(0, self.dims)
        pixels = images.shape[-2] * images.shape[-1]
        batch = min(self._most_images, max(1, self._most_pixels // pixels))
        with torch.inference_mode():
            parts = [self._features(part).cpu() for part in torch.split(images, batch)]
        return torch.cat(parts).float().clone()  # cloned outside inference mode: the result is an ordinary tensor

    _most_images = 256  # per batch, and no more than ↓ in all: memory stays bounded, small images stay in the cache
    _most_pixels = 2**20

    @abstractmethod
    def _features(self, images: Tensor) -> Tensor:
        """The same for one batch of checked images."""


class CustomFeatures(Features):
    """Features of the user's own.

    Args:
        function: from ``uint8 [N, C, H, W]`` images with values 0 … 255, as they are, to a float matrix ``[N, D]``; it
            resizes and normalises by itself, and gives an image the same features in any batch. For a module, put it
            in evaluation mode first.
        name: what numbers measured with it are labelled with. Statistics of real images are cached under it, so
            change it whenever the function changes.
        dims: D, where it is known; otherwise it is 0 until the function was called once.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str, dims: int = 0) -> None:
        if not name or name in FEATURES:
            raise ValueError(f"features of your own need a name of their own, not {name!r}")
        self.name, self.dims, self._function = name, dims, function

    def _features(self, images: Tensor) -> Tensor:
        features = self._function(images)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"the features {self.name!r} must be a matrix [{len(images)}, D], not {shape}")
        if self.dims not in (0, features.shape[1]):
            raise ValueError(f"the features {self.name!r} have {features.shape[1]} dimensions, not {self.dims}")
        self.dims = features.shape[1]
        return features


class VectorFeatures(Features):
    """Vectors are features already: distances are measured between them, each value in units of its own spread.

    Args:
        dims: D, where it is known.
        scale: what each of the D values is divided by, such as its standard deviation over the training set, so that a
            column in dollars does not hide one in years; by default 1, which leaves them as they are.
    """

    def __init__(self, dims: int = 0, scale: Sequence[float] = ()) -> None:
        if not all(0 < each < math.inf for each in scale):
            raise ValueError(f"the scale of vectors must be numbers above 0, not {min(scale)}")
        self.name = "vectors (standardised)" if scale else "vectors"
        self.dims, self.scale = len(scale) or dims, tuple(scale)

    def __call__(self, images: Tensor) -> Tensor:
        """The float ``[N, D]`` vectors over the scale; ``ValueError`` for images."""
        return self.of(images)

    def of(self, images: Tensor) -> Tensor:
        """The same."""
        if images.ndim != 2 or not images.is_floating_point():
            raise ValueError(
                f"the features 'vectors' take float vectors [N, D], not {images.dtype} {list(images.shape)}"
            )
        if self.scale and images.shape[1] != len(self.scale):
            raise ValueError(f"vectors of {images.shape[1]} values do not fit a scale of {len(self.scale)}")
        self.dims = images.shape[1]
        return images.float().cpu() / torch.tensor(self.scale or (1.0,))

    def _features(self, images: Tensor) -> Tensor:
        return images


def feature_network(
    features: str | Features | Callable[[Tensor], Tensor] = "small", device: torch.device | str = "cpu", name: str = ""
) -> Features:
    """Make a feature space by name, or of a function.

    Args:
        features: ``small``; ``vectors``, of data that are no images; ``inception``, that is ``inception/clean-fid``, or
            ``inception/`` and another preprocessing; ``dinov2`` or ``clip``, or those with ``/`` and a size, a Hub id
            or a local folder; or a function of images, as `CustomFeatures` takes it.
        device: where a network runs; ``small`` always runs on the CPU, a function where it likes.
        name: of a function; needed there, because cached statistics of real images go by it.

    Raises:
        ValueError: no such name, or the weights are missing or damaged.
    """
    if isinstance(features, Features):
        return features
    if not isinstance(features, str):
        return CustomFeatures(features, name)
    if features == "vectors":
        return VectorFeatures()
    kind, _, rest = features.partition("/")
    if features == "small":
        from trilemma.metrics.small import SmallFeatures

        return SmallFeatures()
    if kind == "inception" and (not rest or features in FEATURES):
        from trilemma.metrics.inception import InceptionFeatures

        return InceptionFeatures(rest or "clean-fid", torch.device(device))
    if kind in ("dinov2", "clip"):
        from trilemma.metrics.transformer import TransformerFeatures

        return TransformerFeatures(kind, rest, torch.device(device))
    raise ValueError(f"there are no features called {features!r}: choose from {', '.join(FEATURES)}")


def weights_hash(network: torch.nn.Module) -> str:
    """A short hash of all that a network has learnt."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_display_images(images: Tensor) -> None:
    """Raise ``ValueError`` unless these are ``uint8 [N, C, H, W]`` images with values 0 … 255 and C of 1 or 3."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"features need uint8 images with values 0 to 255, not {kind}: quantise them first")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(f"features need images of shape [N, 1 or 3, H, W], not {list(images.shape)}")
