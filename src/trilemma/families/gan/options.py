"""What a GAN is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from trilemma.families.gan.losses import PROBABILITIES, LossName, Targets
from trilemma.validate import Amount, Count, Limits, NotNegative, check_limits


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
    which has little gradient early; hinge; least-squares; wasserstein, where D is a critic and no probability;
    relativistic: D says which image of a pair is real, and no mode can be left out."""
    discriminator_steps: Count = 1
    """Steps of D for each step of G: the paper's k. Published with the gradient penalty: 5."""
    label_smoothing: Annotated[float, Limits(0, below=0.5)] = 0.0
    """D is told that real images are real with one minus this probability (Salimans et al. 2016, one-sided)."""
    targets: Annotated[Targets, Limits()] = (0.0, 1.0, 1.0)
    """a, b, c of least squares: what D should answer to generated and to real images, and what G wants it to."""
    gradient_penalty: NotNegative | None = None
    """Weight of (‖∇D‖ - 1)² between real and generated images; by default 10 with the wasserstein loss (unless
    spectral_norm), else 0."""
    r1: NotNegative | None = None
    """γ of the penalty γ/2 ‖∇D‖² at real images, with any loss; by default 0.1 with the relativistic loss, else 0.
    Published with the nonsaturating one: 10."""
    r2: NotNegative | None = None
    """The same at generated images."""
    penalty_end: Annotated[float, Limits(above=0, most=1)] = 1.0
    """What γ of R1 and R2 falls to by the end of the budget, as a share, evenly in its logarithm: D is smooth while
    modes are found, sharp in the end."""
    octaves: Amount = 0
    """Frequencies in which D sees each value of vectors, beside the value itself."""
    spectral_norm: bool = False
    """Divide every weight of D by its largest singular value."""
    pack: Count = 1
    """Images that D judges at once, as a remedy for mode collapse (PacGAN)."""
    augment: Literal["none", "adaptive"] = "none"
    """Mirror, turn, shift, scale and tint what D sees, by chance and without a trace in what G draws (ADA); adaptive:
    the more often, the better D knows the training images. By default where these are fewer than 5,000."""
    strided: bool = True
    """Strided convolutions; without, D pools by maxima and G repeats pixels."""
    fully_connected: bool = False
    """A fully connected hidden layer in both networks."""
    generator_norm: Literal["batch", "everywhere", "none"] = "batch"
    """Batch norm in G: of every layer but the output, of the output too, or of none."""
    discriminator_norm: Literal["auto", "batch", "everywhere", "layer", "none"] = "auto"
    """Norm in D: of every layer but the input, of the input too, or of none; layer norm is of each image alone. auto is
    none with spectral_norm or the relativistic loss, layer with a gradient penalty, R1 or R2, which batch norm would
    falsify, else batch."""
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
        if (self.penalty_weight or any(self.slopes)) and self.discriminator_norm in ("batch", "everywhere"):
            raise ValueError(
                "gradient_penalty, r1 and r2 are of each image alone, and batch norm in D couples the images of a "
                "batch: set discriminator_norm to layer or none"
            )

    @property
    def penalty_weight(self) -> float:
        """λ of the gradient penalty."""
        if self.gradient_penalty is not None:
            return self.gradient_penalty
        return 10.0 if self.loss == "wasserstein" and not self.spectral_norm else 0.0

    @property
    def slopes(self) -> tuple[float, float]:
        """γ of R1 and of R2."""
        usual = 0.1 if self.loss == "relativistic" else 0.0
        return usual if self.r1 is None else self.r1, usual if self.r2 is None else self.r2

    @property
    def norm_of_discriminator(self) -> Literal["batch", "layer", "none"]:
        """What ``auto`` comes to; ``everywhere`` is batch norm."""
        if self.discriminator_norm == "auto":
            if self.spectral_norm or self.loss == "relativistic":
                return "none"
            return "layer" if self.penalty_weight or any(self.slopes) else "batch"
        return "batch" if self.discriminator_norm == "everywhere" else self.discriminator_norm
