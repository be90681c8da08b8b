"""PixelRNN: p(x) = ∏ p(x_i | x_1 … x_{i-1}), with LSTMs over the image for the conditionals.

van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks": the Row LSTM (section 3.1), which sees
a triangle above the pixel, and the Diagonal BiLSTM (section 3.2), which sees every pixel before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from trilemma.families.autoregressive import ENCODING, Autoregressive, Net, conditional
from trilemma.images import Spec
from trilemma.nets.recurrent import DiagonalLSTM, RowLSTM
from trilemma.nets.residual import Block, ResidualStack
from trilemma.validate import MOST, Count, Limits, check_limits


@dataclass(frozen=True)
class PixelRNNConfig:
    """Hyperparameters of the PixelRNN."""

    network: Literal["diagonal-bilstm", "row-lstm", "diagonal-lstm"] = "diagonal-bilstm"
    """Both diagonal directions, row by row, or one diagonal direction alone, which sees only what is to the left."""
    output: Literal["softmax", "mixture"] = "softmax"
    """A probability for each level, or a mixture of discretised logistics that couples the channels."""
    mixtures: Count = 5
    """Components of the mixture, where that is the output."""
    features: Annotated[int, Limits(3, MOST)] = 16
    """Hidden units h of each LSTM; between the layers stand 2h maps."""
    layers: Count = 1
    """LSTM layers, with residual connections; the paper has 1 or 7 on MNIST and 12 on CIFAR-10."""
    first_kernel: Annotated[int, Limits(3, 1023, odd=True)] = 7
    """Size of the first convolution's kernel, odd."""
    head: Annotated[int, Limits(3, MOST)] = 32
    """Hidden features of the 1x1 layers before the output."""

    def __post_init__(self) -> None:
        check_limits(self, "model.")


class PixelRNN(Autoregressive):
    """The PixelRNN over images of any size, 1 or 3 channels. Class labels shift the gates of every LSTM."""

    name = "pixelrnn"
    title = "PixelRNN"
    paper = "van den Oord, Kalchbrenner, Kavukcuoglu (2016). Pixel Recurrent Neural Networks. arXiv:1601.06759"
    Config = PixelRNNConfig

    config: PixelRNNConfig

    def __init__(self, config: PixelRNNConfig, spec: Spec) -> None:
        super().__init__(config, spec, conditional(config.output, config.mixtures, spec))
        groups = self.conditional.groups
        self._net = ResidualStack(
            (groups, spec.height, spec.width),
            ENCODING * spec.channels // groups,
            self.conditional.outputs,
            first_kernel=config.first_kernel,
            blocks=[self._block(config, groups) for _ in range(config.layers)],
            features=config.features,
            head=config.head,
            labels=self.labels,
        )

    def _block(self, config: PixelRNNConfig, groups: int) -> Block:
        if config.network == "row-lstm":
            return RowLSTM(config.features, groups, self.labels)
        directions = 2 if config.network == "diagonal-bilstm" else 1
        return DiagonalLSTM(config.features, groups, directions, ENCODING * self.spec.channels, self.labels)

    @property
    def net(self) -> Net:
        return self._net
