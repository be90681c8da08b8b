"""Features of vision transformers from the Hugging Face Hub: DINOv2 and CLIP, through the optional ``transformers``.

Stein et al. 2023, "Exposing flaws of generative model evaluation metrics and their unfair treatment of diffusion
models" (arXiv:2306.04675), find that distances in DINOv2 features follow human judgement where Inception's do not;
Jayasumana et al. 2024, "Rethinking FID" (arXiv:2401.09603), use CLIP with the kernel distance. A number measured in
them is a Fréchet or kernel distance in those features, not an FID.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.metrics.features import Features, weights_hash

HUB = {
    "dinov2": {
        "": "facebook/dinov2-large",  # as Stein et al. 2023
        "small": "facebook/dinov2-small",
        "base": "facebook/dinov2-base",
        "large": "facebook/dinov2-large",
        "giant": "facebook/dinov2-giant",
    },
    "clip": {
        "": "openai/clip-vit-large-patch14",
        "base": "openai/clip-vit-base-patch32",
        "large": "openai/clip-vit-large-patch14",
    },
}
STATISTICS = {  # mean and standard deviation of the colours that the networks were trained with
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


class TransformerFeatures(Features):
    """The class token of DINOv2 after its last normalisation, or CLIP's projected image embedding.

    Images are resized to a square of 224 pixels (CLIP: of the size it was trained with) by antialiased bicubic
    interpolation in floats, the whole of the image, and normalised as the network expects.

    Args:
        kind: ``dinov2`` or ``clip``.
        model: a size, a Hub id ``owner/name`` or a local folder with the same files; "" for the published choice.
        device: where the network runs.

    Raises:
        ValueError: ``transformers`` is not installed, or the model cannot be loaded.
    """

    _most_images = 32

    def __init__(self, kind: str, model: str, device: torch.device) -> None:
        identifier = HUB[kind].get(model, model)
        if "/" not in identifier and not Path(identifier).is_dir():
            sizes = ", ".join(f"{kind}/{size}" for size in HUB[kind] if size)
            raise ValueError(
                f"there are no features called '{kind}/{model}': choose from {sizes}, a Hub id or a folder"
            )
        self._kind, self._device = kind, device
        self._network, self._side, self.dims = _load(kind, identifier)
        self._network.to(device).eval()
        self.name = f"{kind}/{identifier}"
        self.weights = weights_hash(self._network)  # a folder's, or a Hub id's newest, may change
        mean, deviation = (torch.tensor(values, device=device).view(3, 1, 1) for values in STATISTICS[kind])
        self._mean, self._deviation = mean, deviation

    def _features(self, images: Tensor) -> Tensor:
        # Antialiased resizing is not implemented on MPS.
        images = images.to("cpu" if self._device.type == "mps" else self._device).expand(-1, 3, -1, -1)
        x = F.interpolate(images.float(), (self._side,) * 2, mode="bicubic", antialias=True).clamp(0, 255) / 255
        x = (x.to(self._device) - self._mean) / self._deviation
        if self._kind == "dinov2":
            token: Tensor = self._network(pixel_values=x).last_hidden_state[:, 0]
            return token
        embedding: Tensor = self._network(pixel_values=x).image_embeds
        return embedding


def _load(kind: str, identifier: str) -> tuple[Any, int, int]:
    """The network, the side of its images and the length of its features."""
    try:
        import transformers
    except ImportError:
        raise ValueError(
            f'features {kind} need the transformers package: pip install "trilemma[transformers]"'
        ) from None
    network_class = transformers.Dinov2Model if kind == "dinov2" else transformers.CLIPVisionModelWithProjection
    try:
        # Weights as safetensors only: nothing is unpickled.
        network = network_class.from_pretrained(identifier, use_safetensors=True)
    except Exception as error:  # from half a dozen libraries below it
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"cannot load {identifier!r} from the Hub ({said[0]}): check the name; on a machine without a network give "
            f"{kind}/ and a folder that holds its config.json and model.safetensors"
        ) from error
    config = network.config
    if kind == "dinov2":
        side = 224 if config.image_size >= 224 else config.image_size  # trained at 518, evaluated at 224
        return network, side, config.hidden_size
    return network, config.image_size, config.projection_dim
