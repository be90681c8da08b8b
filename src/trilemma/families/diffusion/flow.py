"""Flow matching on straight lines: rectified flow (Liu, Gong and Liu 2023; Lipman et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from trilemma.families.diffusion.base import Denoising
from trilemma.families.diffusion.network import NetworkConfig, check_choice
from trilemma.families.diffusion.options import Extended, FlowOptions
from trilemma.families.diffusion.schedule import Schedule, rowwise
from trilemma.families.family import Density, Loss, Objective
from trilemma.images import Spec
from trilemma.noise import Noise
from trilemma.validate import Limits

__all__ = ["Flow", "FlowConfig", "FlowOptions"]


@dataclass(frozen=True)
class FlowConfig(NetworkConfig):
    """Hyperparameters of the path and its training."""

    times: Literal["uniform", "logit-normal"] = "uniform"
    """how the time is drawn in training: uniform (Liu et al. 2023), or the sigmoid of a standard normal, which favours
    the middle (Esser et al. 2024)"""
    timesteps: Annotated[int, Limits(2, 100_000)] = 1000
    """the grid of times that samplers and the bound are written on; training draws from all of 0 … 1"""


class Flow(Denoising):
    """Rectified flow: x_τ = (1 - τ) x_0 + τ ε, and a network that predicts its velocity ε - x_0.

    A sibling of `Diffusion` with the same network and samplers. Only the path and the loss differ: along straight
    lines few steps go far. (The paper has noise at time 0; here, as in diffusion, the image is.)
    """

    name = "flow"
    known_as: ClassVar[Mapping[str, str]] = {"flow-matching": "", "rectified-flow": ""}
    title = "Flow matching (rectified flow)"
    paper = "Liu, Gong and Liu 2023, Flow Straight and Fast: Learning to Generate with Rectified Flow, arXiv:2209.03003"
    density = Density.APPROXIMATE
    answers: ClassVar[Mapping[str, str]] = {
        "sample": "yes, in several steps",
        "p(x)": "bound: the variational bound of a chain on its path, or the equation of the flow itself",
        "p(z|x)": "yes, by the flow run backwards: z is one point",
        "complete": "approximate: known pixels are replaced, noised, at every step",
        "interpolate": "yes, in noise space",
        "classify": "approximate: by comparing bounds of noised images, when class-conditional",
    }
    gives_up = "fast sampling"
    Config = FlowConfig
    Options = Extended(FlowOptions)

    def __init__(self, config: FlowConfig, spec: Spec) -> None:
        check_choice("times", config.times, ("uniform", "logit-normal"))
        super().__init__(config, spec, Schedule.flow(config.timesteps), "velocity")

    def objectives(self) -> Sequence[Objective]:
        return [Objective("velocity", list(self.net.parameters()), self.loss)]

    def loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        """The mean squared error of the velocity at one random time per image (Liu et al. 2023, eq. 1).

        Logs: ``mse q1`` … ``mse q4``, the error by quarter of the times, q1 the least noisy; each is estimated over
        the whole batch (times 4), and counts times as often as they are drawn.
        """
        x0 = self.spec.to_unit(x)
        tau = noise.uniform() if self.config.times == "uniform" else noise.normal().sigmoid()  # [B] on 0 … 1
        eps = noise.normal(*self.spec.shape)
        rows = rowwise(tau, x0)
        velocity = self.predict((1 - rows) * x0 + rows * eps, tau * self.schedule.T, labels)
        errors = (velocity - (eps - x0)).square().flatten(1).mean(1)  # [B]
        quarter = (tau * 4).long().clamp(max=3)
        logs = {f"mse q{k + 1}": 4 * (errors.detach() * (quarter == k)).mean() for k in range(4)}
        return Loss({"mse": errors.mean()}, logs)
