"""PixelCNN: p(x) = ∏ p(x_i | x_1 … x_{i-1}), with masked convolutions for the conditionals.

van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks" (the plain PixelCNN, the masks and the
softmax over levels), van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders" (the gated one,
without a blind spot), and Salimans et al. 2017, "PixelCNN++" (the mixture of logistics).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from trilemma.families.autoregressive import ENCODING, Autoregressive, Net, conditional
from trilemma.images import Spec
from trilemma.nets.gated import GatedStacks
from trilemma.nets.residual import ConvBlock, ResidualStack
from trilemma.validate import MOST, Count, Limits, check_limits


@dataclass(frozen=True)
class PixelCNNConfig:
    """Hyperparameters of the PixelCNN."""

    network: Literal["gated", "plain"] = "gated"
    """Two stacks with gates (2016b), or one stack of residual blocks, which has a blind spot (2016a)."""
    output: Literal["softmax", "mixture"] = "softmax"
    """A probability for each level, or a mixture of discretised logistics that couples the channels."""
    mixtures: Count = 5
    """Components of the mixture, where that is the output."""
    features: Annotated[int, Limits(3, MOST)] = 16
    """Feature maps of each of the two stacks; the plain network has twice as many between its blocks."""
    layers: Count = 5
    """Gated layers, at least 2, or residual blocks after the first convolution."""
    first_kernel: Annotated[int, Limits(3, 1023, odd=True)] = 7
    """Size of the first layer's kernel, odd."""
    kernel: Annotated[int, Limits(3, 1023, odd=True)] = 5
    """Size of the later layers' kernels, odd."""
    head: Annotated[int, Limits(3, MOST)] = 32
    """Hidden features of the 1x1 layers before the output."""

    def __post_init__(self) -> None:
        check_limits(self, "model.")
        if self.network == "gated" and self.layers < 2:
            raise ValueError(f"model.layers must be at least 2 in the gated network, not {self.layers}")


class PixelCNN(Autoregressive):
    """The PixelCNN over images of any size, 1 or 3 channels.

    Class labels shift every gate or block (equation 4 of the gated PixelCNN); the last row of their embedding means
    "no label".
    """

    name = "pixelcnn"
    known_as: ClassVar[Mapping[str, str]] = {"pixelcnn++": "--model.output mixture"}
    title = "PixelCNN"
    paper = (
        "van den Oord, Kalchbrenner, Espeholt, Kavukcuoglu, Vinyals, Graves (2016). Conditional Image Generation "
        "with PixelCNN Decoders. arXiv:1606.05328"
    )
    Config = PixelCNNConfig

    config: PixelCNNConfig
    _net: GatedStacks | ResidualStack

    def __init__(self, config: PixelCNNConfig, spec: Spec) -> None:
        super().__init__(config, spec, conditional(config.output, config.mixtures, spec))
        groups, outputs = self.conditional.groups, self.conditional.outputs
        shape, encoding = (groups, spec.height, spec.width), ENCODING * spec.channels // groups
        if config.network == "gated":
            self._net = GatedStacks(
                shape,
                encoding,
                outputs,
                features=config.features,
                layers=config.layers,
                first_kernel=config.first_kernel,
                kernel=config.kernel,
                head=config.head,
                labels=self.labels,
            )
        else:
            blocks = [ConvBlock(config.features, groups, config.kernel, self.labels) for _ in range(config.layers)]
            self._net = ResidualStack(
                shape,
                encoding,
                outputs,
                first_kernel=config.first_kernel,
                blocks=blocks,
                features=config.features,
                head=config.head,
                labels=self.labels,
            )

    @property
    def net(self) -> Net:
        return self._net
