"""The flags of the questions to families with a latent space, and who answers them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from trilemma.cli.query_asked import Flags, Mode
from trilemma.cli.query_codes import ask_annealed, ask_disentangle, ask_downstream, ask_posterior, ask_samplers
from trilemma.cli.query_latent import ask_arithmetic, ask_manifold, ask_traverse
from trilemma.cli.query_rates import ask_rates


def _flag(text: str) -> Parameter:
    return Parameter(help=text, negative=(), show_default=False)


@Parameter(name="*")
@dataclass(frozen=True)
class LatentFlags:
    """The questions, and the flags that only they read."""

    annealed: Annotated[
        bool, _flag("log p(x) by annealed importance sampling, bracketed from both sides (vae, gan); -n 16 by default")
    ] = False
    posterior: Annotated[
        bool,
        _flag(
            "p(z|x): reconstructions, active latents, codes as .npz (vae, autoencoder; -n 24 by default), or points "
            "found by search (gan; -n 8)"
        ),
    ] = False
    downstream: Annotated[
        bool, _flag("classifiers on codes against raw pixels (vae, autoencoder); -n 2000 training images by default")
    ] = False
    traverse: Annotated[bool, _flag("draw what each latent does, the most important first (vae, autoencoder)")] = False
    manifold: Annotated[bool, _flag("draw the whole of a 2-D latent space, and the codes of images in it")] = False
    arithmetic: Annotated[
        str | None, _flag("A-B+C on mean codes of classes such as 9-4+1, or of images such as @12,40-@7+@3")
    ] = None
    disentangle: Annotated[
        str | None,
        _flag(
            "mutual information gap and DCI on an .npz of 'images' with 'factors', numbers [N, K], and if they have "
            "names 'factor_names' [K] (vae, autoencoder)"
        ),
    ] = None
    samplers: Annotated[
        bool, _flag("what an autoencoder makes of N(0, I), of densities fitted to its codes, and of a large box")
    ] = False
    rates: Annotated[
        str | None,
        _flag(
            "rate against distortion of this run and of others with another --model.beta, RUN,RUN, and how blurred "
            "their samples are (vae); -n 1000 by default"
        ),
    ] = None
    points: Annotated[int | None, _flag("pictures in a row of --interpolate and --traverse; 9 by default")] = None
    chains: Annotated[int | None, _flag("with --annealed: chains for each image; 16 by default")] = None
    temperatures: Annotated[int | None, _flag("with --annealed: steps from prior to posterior; 500 by default")] = None
    sigma: Annotated[
        float | None,
        _flag(
            "with --annealed: a gan's observation noise on [0, 1], of vectors in standard deviations; 0.1 by default"
        ),
    ] = None
    start: Annotated[
        Literal["prior", "encoder"] | None, _flag("with --annealed: where the chains of a vae start; prior by default")
    ] = None
    codes: Annotated[Path | None, _flag("with --posterior: where the codes go, codes.npz in the run by default")] = None

    def extend(self, flags: Flags) -> Flags:
        """The flags of every question with those of these."""
        return replace(
            flags,
            points=self.points,
            chains=self.chains,
            temperatures=self.temperatures,
            sigma=self.sigma,
            start=self.start,
            codes=self.codes,
        )


SCENE = frozenset({"images", "n", "labels", "out"})
LATENT_MODES = {
    "annealed": Mode(ask_annealed, frozenset({"images", "n", "labels", "chains", "temperatures", "sigma", "start"})),
    "posterior": Mode(ask_posterior, SCENE | {"codes"}),
    "downstream": Mode(ask_downstream, frozenset({"n"})),
    "traverse": Mode(ask_traverse, SCENE | {"points"}),
    "manifold": Mode(ask_manifold, SCENE),
    "samplers": Mode(ask_samplers, frozenset({"n", "out"})),
    "disentangle": Mode(ask_disentangle, frozenset({"n", "out"})),
    "rates": Mode(ask_rates, frozenset({"n", "out"})),
    "arithmetic": Mode(ask_arithmetic, frozenset({"images", "n", "out"})),
}
LATENT_QUESTIONS = tuple(LATENT_MODES)
