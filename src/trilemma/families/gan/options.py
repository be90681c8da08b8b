"""What a GAN is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from trilemma.families.gan.losses import PROBABILITIES, LossName, Targets
from trilemma.validate import Count, Limits, NotNegative, check_limits


@dataclass(frozen=True)
class GANConfig:
    """Hyperparameters of `GAN`. The defaults are DCGAN's guidelines and its loss.

    Raises:
        ValueError: one line on a value out of range, or on two that contradict each other.
    """

    width: Count = 80
    """Channels of both networks at half the image's resolution; they double with each halving. For vectors the units
    of a layer; of the other fields those that speak of pixels, strides, norms and activations say nothing to them."""
    discriminator_width: Count | None = None
    """The same of D alone, where it is not G's. A D much smaller than its G makes modes easy to lose."""
    latent: Count = 64
    """Dimensions of z."""
    loss: LossName = "nonsaturating"
    """What the players minimise. nonsaturating: G minimises -log D(G(z)); minimax: the game's own log(1 - D(G(z))),
    which has little gradient early; hinge; least-squares; wasserstein, where D is a critic and no probability."""
    discriminator_steps: Count = 1
    """Steps of D for each step of G: the paper's k. Published with the gradient penalty: 5."""
    label_smoothing: Annotated[float, Limits(0, below=0.5)] = 0.0
    """D is told that real images are real with one minus this probability (Salimans et al. 2016, one-sided)."""
    targets: Annotated[Targets, Limits()] = (0.0, 1.0, 1.0)
    """a, b, c of least squares: what D should answer to generated and to real images, and what G wants it to."""
    gradient_penalty: NotNegative | None = None
    """Weight of (‖∇D‖ - 1)² between real and generated images; by default 10 with the wasserstein loss (unless
    spectral_norm), else 0."""
    r1: NotNegative = 0.0
    """γ of the penalty γ/2 ‖∇D‖² at real images, with any loss; published: 10."""
    spectral_norm: bool = False
    """Divide every weight of D by its largest singular value."""
    pack: Count = 1
    """Images that D judges at once, as a remedy for mode collapse (PacGAN)."""
    strided: bool = True
    """Strided convolutions; without, D pools by maxima and G repeats pixels."""
    fully_connected: bool = False
    """A fully connected hidden layer in both networks."""
    generator_norm: Literal["batch", "everywhere", "none"] = "batch"
    """Batch norm in G: of every layer but the output, of the output too, or of none."""
    discriminator_norm: Literal["auto", "batch", "everywhere", "layer", "none"] = "auto"
    """Norm in D: of every layer but the input, of the input too, or of none; layer norm is of each image alone. auto is
    none with spectral_norm, layer with a gradient penalty or R1, which batch norm would falsify, else batch."""
    generator_activation: Literal["relu", "leaky-relu"] = "relu"
    """Of every layer of G but the output."""
    discriminator_activation: Literal["leaky-relu", "relu"] = "leaky-relu"
    """Of every layer of D."""
    output: Literal["tanh", "linear"] = "tanh"
    """The end of G; linear may leave the range of pixels, and is cut off in samples."""

    def __post_init__(self) -> None:
        check_limits(self, "model.")
        if self.label_smoothing and self.loss not in PROBABILITIES:
            raise ValueError(f"label_smoothing is for probabilities, and D gives none with the {self.loss} loss")
        if self.loss == "wasserstein" and not (self.penalty_weight or self.spectral_norm):
            raise ValueError(
                "the wasserstein loss needs a bounded slope of D: gradient_penalty above 0, or spectral_norm"
            )
        if self.loss == "wasserstein" and not self.penalty_weight and self.norm_of_discriminator != "none":
            raise ValueError(
                "spectral_norm bounds the slope of D only without another norm: set discriminator_norm to none or auto"
            )
        if (self.penalty_weight or self.r1) and self.discriminator_norm in ("batch", "everywhere"):
            raise ValueError(
                "gradient_penalty and r1 are of each image alone, and batch norm in D couples the images of a batch: "
                "set discriminator_norm to layer or none"
            )

    @property
    def penalty_weight(self) -> float:
        """λ of the gradient penalty."""
        if self.gradient_penalty is not None:
            return self.gradient_penalty
        return 10.0 if self.loss == "wasserstein" and not self.spectral_norm else 0.0

    @property
    def norm_of_discriminator(self) -> Literal["batch", "layer", "none"]:
        """What ``auto`` comes to; ``everywhere`` is batch norm."""
        if self.discriminator_norm == "auto":
            if self.spectral_norm:
                return "none"
            return "layer" if self.penalty_weight or self.r1 else "batch"
        return "batch" if self.discriminator_norm == "everywhere" else self.discriminator_norm
