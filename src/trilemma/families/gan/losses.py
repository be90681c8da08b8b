"""What the two players minimise, as functions of what the discriminator answers.

With the cross-entropy of ``minimax`` and ``nonsaturating`` an answer is the logit of D(x), the probability that x is
real. With the others it is the value of a critic, high for real images, and no probability; with ``relativistic`` only
the difference of two answers means anything.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from trilemma.families.observation import at_least_float32

LossName = Literal["nonsaturating", "minimax", "hinge", "least-squares", "wasserstein", "relativistic"]
PROBABILITIES: tuple[LossName, ...] = ("nonsaturating", "minimax")
"""The losses under which D's answer is the logit of a probability."""

Targets = tuple[float, float, float]


def discriminator_loss(
    real: Tensor,
    fake: Tensor,
    loss: LossName = "nonsaturating",
    *,
    label_smoothing: float = 0.0,
    targets: Targets = (0.0, 1.0, 1.0),
) -> Tensor:
    """What D minimises, a scalar of its answers ``[B]`` to real and to generated images.

    - nonsaturating, minimax: -V(D, G) in nats, the mean of -log D(x) plus that of -log(1 - D(G(z))) (Goodfellow et al.
      2014, eq. 1). With one-sided smoothing s the first becomes -(1-s) log D(x) - s log(1 - D(x)). At the best D it is
      log 4 - 2 JS.
    - hinge: mean of max(0, 1 - D(x)) plus that of max(0, 1 + D(G(z))) (Lim & Ye 2017, arXiv 1705.02894; Miyato et al.
      2018, eq. 16). At the best D it is 2 - 2 TV, with the total variation TV.
    - least-squares: ½ mean (D(x) - b)² + ½ mean (D(G(z)) - a)² for targets (a, b, c) (Mao et al. 2017, eq. 2).
    - wasserstein: mean D(G(z)) - mean D(x) (Arjovsky et al. 2017, eq. 2); over 1-Lipschitz D its least value is minus
      the Wasserstein distance.
    - relativistic: mean of log(1 + exp(D(G(z)) - D(x))) over pairs of a real and a generated image (Jolicoeur-Martineau
      2018, arXiv 1807.00734, RSGAN; Huang et al. 2024, arXiv 2501.05441, eq. 2): minus the log probability that D tells
      which of the two is real. Each real image is a level of its own, so that no mode can be left out.
    """
    real, fake = at_least_float32(real), at_least_float32(fake)
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if loss == "least-squares":
        a, b, _ = targets
        return 0.5 * (real - b).square().mean() + 0.5 * (fake - a).square().mean()
    if loss == "wasserstein":
        return fake.mean() - real.mean()
    if loss == "relativistic":
        return F.softplus(fake - real).mean()
    truth = (1 - label_smoothing) * F.softplus(-real) + label_smoothing * F.softplus(real)
    return truth.mean() + F.softplus(fake).mean()


def generator_loss(
    fake: Tensor,
    loss: LossName = "nonsaturating",
    *,
    real: Tensor | None = None,
    targets: Targets = (0.0, 1.0, 1.0),
) -> Tensor:
    """What G minimises, a scalar of D's answers ``[B]`` to generated images, and of those to real ones if relativistic.

    - nonsaturating: mean of -log D(G(z)); minimax: of log(1 - D(G(z))); in nats.
    - hinge and wasserstein: mean of -D(G(z)).
    - least-squares: ½ mean (D(G(z)) - c)².
    - relativistic: mean of log(1 + exp(D(x) - D(G(z)))).

    Raises:
        ValueError: the relativistic loss without ``real``.
    """
    fake = at_least_float32(fake)
    if loss == "relativistic":
        if real is None:
            raise ValueError("the relativistic loss compares: give D's answers to real images too")
        return F.softplus(at_least_float32(real) - fake).mean()
    if loss == "nonsaturating":
        return F.softplus(-fake).mean()
    if loss == "minimax":
        return -F.softplus(fake).mean()
    if loss == "least-squares":
        return 0.5 * (fake - targets[2]).square().mean()
    return -fake.mean()
