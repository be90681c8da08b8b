"""Votes → what they say of each source, in numbers with their intervals and in sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from trilemma.evaluation.difference import LEVEL, Difference, holm, two_sided
from trilemma.evaluation.standing import MARGIN, place
from trilemma.metrics.crossed import Interval
from trilemma.metrics.exposure import hype_time, threshold
from trilemma.metrics.preference import RaterEffects, bradley_terry, rater_effects
from trilemma.metrics.raters import contrasts, detection, error_rate, hype_infinity, krippendorff, votes_needed
from trilemma.number import Number
from trilemma.study.vote import REAL, Vote

FORMAT = 1
"""The version of ``results.json``."""

CHANCE = 0.5
"""The error rate of images that cannot be told from real ones."""

PASS = 0.75
"""A rater who is right in fewer of the planted easy trials is left out."""

ONE_KEY, LOOKED = 0.95, 20
"""A rater who calls so many of so many images fake is left out: half of them are real. The easy images are fakes, which
that answers right, and an error rate of 50 % would pass for images that cannot be told apart."""

WISHED = 0.05
"""Half width of an error rate that a study should reach."""

BEST = 0.276
LANDMARK = {
    "name": "StyleGAN on faces (FFHQ)",
    "value": BEST,
    "paper": "Zhou et al. 2019, HYPE∞, the best of that year",
}
"""A published error rate to read others beside."""

MIXED = "One staircase over several sources has no threshold of one of them: time each source in a study of its own."

Verdict = Literal["alike", "unclear", "told", "beyond", "unknown"]
VERDICTS: dict[Verdict, str] = {
    "alike": f"shown to be within {100 * MARGIN * CHANCE:g} points of real images",
    "unclear": "cannot be told apart from real images by these votes",
    "told": "told apart from real images",
    "beyond": "taken for real more often than real images are",
    "unknown": "of too few people to say what others see",
}


@dataclass(frozen=True)
class SourceRow:
    """What people said of one source.

    Attributes:
        source: its name.
        votes, raters, images: that its numbers rest on.
        error_rate: HYPE∞, the mean of ``fakes`` and ``reals``: 0.5 where it cannot be told from real images. Where
            people chose the real one of two, the share of pairs in which they chose the other.
        fakes: the share of its images that were taken for real.
        reals: the share of real images that were taken for fake.
        d_prime: how many standard deviations its images look different from real ones.
        bias: the criterion; above 0, raters rather said *real*.
        strength: log strength by Bradley & Terry among all that were compared in pairs, 0 on average.
        exposure: HYPE_time, the milliseconds that it takes to see through its images.
        needed: more votes for an error rate within ± `WISHED`; None where that is not known.
        verdict: where it stands beside real images.
    """

    source: str
    votes: int
    raters: int
    images: int
    error_rate: Interval | None = None
    fakes: Interval | None = None
    reals: Interval | None = None
    d_prime: Interval | None = None
    bias: Interval | None = None
    strength: Interval | None = None
    exposure: Interval | None = None
    needed: int | None = None
    verdict: Verdict = "unknown"


@dataclass(frozen=True)
class RaterRow:
    """One rater.

    Attributes:
        code: the anonymous code.
        votes: judgements given, without practice and checks.
        checks, passed: planted easy trials, and how many were answered right.
        errors: the share of judgements that were wrong, where there is a right one.
        counted: whether the votes count: they do not where the checks were failed, or nearly all was called fake.
        sharpness: how much more than others the rater sees in pairs; 0 is chance. None without enough votes.
        side: log odds of the left of two that are alike. None without enough votes.
    """

    code: str
    votes: int
    checks: int
    passed: int
    errors: float | None
    counted: bool
    sharpness: float | None = None
    side: float | None = None


@dataclass(frozen=True)
class Results:
    """A user study.

    Attributes:
        forms: of the judgements that count.
        votes: judgements that count.
        rows: the sources, the one with the largest error rate, or strength, first.
        raters: all, those who failed the checks among them.
        differences: every two sources, by the rule of `evaluation/difference.py`.
        agreement: Krippendorff's α.
        readings: what it says, in sentences.
        limited: whether every image was seen for a limited time.
    """

    forms: tuple[str, ...]
    votes: int
    rows: tuple[SourceRow, ...]
    raters: tuple[RaterRow, ...]
    differences: tuple[Difference, ...]
    agreement: Number
    readings: tuple[str, ...]
    limited: bool = False

    @property
    def published(self) -> bool:
        """Whether an error rate may be read beside published ones: of HYPE∞, images without a limit of time."""
        return not self.limited and any(row.fakes is not None for row in self.rows)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Codes of raters who failed the checks."""
        return tuple(rater.code for rater in self.raters if not rater.counted)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``results.json`` and the report hold them."""
        return {
            "format": FORMAT,
            "forms": list(self.forms),
            "votes": self.votes,
            "raters": len(self.raters) - len(self.left_out),
            "left_out": list(self.left_out),
            "rows": [_plain(row) for row in self.rows],
            "by_rater": [asdict(rater) for rater in self.raters],
            "differences": [asdict(difference) for difference in self.differences],
            "agreement": asdict(self.agreement.finite()),
            "readings": list(self.readings),
            "landmark": dict(LANDMARK) if self.published else {},
            "wished": WISHED,
        }


def results(votes: Sequence[Vote], *, staircase: bool = True, rounds: int = 400, seed: int = 0) -> Results:
    """What votes say.

    Args:
        votes: of all raters; practice is passed over.
        staircase: limited times are those of a staircase, which has a threshold; else they were one for all, and a
            screen that was late now and then is none.
        rounds, seed: of the bootstrap.

    Raises:
        ValueError: no judgement counts: there is none, or every rater failed the checks.
    """
    raters = _raters(votes)
    counted = {rater.code for rater in raters if rater.counted}
    main = [vote for vote in votes if vote.role == "main" and vote.rater in counted]
    if not main:
        why = (
            "every rater failed the planted easy trials, or said fake of everything"
            if raters and not counted
            else "nobody has judged an image yet"
        )
        raise ValueError(f"the study has no votes that count: {why}")
    single = [vote for vote in main if vote.form == "real-or-fake"]
    timed = [vote for vote in single if vote.exposure is not None]
    unlimited = [vote for vote in single if vote.exposure is None]
    free = unlimited or single
    pairs = [vote for vote in main if vote.form == "pairs"]
    names = list(dict.fromkeys(n for vote in main for n in (vote.source, vote.other) if n and n != REAL))
    exposures = _thresholds(timed) if staircase else {}
    strengths, gaps, effects = _preferences(pairs, names, rounds, seed)
    rows = [
        _row(name, free, pairs, strengths.get(name), exposures.get(name), rounds, seed) for name in names
    ]  # fmt: skip
    rows = _judged(rows)
    rows.sort(key=lambda row: (-_first(row.error_rate), -_first(row.strength), row.source))
    raters = [_with_effects(rater, effects) for rater in raters]
    differences = _differences(free, names, gaps, rounds, seed)
    agreement = _agreement(single or pairs, seed)
    found = Results(
        tuple(form for form, some in (("real-or-fake", single), ("pairs", pairs)) if some),
        len(main), tuple(rows), tuple(raters), tuple(differences), agreement, (),
        limited=bool(single) and not unlimited,
    )  # fmt: skip
    return replace(found, readings=tuple(_readings(found)))


# ---------------------------------------------------------------------------------------------------------- raters


def _raters(votes: Sequence[Vote]) -> list[RaterRow]:
    """One row a rater, by code; who never saw a check passes."""
    by_rater = defaultdict[str, list[Vote]](list)
    for vote in votes:
        if vote.role != "practice":
            by_rater[vote.rater].append(vote)
    found = []
    for code, own in sorted(by_rater.items()):
        checks = [vote.right for vote in own if vote.role == "check"]
        passed = sum(right is True for right in checks)
        judged = [vote.right for vote in own if vote.role == "main" and vote.right is not None]
        errors = sum(not right for right in judged) / len(judged) if judged else None
        count = sum(vote.role == "main" for vote in own)
        looked = passed >= PASS * len(checks) and not _one_key(own)
        found.append(RaterRow(code, count, len(checks), passed, errors, looked))
    return found


def _one_key(own: Sequence[Vote]) -> bool:
    fake = [vote.answer == "fake" for vote in own if vote.role == "main" and vote.form == "real-or-fake"]
    return len(fake) >= LOOKED and sum(fake) >= ONE_KEY * len(fake)


def _with_effects(rater: RaterRow, effects: tuple[dict[str, int], RaterEffects] | None) -> RaterRow:
    if effects is None or rater.code not in effects[0]:
        return rater
    at, found = effects[0][rater.code], effects[1]
    return replace(rater, sharpness=float(found.sharpness[at]), side=float(found.side[at]))


# --------------------------------------------------------------------------------------------------------- sources


def _row(
    name: str,
    free: Sequence[Vote],
    pairs: Sequence[Vote],
    strength: Interval | None,
    exposure: Interval | None,
    rounds: int,
    seed: int,
) -> SourceRow:
    """One source; its verdict is `_judged`'s."""
    own = [vote for vote in free if vote.source in (name, REAL)]
    fakes = sum(vote.source == name for vote in own)
    against = [vote for vote in pairs if {vote.source, vote.other} == {name, REAL}]
    seen = [vote for vote in own if vote.source == name] + [v for v in pairs if name in (v.source, v.other)]
    images = {vote.item if vote.source == name else vote.other_item for vote in seen}
    about = (name, len(seen), len({vote.rater for vote in seen}), len(images))
    if 0 < fakes < len(own):
        arrays = (
            [vote.answer == "fake" for vote in own], [vote.source != REAL for vote in own],
            _numbers([vote.rater for vote in own]), [vote.item for vote in own],
        )  # fmt: skip
        hype = hype_infinity(*arrays, rounds=rounds, seed=seed)
        seeing = detection(*arrays, rounds=rounds, seed=seed)
        rate, halves = hype.both, (hype.fakes, hype.reals, seeing.d_prime, seeing.criterion)
        return SourceRow(*about, rate, *halves, strength, exposure, votes_needed(rate, WISHED))
    if against:
        items = [(v.item, v.other_item) if v.source == name else (v.other_item, v.item) for v in against]
        rate = error_rate(
            [not vote.right for vote in against], _numbers([vote.rater for vote in against]),
            items, rounds=rounds, seed=seed,
        )  # fmt: skip
        return SourceRow(
            *about, rate, strength=strength, exposure=exposure, needed=votes_needed(rate, WISHED)
        )  # fmt: skip
    return SourceRow(*about, strength=strength, exposure=exposure)


def _judged(rows: Sequence[SourceRow]) -> list[SourceRow]:
    """With verdicts: alike within the margin of `standing.place`, else told apart by the rule of `difference`."""
    tested = {
        row.source: two_sided((row.error_rate.number.value or 0.0) - CHANCE, row.error_rate.widened or 0.0)
        for row in rows
        if row.error_rate is not None and row.error_rate.widened
    }
    p_values = dict(zip(tested, holm(list(tested.values())), strict=True))
    found = []
    for row in rows:
        verdict: Verdict = "unknown"
        if row.error_rate is not None and row.source in p_values:
            rate = row.error_rate.number
            score = Number(rate.value, row.error_rate.widened, better="higher", n=rate.n)
            alike = place(score, Number(CHANCE, 0.0)) == "alike"
            above = (rate.value or 0.0) > CHANCE
            real = p_values[row.source] < LEVEL
            verdict = "alike" if alike else ("beyond" if above else "told") if real else "unclear"
        found.append(replace(row, verdict=verdict))
    return found


def _preferences(
    pairs: Sequence[Vote], names: Sequence[str], rounds: int, seed: int
) -> tuple[dict[str, Interval], dict[tuple[str, str], Interval], tuple[dict[str, int], RaterEffects] | None]:
    """Strengths and their gaps by names, and the effects of raters, where they have enough votes."""
    pairs = [vote for vote in pairs if vote.source != vote.other]
    if not pairs:
        return {}, {}, None
    everyone = [*names, *([REAL] if any(REAL in (vote.source, vote.other) for vote in pairs) else [])]
    index = {name: i for i, name in enumerate(everyone)}
    codes = {code: i for i, code in enumerate(sorted({vote.rater for vote in pairs}))}
    who = [codes[vote.rater] for vote in pairs]
    sides = [((index[v.source], v.item), (index[v.other], v.other_item)) for v in pairs]
    chosen = [vote.answer == "left" for vote in pairs]
    ordered = [side if left else side[::-1] for side, left in zip(sides, chosen, strict=True)]
    fitted = bradley_terry(
        [won[0] for won, _ in ordered], [lost[0] for _, lost in ordered], who,
        [(won[1], lost[1]) for won, lost in ordered], len(everyone), rounds=rounds // 2, seed=seed,
    )  # fmt: skip
    effects = rater_effects([a[0] for a, _ in sides], [b[0] for _, b in sides], chosen, who, len(everyone), len(codes))
    strengths = dict(zip(everyone, fitted.strength, strict=True))
    gaps = {(everyone[a], everyone[b]): gap for (a, b), gap in fitted.gaps.items()}
    return strengths, gaps, (codes, effects) if effects is not None else None


def _thresholds(timed: Sequence[Vote]) -> dict[str, Interval]:
    """HYPE_time by source, where the exposure followed a staircase.

    A rater has one staircase, so that it speaks of one source: over several, an easy one pulls down the time of all.
    """
    by_rater = defaultdict[str, list[Vote]](list)
    for vote in timed:
        by_rater[vote.rater].append(vote)
    found = defaultdict[str, list[float]](list)
    mixed = set[str]()
    for own in by_rater.values():
        exposures = [vote.exposure for vote in own if vote.exposure is not None]
        sources = {vote.source for vote in own} - {REAL}
        if len(set(exposures)) > 1 and len(sources) == 1:
            found[sources.pop()].append(threshold(exposures))
        elif len(set(exposures)) > 1:
            mixed |= sources
    thresholds = {source: hype_time(each) for source, each in found.items()}
    return {source: Interval(Number(None, unit="ms", note=MIXED)) for source in sorted(mixed)} | thresholds


def _differences(
    free: Sequence[Vote], names: Sequence[str], gaps: dict[tuple[str, str], Interval], rounds: int, seed: int
) -> list[Difference]:
    """Every two sources: by the share taken for real, and by strength where they were compared in pairs."""
    index = {name: i for i, name in enumerate(names)}
    fakes = [vote for vote in free if vote.source != REAL]
    found: list[Difference] = []
    if fakes:
        by_rate = contrasts(
            [vote.answer == "real" for vote in fakes], [index[vote.source] for vote in fakes],
            _numbers([vote.rater for vote in fakes]), [vote.item for vote in fakes], rounds=rounds, seed=seed,
        )  # fmt: skip
        found += _told("taken for real", {(names[a], names[b]): gap for (a, b), gap in by_rate.items()})
    return found + _told("strength", {pair: gap for pair, gap in gaps.items() if REAL not in pair})


def _told(metric: str, gaps: dict[tuple[str, str], Interval]) -> list[Difference]:
    known = {pair: gap for pair, gap in gaps.items() if gap.widened}
    p_values = holm([two_sided(gap.number.value or 0.0, gap.widened or 0.0) for gap in known.values()])
    return [
        Difference(metric, a, b, gap.number.value or 0.0, gap.widened or 0.0, p, p < LEVEL, paired=True)
        for ((a, b), gap), p in zip(known.items(), p_values, strict=True)
    ]


def _agreement(votes: Sequence[Vote], seed: int) -> Number:
    """α of all answers; of pairs, of which of the two was chosen and not of its side. The first look counts."""
    raters = {code: i for i, code in enumerate(sorted({vote.rater for vote in votes}))}
    things = dict[tuple[tuple[str, int], ...], int]()
    answers = dict[tuple[int, int], int]()
    for vote in votes:
        sides = [(vote.source, vote.item)] + ([(vote.other, vote.other_item)] if vote.form == "pairs" else [])
        thing = things.setdefault(tuple(sorted(sides)), len(things))
        chosen = (
            vote.answer == "real" if vote.form == "real-or-fake" else (vote.answer == "left") == (sides[0] < sides[-1])
        )
        answers.setdefault((raters[vote.rater], thing), int(chosen))
    table = np.full((len(raters), len(things)), -1)
    for at, answer in answers.items():
        table[at] = answer
    return krippendorff(table, seed=seed)


# ----------------------------------------------------------------------------------------------------------- words


def _readings(found: Results) -> list[str]:
    """What the numbers say: the raters, each source, who cannot be told from whom, agreement, what is missing."""
    counted = [rater for rater in found.raters if rater.counted]
    said = [f"{found.votes:,} votes of {_many(len(counted), 'rater')}."]
    failed = [rater.code for rater in found.raters if rater.passed < PASS * rater.checks]
    for codes, why in (
        (failed, f"failed the planted easy trials (fewer than {100 * PASS:g} % right)"),
        ([code for code in found.left_out if code not in failed], "called nearly every image fake, real ones too,"),
    ):
        if codes:
            left = f"and {'is' if len(codes) == 1 else 'are'} left out: {', '.join(codes)}."
            said.append(f"{_many(len(codes), 'rater')} {why} {left}")
    if not any(rater.checks for rater in found.raters):
        said.append("There were no planted easy trials: raters who did not look could not be found.")
    if any(row.exposure is not None and row.exposure.number.note == MIXED for row in found.rows):
        said.append(MIXED)
    if found.limited:
        said.append("All images were seen for a limited time: the error rates are larger than those without a limit.")
    said += [_reading(row) for row in found.rows]
    for metric in dict.fromkeys(difference.metric for difference in found.differences):
        tested = [d for d in found.differences if d.metric == metric]
        draws = [f"{d.a} and {d.b}" for d in tested if not d.real]
        what = "By how often they are taken for real" if metric == "taken for real" else "By the votes on pairs"
        if draws and len(draws) == len(tested) > 1:
            said.append(f"{what}, no two sources can be told apart.")
        elif draws:
            said.append(f"{what}, {'; '.join(draws)} cannot be told apart by these votes.")
        else:
            said.append(f"{what}, all sources can be told apart.")
    alpha = found.agreement
    if alpha.value is not None:
        said.append(f"Raters agree by Krippendorff’s α = {alpha} (1: always, 0: as by chance).")
    if len(counted) == 1 and any(row.error_rate is not None for row in found.rows):
        said.append("One person has judged: intervals, and a verdict on each source, need a second rater or more.")
    if needed := max((row.needed or 0 for row in found.rows), default=0):
        said.append(
            f"For an error rate of every source within ± {100 * WISHED:g} points some {_rounded(needed)} more votes on "
            "the least known are needed, from further raters and on further images."
        )
    if found.published:
        said.append(f"To read it beside: {LANDMARK['name']}, {_percent(BEST)} ({LANDMARK['paper']}).")
    return said


def _reading(row: SourceRow) -> str:
    parts = []
    if row.error_rate is not None:
        rate = row.error_rate
        ends = f" ({_percent(rate.low)} to {_percent(rate.high)})" if rate.low is not None else ""
        parts.append(f"error rate {_percent(rate.number.value)}{ends}, {VERDICTS[row.verdict]}")
    if row.d_prime is not None and row.d_prime.number.value is not None:
        parts.append(f"d′ {row.d_prime.number}")
    if row.exposure is not None and row.exposure.number.value is not None:
        parts.append(f"seen through in {row.exposure.number.value:.0f} ms")
    if row.strength is not None and row.error_rate is None and row.strength.number.value is not None:
        parts.append(f"strength {row.strength.number} in pairs")
    return f"{row.source}: {'; '.join(parts) or 'no number'}."


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"


def _many(count: int, one: str) -> str:
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def _rounded(count: int) -> str:
    """Two digits: more are not known."""
    digits = max(0, len(str(count)) - 2)
    return f"{-(-count // 10**digits) * 10**digits:,}"


# ---------------------------------------------------------------------------------------------------- plain values


def _first(found: Interval | None) -> float:
    return found.number.value if found is not None and found.number.value is not None else -np.inf


def _numbers(codes: Sequence[str]) -> list[int]:
    index = {code: i for i, code in enumerate(dict.fromkeys(codes))}
    return [index[code] for code in codes]


def _fields(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def _plain(row: SourceRow) -> dict[str, Any]:
    """An interval becomes its number with the two ends."""
    found: dict[str, Any] = {}
    for name, value in _fields(row).items():
        if isinstance(value, Interval):
            value = asdict(value.number.finite()) | {"low": value.low, "high": value.high}
        found[name] = value
    return found | {"says": VERDICTS[row.verdict], "reading": _reading(row)}
