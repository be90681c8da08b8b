"""The verdict on memorisation: are some of the samples copies of training images?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.metrics.neighbours import closest

NEIGHBOURS = 50  # training images that "near" is judged by
TAIL = 0.05  # share of all images that the scan looks at
LEVEL = 0.01  # p-value below which the text speaks of copies


@dataclass(frozen=True)
class Pair:
    """A sample and the training image nearest to it.

    Attributes:
        sample, train: their rows.
        distance: Euclidean, in the space of the features.
        ratio: distance over the mean distance to the next `NEIGHBOURS` training images; 0 for an exact copy.
    """

    sample: int
    train: int
    distance: float
    ratio: float


@dataclass(frozen=True)
class Copies:
    """Whether samples lie so near to single training images as held-out images do not.

    Attributes:
        share: estimated share of samples that are copies: the excess of samples over held-out images in the tail
            that gives the verdict, or where that is more below the most suspicious twentieth of held-out images.
        p_value: probability of as much evidence or more, if the samples had the law of the held-out images.
        exact: samples at distance 0 from a training image.
        exact_held_out: held-out images at distance 0 from one: duplicates in the data.
        pairs: samples with their nearest training images, the most suspicious (lowest ratio) first.
        text: the verdict in words.
    """

    share: float
    p_value: float
    exact: int
    exact_held_out: int
    pairs: tuple[Pair, ...]
    text: str

    @property
    def found(self) -> bool:
        """Whether the evidence for copies is strong (p below `LEVEL`)."""
        return self.p_value < LEVEL


def copies(samples: Tensor, train: Tensor, held_out: Tensor, *, pairs: int = 16) -> Copies:
    """Look for copies of training images among samples, with held-out images as the null.

    Each image is scored by its distance to the nearest training image over its mean distance to the next 50 (in the
    spirit of Carlini et al. 2023, arXiv:2301.13188, section 4.2): a copy is far nearer to one training image than to
    its surroundings, whereas a blurred or otherwise easy image is near to many. All images, samples and held-out, are
    ordered by that score; of those with the same nearest training image only the first counts. If samples and
    held-out images had one law, any order of the two kinds would be equally likely. The test scans the lowest 5 % of
    the order for the point where samples are most over-represented, and the p-value is exact for that scan.

    Why a scan of the tail: 1 % of copies moves no mean and no rank sum noticeably, but fills the very first places.
    Ten copies in 1,000 samples against 1,000 held-out images come first ten times of ten, which chance does once in
    2^10, before the scan is paid for; more held-out images make it smaller. Duplicates among the real images put
    held-out images into the first places as well, and only what exceeds them counts.

    A limit: samples of quite another law, such as one mode of many, may have a longer tail than held-out images
    without any copy. Look at the pairs.

    Args:
        samples, train, held_out: features, or flattened pixels, ``[N, d]``, ``[n, d]``, ``[m, d]``.
        pairs: how many pairs to return.

    Raises:
        ValueError: as `closest`, or fewer than 3 training images.
    """
    return verdict(nearness(samples, train), nearness(held_out, train), pairs=pairs)


@dataclass(frozen=True)
class Nearness:
    """How near each of N images comes to a training set.

    Attributes:
        distance: float64 ``[N]``, to the nearest training image.
        index: int64 ``[N]``, its row.
        ratio: float64 ``[N]``, that distance over the mean distance to the next `NEIGHBOURS` training images.
    """

    distance: Tensor
    index: Tensor
    ratio: Tensor


def nearness(x: Tensor, train: Tensor, *, index: bool = False) -> Nearness:
    """`Nearness` of images ``[N, d]`` to training images ``[n, d]``; held-out images need it once for many models.

    Raises:
        ValueError: as `closest`, or fewer than 3 training images.
    """
    if len(train) < 3:
        raise ValueError(f"{len(train)} training images are too few to say what is near")
    distances, indices = closest(x, train, min(NEIGHBOURS + 1, len(train)), index=index)
    first, rest = distances[:, 0], distances[:, 1:].mean(1)
    return Nearness(first, indices[:, 0], torch.where(rest > 0, first / rest.clamp_min(1e-300), 0.0))


def verdict(
    samples: Nearness,
    held_out: Nearness,
    *,
    pairs: int = 16,
    plain: tuple[Nearness, Nearness] | None = None,
    distinct: bool = True,
) -> Copies:
    """What `copies` says, from the nearness of samples and of held-out images to the same training images.

    Args:
        plain: where the nearness is another than by distance, that by distance, in which 0 is an exact copy.
        distinct: whether the held-out images are of different ones, and none is the same blurred.
    """
    p_value, place = scan(*_one_for_each_training_image(samples, held_out))
    if distinct and 4 * len(torch.unique(torch.cat([samples.index, held_out.index]))) < len(samples.ratio) + len(
        held_out.ratio
    ):
        # Of few training images those that samples copy hide the held-out ones, so that the scan may see none of these.
        p_value = min(1.0, 2 * min(p_value, _nearer(samples, held_out)))
    share = _share(samples.ratio, held_out.ratio, place)
    by_distance = plain or (samples, held_out)
    exact, exact_held_out = (int((near.distance == 0).sum()) for near in by_distance)
    order = samples.ratio.sort(stable=True).indices[:pairs].tolist()
    found = tuple(Pair(i, int(samples.index[i]), samples.distance[i].item(), samples.ratio[i].item()) for i in order)
    text = _in_words(p_value, share, exact, len(samples.ratio), exact_held_out, len(by_distance[1].distance))
    return Copies(share, p_value, exact, exact_held_out, found, text)


def _share(a: Tensor, b: Tensor, place: float) -> float:
    """The share of copies among a: its excess over b up to ``place``, or that below the lowest `TAIL` of b's.

    The first ends where the scan does, which looks at the lowest `TAIL` of all: of a model that copies always it sees a
    tenth. The second sees all of them; two standard errors are taken off, so that it speaks for large shares only.
    """
    tail = (a <= place).double().mean().item() - (b <= place).double().mean().item()
    limit = b.sort().values[int(TAIL * len(b))] if len(b) else torch.tensor(-math.inf)
    own, chance = (a < limit).double().mean().item(), (b < limit).double().mean().item()
    spread = math.sqrt(TAIL * (1 - TAIL) * (1 / max(len(a), 1) + 1 / max(len(b), 1)))
    return max(0.0, tail, (own - chance) / (1 - chance) - 2 * spread)


def _nearer(a: Nearness, b: Nearness) -> float:
    """P(for as many training images or more an a is nearest and no b), if a and b have one law.

    Of n a's and m b's with one nearest training image each is as likely to be the lowest, so that the number of images
    that a's win is a sum of independent coins of n/(n + m). Ties are b's. Those that repeat each other win less often,
    which is safe of a's only.
    """
    rows = torch.unique(torch.cat([a.index, b.index]))
    place = {int(row): i for i, row in enumerate(rows)}
    count, lowest = torch.zeros(2, len(rows)), torch.full((2, len(rows)), math.inf, dtype=torch.float64)
    for side, near in enumerate((a, b)):
        at = torch.tensor([place[int(i)] for i in near.index], dtype=torch.int64)
        count[side] = torch.bincount(at, minlength=len(rows)).float()
        lowest[side].scatter_reduce_(0, at, near.ratio.double(), "amin")
    both = (count > 0).all(0)
    won = int((lowest[0] < lowest[1])[both].sum())
    law = torch.ones(1, dtype=torch.float64)  # law[k]: k of the images so far are won
    for chance in (count[0] / count.sum(0))[both].double().tolist():
        law = torch.cat([law * (1 - chance), law.new_zeros(1)]) + torch.cat([law.new_zeros(1), law * chance])
    return min(1.0, float(law[won:].sum()))


def _one_for_each_training_image(a: Nearness, b: Nearness) -> tuple[Tensor, Tensor]:
    """Ratios of a's and of b's, of those with the same nearest training image only the lowest.

    Samples of a collapsed model repeat each other, and so are no independent evidence. Which of a group is kept does
    not depend on its kind (in a tie it is the held-out one), so those that are kept are in as random an order.
    """
    ratio, index = torch.cat([b.ratio, a.ratio]), torch.cat([b.index, a.index])
    order = ratio.sort(stable=True).indices
    by_index = index[order].sort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = by_index.values[1:] != by_index.values[:-1]
    kept = order[by_index.indices[first]]
    is_b = kept < len(b.ratio)
    return ratio[kept[~is_b]], ratio[kept[is_b]]


def scan(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Exact p-value of the most extreme over-representation of ``a`` among the lowest values, and where it ends.

    At each place s of the pooled order (only where no tie is cut) the number of a's among the lowest s has a
    hypergeometric law under the null. The statistic is the smallest of those tail probabilities; its own law follows
    from the chance that a random order ever crosses the same boundary, by recursion over places.
    """
    n, m = len(a), len(b)
    if not n or not m:
        return 1.0, -math.inf
    values, order = torch.cat([a, b]).sort()
    is_a = order < n
    last = min(max(math.ceil(TAIL * (n + m)), 20), 1000, n + m)
    counts = is_a.cumsum(0)[:last].tolist()
    ends = [s for s in range(1, last + 1) if s == n + m or values[s - 1] < values[s]]
    if not ends:  # more ties at the lowest value than places: one look, at the end of the tie
        end = int((values == values[0]).sum())
        above = _upper_tail(n, m, end)[int(is_a[:end].sum())].item()
        return above, values[0].item()
    tails = {s: _upper_tail(n, m, s) for s in ends}
    best = min(ends, key=lambda s: tails[s][counts[s - 1]].item())
    smallest = tails[best][counts[best - 1]].item()
    return _crossing(tails, smallest, n, m), values[best - 1].item()


def _upper_tail(n: int, m: int, s: int) -> Tensor:
    """P(at least k of n a's among s places of n + m), for k = 0 … s, float64 ``[s + 1]``."""
    k = torch.arange(s + 1, dtype=torch.float64)
    possible = (k <= n) & (s - k <= m)

    def log_choose(total: float, chosen: Tensor) -> Tensor:
        return math.lgamma(total + 1) - torch.lgamma(chosen + 1) - torch.lgamma((total - chosen).clamp_min(0) + 1)

    log_all = math.lgamma(n + m + 1) - math.lgamma(s + 1) - math.lgamma(n + m - s + 1)
    mass = torch.where(possible, (log_choose(n, k) + log_choose(m, s - k) - log_all).exp(), 0.0)
    return mass.flip(0).cumsum(0).flip(0).clamp_max(1.0)


def _crossing(tails: dict[int, Tensor], level: float, n: int, m: int) -> float:
    """P(at some place s the number k of a's has ``tails[s][k] ≤ level``) in a random order."""
    last = max(tails)
    alive = torch.zeros(last + 1, dtype=torch.float64)  # alive[k]: k a's so far, and never crossed
    alive[0] = 1.0
    k = torch.arange(last + 1, dtype=torch.float64)
    crossed = 0.0
    for s in range(1, last + 1):
        left = n + m - s + 1
        up = ((n - k) / left).clamp(0, 1)
        stays = alive * (1 - up)
        stays[1:] += (alive * up)[:-1]
        alive = stays
        if s in tails:
            out = torch.zeros_like(alive, dtype=torch.bool)
            out[: s + 1] = tails[s] <= level * (1 + 1e-9)
            crossed += alive[out].sum().item()
            alive = torch.where(out, 0.0, alive)
    return min(max(crossed, level), 1.0)


def _in_words(p: float, share: float, exact: int, n: int, exact_held_out: int, m: int) -> str:
    chance = f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
    if p < LEVEL:
        some = f"about {100 * share:.{3 if share >= 0.995 else 2}g} %" if share >= 0.001 else "a few"
        said = f"copies found: {some} of the samples lie nearer to one training image than chance allows"
    elif p < 0.05:
        said = "weak evidence of copies: look at the closest pairs, and draw more samples"
    else:
        said = "no evidence of copies beyond the nearness of held-out images"
    duplicates = f"; {exact} of {n} samples are exact copies, as are {exact_held_out} of {m} held-out images"
    return f"{said} ({chance}{duplicates if exact or exact_held_out else ''})"
