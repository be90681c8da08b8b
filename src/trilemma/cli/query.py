"""``trilemma query RUN [IMAGES]``: one question at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Group, Parameter

from trilemma.cli.errors import refuse_unknown
from trilemma.cli.flags import Device, Json, print_json
from trilemma.cli.progress import Bars
from trilemma.cli.query_asked import Asked, Flags, Mode, Reply
from trilemma.cli.query_denoising import (
    ask_forward,
    ask_interpolate_noise,
    ask_invert,
    ask_ode,
    ask_reverse,
    ask_terms,
)
from trilemma.cli.query_game import ask_gradients
from trilemma.cli.query_latent import ask_interpolate_codes
from trilemma.cli.query_latent_flags import LATENT_MODES, LATENT_QUESTIONS, LatentFlags
from trilemma.cli.query_order import ask_causality, ask_complete, ask_receptive, ask_surprise
from trilemma.cli.query_quality import ask_curve, ask_guidance
from trilemma.cli.query_scores import ask_classify, ask_likelihood, ask_ood
from trilemma.cli.query_vectors import ask_density, refuse_image_questions
from trilemma.families import FAMILIES
from trilemma.families.diffusion import Denoising
from trilemma.parallel import join
from trilemma.run import Run
from trilemma.text import printable

ANY = Group("Questions", sort_key=1)
DENOISING = Group("Questions to diffusion and flow", sort_key=2)
LATENT = Group("Questions to latent spaces, and what only they read", sort_key=3)

app = App(
    name="query",
    group_arguments=Group("Arguments", sort_key=0),
    group_parameters=Group("Settings", sort_key=4),
    help_epilogue="""Examples:

```
trilemma query runs/pixelcnn
trilemma query runs/vae photos/ --samples 100 --json
trilemma query runs/pixelcnn fashion-mnist -n 500
trilemma query runs/pixelrnn --causality
trilemma query runs/pixelrnn --receptive 14,10 --out field.png
trilemma query runs/pixelcnn --complete --keep top --copies 6
trilemma query runs/pixelcnn photos/ --complete --keep mask.png --particles 64
trilemma query runs/pixelcnn --surprise -n 8
trilemma query runs/digits --classify -n 1000 --prior training
trilemma query runs/pixelcnn --ood fashion-mnist
trilemma query runs/vae --annealed -n 16 --temperatures 1000
trilemma query runs/vae --posterior -n 10000 --codes codes.npz
trilemma query runs/vae --interpolate -n 8 --points 11
trilemma query runs/vae --arithmetic 9-4+1
trilemma query runs/vae --downstream -n 2000
trilemma query runs/vae --disentangle shapes.npz
trilemma query runs/beta-1 --rates runs/beta-4,runs/beta-8
trilemma query runs/autoencoder --samplers
trilemma query runs/diffusion --complete --keep left --labels true --guidance 2 --repeats 20
trilemma query runs/diffusion photos/ --complete --keep none --level 0.5
trilemma query runs/emoji --complete --keep left --text "a red apple" --guidance 3
trilemma query runs/diffusion --forward
trilemma query runs/diffusion --reverse --sampler dpm-solver --steps 10 --out film.gif
trilemma query runs/diffusion --terms -n 16
trilemma query runs/diffusion --ode -n 32 --samples 4
trilemma query runs/diffusion --invert -n 6
trilemma query runs/diffusion --interpolate -n 8
trilemma query runs/gan --gradients
trilemma query runs/diffusion --curve -n 2000 --counts 1,2,5,10,20,50,100
trilemma query runs/digits --guidance-sweep -n 2000 --weights 0,1,2,4 --steps 20
trilemma query runs/ring --density
```
""",
    help_format="markdown",
)


def ask_interpolate(asked: Asked) -> Reply:
    """Between the codes of images, or between their noises, as the family has it."""
    noise = issubclass(FAMILIES[asked.config.family], Denoising)
    return ask_interpolate_noise(asked) if noise else ask_interpolate_codes(asked)


Ask = Annotated[bool, Parameter(group=ANY, negative=(), show_default=False)]
Denoised = Annotated[bool, Parameter(group=DENOISING, negative=(), show_default=False)]
MODES = {
    "likelihood": Mode(ask_likelihood, frozenset({"images", "n", "labels", "text", "samples"})),
    "causality": Mode(ask_causality, frozenset()),
    "receptive": Mode(ask_receptive, frozenset({"images", "n", "labels", "out"})),
    "complete": Mode(
        ask_complete, frozenset({"images", "n", "labels", "text", "keep", "copies", "particles", "out", "options"})
    ),
    "surprise": Mode(ask_surprise, frozenset({"images", "n", "labels", "out"})),
    "classify": Mode(ask_classify, frozenset({"images", "n", "samples", "prior", "out"})),
    "ood": Mode(ask_ood, frozenset({"images", "n", "samples", "out"})),
    "forward": Mode(ask_forward, frozenset({"images", "n", "out"})),
    "reverse": Mode(ask_reverse, frozenset({"n", "labels", "text", "out", "options"})),
    "terms": Mode(ask_terms, frozenset({"images", "n", "labels", "text", "out"})),
    "ode": Mode(ask_ode, frozenset({"images", "n", "labels", "text", "samples", "dequantize", "tolerance"})),
    "invert": Mode(ask_invert, frozenset({"images", "n", "labels", "text", "counts", "out", "options"})),
    "interpolate": Mode(ask_interpolate, frozenset({"images", "n", "labels", "text", "points", "out", "options"})),
    "curve": Mode(ask_curve, frozenset({"n", "counts", "features", "reference", "out", "options"})),
    "guidance-sweep": Mode(ask_guidance, frozenset({"n", "weights", "features", "reference", "out", "options"})),
    "density": Mode(ask_density, frozenset({"labels", "samples", "out"})),
    "gradients": Mode(ask_gradients, frozenset({"n", "out"})),
} | LATENT_MODES
QUESTIONS = tuple(name for name in MODES if name != "likelihood")


@app.default
def query(
    run: Path,
    images: str | None = None,
    /,
    *,
    causality: Ask = False,
    receptive: Annotated[str | bool, Parameter(group=ANY, negative=(), show_default=False)] = False,
    complete: Ask = False,
    surprise: Ask = False,
    classify: Ask = False,
    ood: Annotated[str | None, Parameter(group=ANY)] = None,
    forward: Denoised = False,
    reverse: Denoised = False,
    terms: Denoised = False,
    ode: Denoised = False,
    invert: Denoised = False,
    interpolate: Ask = False,
    curve: Denoised = False,
    guidance_sweep: Denoised = False,
    density: Ask = False,
    gradients: Ask = False,
    keep: str | None = None,
    copies: int | None = None,
    particles: int | None = None,
    prior: Literal["uniform", "training"] | None = None,
    n: Annotated[int | None, Parameter(name=["-n", "--n", "--number"])] = None,
    labels: str | None = None,
    text: list[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    dequantize: Literal["decoder", "uniform"] | None = None,
    tolerance: float | None = None,
    counts: str | None = None,
    weights: str | None = None,
    features: Literal["small", "inception"] | None = None,
    reference: int | None = None,
    device: Device = "auto",
    json: Json = False,
    latent: Annotated[LatentFlags | None, Parameter(name="*", group=LATENT)] = None,
    **options: str,
) -> None:
    """Ask a trained run one question: by default log p(x) of images, in nats and in bits per dimension.

    The answer says what it is: exact, a lower bound, an estimate, or undefined and why. Pictures go into the run
    folder, or to --out. A family that cannot answer says which can.

    Parameters
    ----------
    run
        a run folder
    images
        anything that train takes; by default held-out images of the run's own data
    causality
        prove by differentiation that no value depends on itself or on a later one (pixelcnn, pixelrnn)
    receptive
        draw which pixels a pixel depends on; --receptive ROW,COLUMN chooses it, by default the centre (pixelcnn,
        pixelrnn)
    complete
        keep a part of each image and draw the rest, several times (pixelcnn, pixelrnn, diffusion, flow)
    surprise
        draw where images are improbable: −log2 p of each pixel (pixelcnn, pixelrnn)
    classify
        Bayes' rule p(y|x) ∝ p(x|y) p(y) on labelled images: accuracy and calibration (any class-conditional run)
    ood
        compare the likelihood of the run's own held-out images with that of this other source
    forward
        draw the images dissolving into noise, and check that x_T is N(0, I) (diffusion, flow)
    reverse
        draw samples on their way, x_t and the estimate of x_0; --out film.gif or .apng for an animation (diffusion,
        flow)
    terms
        every term of the variational bound in bits/dim, drawn over t (diffusion, flow)
    ode
        log p(x) by the probability-flow equation, with the variational bound of the same images beside it (diffusion,
        flow)
    invert
        images to their noise and back, with the error for each number of steps (diffusion, flow)
    interpolate
        draw the way between pairs of images: of their codes, straight and spherical (autoencoder, vae, gan), or of
        their noises (diffusion, flow)
    curve
        speed against quality: every sampler at several numbers of steps, and the cheapest good one; --sampler for one
        sampler alone; a killed command goes on where it stopped, and what was measured before stays in the picture:
        --sampler ddim --eta 1, or --sampler ddpm --variance large, adds a line (diffusion, flow)
    guidance_sweep
        precision against recall, and the share of samples that are the class asked for, for each weight w of guidance
        u + w(c − u); goes on after a kill (class-conditional diffusion, flow)
    density
        draw log p over the plane of 2-D vectors (vae, diffusion, flow)
    gradients
        why non-saturating: how hard either loss pulls at the generator, drawn against D(G(z)) (gan); -n 8 batches
    keep
        with --complete: top (exact where there is an order; the default), left, grid4 (one pixel in every 4 x 4, to
        draw a finer picture), none, or a picture of the images' size that is white where they are kept
    copies
        with --complete: completions of each image; 4 by default
    particles
        with --complete: images drawn side by side for each completion that needs a particle filter; 16 by default
    prior
        with --classify: p(y) uniform (the default), or as often as in the training images
    n
        at most so many images; by default 100 for log p(x), 500 with --classify and --ood, 16 with --receptive, 6 or 8
        for the other pictures, and 2000 samples with --curve and --guidance-sweep
    labels
        ask for log p(x|y) and the like with these classes: 3, or 0,1,2, as in sample, or true (the images' own); by
        default p(x)
    text
        ask a run that reads captions for log p(x|caption) and the like with this caption, or with several in turn;
        --labels true means the images' own
    samples
        Monte-Carlo effort where log p(x) is not exact: importance samples, noise levels, or with --ode draws an image
    seed
        of all that is random, and of the choice of images
    out
        where the picture goes; by default into the run folder
    dequantize
        with --ode: decoder (the default), the discrete decoder of the bound; or uniform over the bin of a pixel
    tolerance
        with --ode: the solver's error, per unit of a value and per nat of its density; 0.0001 by default, to be
        raised where 1000 steps do not suffice
    counts
        with --curve and --invert: the numbers of steps, such as 1,10,100
    weights
        with --guidance-sweep: the weights; 0,0.5,1,1.5,2,3,5,8 by default
    features
        with --curve and --guidance-sweep: the feature network, small (the default) or inception
    reference
        with --curve and --guidance-sweep: training images that scores are against; 10000 by default, 0 for all
    options
        with questions that draw: a sampling option of the run's family, such as --steps (`trilemma sample --help` lists
        them); completion adds --repeats and --level (start from the image with so much of the noise)
    """
    refuse_unknown("query", app, options, ("--repeats", "--level"))
    given = latent or LatentFlags()
    early = (causality, receptive, complete, surprise, classify, ood)
    denoised = (forward, reverse, terms, ode, invert, interpolate, curve, guidance_sweep, density, gradients)
    asked_here = dict(zip(QUESTIONS, (*early, *denoised), strict=False))
    questions = asked_here | {name: vars(given)[name] for name in LATENT_QUESTIONS}
    chosen = [name for name, value in questions.items() if value not in (None, False)]
    if len(chosen) > 1:
        raise ValueError(f"ask one question at a time, not --{' and --'.join(chosen)}")
    name = chosen[0] if chosen else "likelihood"
    shared = Flags(images, n, labels, samples, keep, copies, particles, prior, out)
    measured = replace(
        shared,
        counts=counts,
        weights=weights,
        features=features,
        reference=reference,
        text=tuple(text) if text else None,
    )
    flags = replace(given.extend(measured), dequantize=dequantize, tolerance=tolerance, options=options or None)
    _refuse_strangers(name, flags)
    opened = Run.open(run)
    with join(device) as where, Bars() as bars:
        tell = (lambda done, total: bars.tell(opened.config.family, name, done, total)) if where.first else None
        value = questions.get(name)
        asked = Asked(opened, flags, value if isinstance(value, str) else None, seed, device, where.first, tell)
        refuse_image_questions(asked, name)
        reply = MODES[name].answer(asked)
    if not where.first:
        return
    if json:
        print_json({"run": str(opened.path), "family": opened.config.family, "question": name, **reply.record})
    else:
        print("\n".join(printable(line) for lines in reply.lines for line in lines.split("\n")))


def _refuse_strangers(name: str, flags: Flags) -> None:
    """A one-line ``ValueError`` for a flag that the question does not read."""
    for field, value in vars(flags).items():
        if value is not None and field not in MODES[name].reads:
            asked = "log p(x)" if name == "likelihood" else f"--{name}"
            able = [f"--{other}" for other in QUESTIONS if field in MODES[other].reads]
            flag = {"images": "IMAGES", "n": "-n"}.get(field, f"--{next(iter(value)) if field == 'options' else field}")
            raise ValueError(f"{flag} says nothing to {asked}: leave it out, or ask {' or '.join(able)}")
