"""Every number by name: what it means, when it lies, where it comes from. ``docs/metrics.md`` says the same at length.

Plain strings and nothing else, so that the command line, the report and the documentation cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One metric.

    Attributes:
        key: its name in JSON.
        head: what stands above its column.
        group: the set it is asked for with.
        meaning: what it says, in a sentence.
        misleads: when it says something else.
        source: the paper.
        default: whether it is measured unless something else is asked for.
    """

    key: str
    head: str
    group: str
    meaning: str
    misleads: str
    source: str
    default: bool = True


GLOSSARY = (
    Entry(
        "frechet",
        "Fréchet",
        "fidelity",
        "Distance between a Gaussian fitted to the features of the samples and one fitted to those of real images.",
        "It is biased upwards when N is small, so only equal N and equal features compare; it sees a mean and a "
        "covariance and nothing else.",
        "Heusel et al. 2017, arXiv:1706.08500",
    ),
    Entry(
        "frechet_infinity",
        "Fréchet ∞",
        "fidelity",
        "The same distance extrapolated to infinitely many samples, which takes away a bias that depends on the model.",
        "It is a straight line through noisy points: its error is larger than that of the distance itself.",
        "Chong & Forsyth 2020, arXiv:1911.07023",
    ),
    Entry(
        "kernel",
        "Kernel",
        "fidelity",
        "Kernel distance: how much more alike real images are among themselves than they are like the samples. "
        "Unbiased at any N.",
        "Small values are noisy and may be negative; it compares within one feature space only.",
        "Bińkowski et al. 2018, arXiv:1801.01401",
    ),
    Entry(
        "mutual_fidelity",
        "Fidelity",
        "fidelity",
        "Share of samples that are mutually near the data: they lie in the neighbourhood of a real image, and their "
        "own neighbourhood among the samples holds real images. As a multiple of what held-out images reach: 1 is as "
        "they are.",
        "Three images repeated again and again may score 1: look at coverage. It sees what its feature space sees; the "
        "page says where that cannot be trusted.",
        "mutual nearness, after Khayatkhoei & AbdAlmageed 2023, arXiv:2306.09618",
    ),
    Entry(
        "mutual_coverage",
        "Coverage",
        "fidelity",
        "Share of real images that have a faithful sample in their neighbourhood, as a multiple of what held-out "
        "images reach: 1 is as they are.",
        "A sample may stand for several real images, so that it saturates: above 0.9 look at recall too.",
        "mutual nearness, after Naeem et al. 2020, arXiv:2002.09797",
    ),
    Entry(
        "passed",
        "Passes",
        "fidelity",
        "Twice the error rate of a classifier that was trained to tell samples from real images: 1 if it can only "
        "guess, 0 if it is never wrong. It needs no feature space, and stands in where fidelity cannot be trusted.",
        "It is strict: any difference at all, such as a noisy background, lets it win.",
        "classifier two-sample test, Lopez-Paz & Oquab 2017, arXiv:1610.06545",
        default=False,
    ),
    Entry(
        "precision",
        "Precision",
        "fidelity",
        "Share of samples that lie among the real images: closer to one of them than that one's k-th real neighbour.",
        "Fooled by averages, blur and noise, which fall between real images, into the neighbourhoods of outliers: "
        "read fidelity. A model that repeats its few safest images scores high; above the floor is not better.",
        "Kynkäänniemi et al. 2019, arXiv:1904.06991",
    ),
    Entry(
        "recall",
        "Recall",
        "fidelity",
        "Share of real images that lie among the samples, by the same rule with the roles exchanged.",
        "A few outlying samples, noise for one, stretch the neighbourhoods and raise it.",
        "Kynkäänniemi et al. 2019, arXiv:1904.06991",
    ),
    Entry(
        "density",
        "Density",
        "fidelity",
        "How many real neighbourhoods hold a sample on average, divided by k; about 1 when both come from one law.",
        "It has no upper end: above 1 the samples crowd where real images are most typical, as averages and blur do.",
        "Naeem et al. 2020, arXiv:2002.09797",
    ),
    Entry(
        "coverage",
        "Ball coverage",
        "fidelity",
        "Share of real images that have at least one sample, faithful or not, in their neighbourhood.",
        "Noise falls into the neighbourhoods of outliers and covers them. Even a perfect sampler stays below 1, so "
        "compare it with the floor and not with 1.",
        "Naeem et al. 2020, arXiv:2002.09797",
    ),
    Entry(
        "fine_detail",
        "Fine detail",
        "fidelity",
        "Power of the samples in the finer half of the spatial frequencies, as a share of that of real images: 1 is as "
        "sharp as real, below 1 is blurred, above 1 has noise that real images have not.",
        "Blur and noise at different frequencies cancel in it, and a sharp image need not be a good one: look at the "
        "curve and at the samples.",
        "power spectra, after Durall et al. 2020, arXiv:2003.01826",
    ),
    Entry(
        "memorised",
        "Copied",
        "memorisation",
        "Share of samples nearer to a training image, in pixels or features, than equally smooth real images come; "
        "with a p-value.",
        "It counts near copies of whole images only: a model can reuse parts, turned or recoloured images unseen.",
        "held-out images as the null, after Meehan et al. 2020, arXiv:2004.05675",
    ),
    Entry(
        "authpct",
        "AuthPct",
        "memorisation",
        "Share of samples that are authentic: farther from their nearest training image than that one is from its own "
        "nearest training neighbour.",
        "Fresh real images do not reach 1 either, so only the distance to the floor says something.",
        "Alaa et al. 2022, arXiv:2102.08921",
    ),
    Entry(
        "c_t",
        "C_T",
        "memorisation",
        "Whether samples lie nearer to the training set than held-out images do, as a z-score: below −3 copying, above "
        "+3 underfitting.",
        "It asks about the whole sample: a tenth of copies among 2,000 good samples is seen, one per cent is not.",
        "Meehan, Chaudhuri & Dasgupta 2020, arXiv:2004.05675",
    ),
    Entry(
        "train_closer",
        "Train-closer",
        "memorisation",
        "Share of samples whose nearest real image is a training image rather than one of equally many held-out "
        "ones: 0.5 shows no memorising, 1 means copies.",
        "It counts near copies only; a model can reuse parts of training images unseen.",
        "the same idea by counts instead of distances",
    ),
    Entry(
        "nearest_training",
        "Nearest",
        "memorisation",
        "Median distance in pixels from a sample to the nearest training image; 0 is a copy.",
        "Plain or dark images are near to everything: read it beside the held-out images' own distance.",
        "root mean square over pixels, in grey levels",
    ),
    Entry(
        "accuracy",
        "Accuracy",
        "labelled",
        "Share of conditional samples in which a classifier trained on real images sees the class that was asked for.",
        "A classifier can be right about an ugly image; the most typical image of each class scores highest.",
        "a classifier of its own, trained on the training split",
        default=False,
    ),
    Entry(
        "modes",
        "Modes",
        "labelled",
        "Classes that occur among the samples, as that classifier sees them.",
        "One lucky sample covers a class; and a class can be covered by a single image of it.",
        "Che et al. 2017, arXiv:1612.02136; Lin et al. 2018, arXiv:1712.04086",
        default=False,
    ),
    Entry(
        "mode_kl",
        "Mode KL",
        "labelled",
        "How far the frequencies of the classes among the samples are from the real ones, in nats: KL(samples ‖ real).",
        "A perfect sampler is above 0 at any finite N; the note says how far.",
        "Lin et al. 2018, arXiv:1712.04086",
        default=False,
    ),
    Entry(
        "per_class",
        "Per class",
        "labelled",
        "Distance, precision and recall for each class alone: which class the model is worst at.",
        "There are few images to a class, so the distances are biased upwards more than the overall one.",
        "as for the whole",
        default=False,
    ),
    Entry(
        "cas",
        "CAS",
        "labelled",
        "Classification accuracy score: a classifier trained on samples alone, tested on real held-out images.",
        "It depends on how the classifier is trained; compare with the same classifier trained on as many real images.",
        "Ravuri & Vinyals 2019, arXiv:1905.10887",
        default=False,
    ),
    Entry(
        "stacked_modes",
        "Stacked modes",
        "labelled",
        "Of the 1,000 combinations of three digits in the colour channels of stacked MNIST, those that occur.",
        "It grows with N: the protocol of the papers is 26,000 samples. One sample covers a mode.",
        "Lin et al. 2018, arXiv:1712.04086",
        default=False,
    ),
    Entry(
        "stacked_kl",
        "Stacked KL",
        "labelled",
        "How far the frequencies of those 1,000 combinations are from uniform, in nats.",
        "A perfect sampler has 0.019 at 26,000 samples, and more at fewer; a blurry digit counts as it is read.",
        "Lin et al. 2018, arXiv:1712.04086",
        default=False,
    ),
    Entry(
        "text_accuracy",
        "Text",
        "captions",
        "Share of images that show both digits that their caption asked for, each on its side, as a digit classifier "
        "sees them (mnist-pairs); 1 % by chance.",
        "A classifier can be right about an ugly image, and guidance raises it at the cost of variety.",
        "a classifier of its own, trained on MNIST's training images",
    ),
    Entry(
        "text_seen",
        "Text, seen",
        "captions",
        "The same for pairs of digits that training images show.",
        "As above.",
        "as for the whole",
    ),
    Entry(
        "text_unseen",
        "Text, unseen",
        "captions",
        "The same for the ten pairs that no training image shows: whether the parts are put together anew.",
        "A tenth of the images only, so its error is three times as large.",
        "as for the whole",
    ),
    Entry(
        "mixture_modes",
        "Modes found",
        "mixture",
        "Modes of a mixture of Gaussians on which at least one sample falls, within three standard deviations.",
        "One lucky sample finds a mode: read the reverse KL beside it.",
        "Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, arXiv:1712.04086",
    ),
    Entry(
        "high_quality",
        "High quality",
        "mixture",
        "Share of samples within three standard deviations of a mode of the mixture.",
        "More than the 98.89 % of a perfect sampler in two dimensions means modes that have shrunk.",
        "Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, arXiv:1712.04086",
    ),
    Entry(
        "mixture_kl",
        "Mixture KL",
        "mixture",
        "How unevenly samples, each counted for its nearest mode, fall on the modes of the mixture, in nats: "
        "KL(samples ‖ uniform).",
        "It says nothing about how near to the modes samples are; a perfect sampler is above 0 at any finite N.",
        "Lin et al. 2018, arXiv:1712.04086",
    ),
    Entry(
        "density_kl",
        "KL to truth",
        "mixture",
        "KL(real ‖ model) of the densities in nats: how far the model's log p of held-out points is "
        "below that of the mixture they were drawn from.",
        "From a bound on log p it is a bound too: the true one is smaller. Of diffusion and flow it is that of the "
        "ancestral chain, not of the samples beside it.",
        "the mixture's own density",
    ),
    Entry(
        "ode_density_kl",
        "KL to truth, ODE",
        "mixture",
        "The same of the probability-flow equation, which is the law of the samples that diffusion and flow draw "
        "without noise.",
        "It holds for the equation solved exactly; a sampler of few steps is off by what its steps leave out.",
        "the mixture's own density; Song et al. 2021, arXiv:2011.13456",
    ),
    Entry(
        "bits_per_dim",
        "Bits/dim",
        "model",
        "Code length of held-out images under the model, in bits for each pixel value: \N{MINUS SIGN}log₂ p(x) / D.",
        "It says little about how samples look. A bound (≤) only limits the true value from above, so a larger bound "
        "does not prove a worse model. Of diffusion and flow it is that of the ancestral chain, not of samplers "
        "without noise.",
        "Theis et al. 2016, arXiv:1511.01844",
    ),
    Entry(
        "ode_bits_per_dim",
        "Bits/dim, ODE",
        "model",
        "Code length of held-out images under the probability-flow equation of diffusion and flow: the law that their "
        "samplers without noise follow.",
        "Of images it is a bound too, by way of a decoder; it holds for the equation solved exactly. Unless asked for "
        "by name it is of few images, and of small ones only.",
        "Song et al. 2021, arXiv:2011.13456",
    ),
    Entry(
        "images_per_second",
        "Images/s",
        "model",
        "Sampling speed: finished images for each second.",
        "It holds for this hardware, batch size and number of sampling steps, and for no other.",
        "wall-clock time of the sampler",
    ),
)

ENTRIES = {entry.key: entry for entry in GLOSSARY}
GROUPS = tuple(dict.fromkeys(entry.group for entry in GLOSSARY))
OFFICIAL = {"frechet": "fid", "frechet_infinity": "fid_infinity", "kernel": "kid"}
"""What distances are called where the features are those of the FID and the KID of the literature."""


def entry(name: str) -> Entry | None:
    """The entry of a metric by its name in JSON; `fid` has that of `frechet`."""
    return ENTRIES.get({official: key for key, official in OFFICIAL.items()}.get(name, name))


def place_of(name: str) -> int:
    """Where a metric stands among all of them."""
    found = entry(name)
    return list(ENTRIES).index(found.key) if found else len(ENTRIES)


def choose(text: str) -> set[str]:
    """Names and groups, separated by commas, to the metrics they stand for; ``ValueError`` for an unknown one."""
    chosen: set[str] = set()
    for name in filter(None, (part.strip().replace("-", "_") for part in text.split(","))):
        if name in ("default", "all"):
            chosen |= {e.key for e in GLOSSARY if e.default or (name == "all" and not e.key.startswith("stacked"))}
        elif name in GROUPS:
            chosen |= {e.key for e in GLOSSARY if e.group == name and not e.key.startswith("stacked")}
        elif found := entry(name):
            chosen.add(found.key)
        else:
            raise ValueError(
                f"there is no metric {name!r}: choose from default, all, {', '.join(GROUPS)}, "
                f"{', '.join([*OFFICIAL.values(), *ENTRIES])}"
            )
    if not chosen:
        raise ValueError("--metrics is empty: leave it out for the default ones")
    return chosen
