"""The verdict in words: one sentence for all families, one for each, and what to distrust."""

from __future__ import annotations

import math
import statistics
from html import escape
from typing import Any

from trilemma import number
from trilemma.evaluation.standing import HIGH, NEAR, breakers, leaders
from trilemma.number import Number
from trilemma.report.scores import axes_of, column, read
from trilemma.report.verdicts import told_apart

UNLEARNT = 0.15
"""A fidelity surely below this share of held-out images' means that the data were not learnt."""

AS_GOOD = 0.9
"""A share surely above this counts as held-out images' own: the stated margin of equivalence."""
ENOUGH = 1000
"""Samples from which on fidelity and coverage are told of in praise: both are kinder to fewer (docs/metrics.md)."""


CORNERS = {"mutual_fidelity": "Most faithful", "mutual_coverage": "Broadest", "images_per_second": "Fastest"}
"""The corners of the triangle, and what is said of whoever leads on each."""


def sentence(family: dict[str, Any]) -> str:
    """What one family reached, after its name."""
    fidelity, coverage = (_score(family, key) for key in ("mutual_fidelity", "mutual_coverage"))
    speed = _score(family, "images_per_second")
    parts = []
    if not fidelity.defined or fidelity.value is None:
        parts.append(f"has no fidelity: {fidelity.reason.rstrip('.')}")
    elif _unlearnt(fidelity):
        what = "is far from the data" if family.get("family") == "" else "has not learnt these images"
        parts.append(f"{what}: {_share(fidelity)} of the fidelity of held-out ones")
    else:
        parts.append(f"is {_worth(fidelity, 'as faithful as held-out images')}")
        if coverage.defined and coverage.value is not None:
            parts.append(f"reaches {_worth(coverage, 'as much of the data')}")
    if speed.defined and speed.value is not None:
        parts.append(f"{number.text(speed.value, digits=2)} images/s")
    copied = _score(family, "memorised")
    if copied.flag and copied.value:
        parts.append(f"{100 * copied.value:.2g} % copies of training images")
    if _falling(family):
        parts.append("its loss was still falling")
    return ", ".join(parts)


def overall(report: dict[str, Any]) -> str:
    """What all of them together say."""
    return " ".join(filter(None, verdict(report)))


def verdict(report: dict[str, Any]) -> tuple[str, str]:
    """The one sentence on all of them, and what follows it: who leads, and whether any breaks the triangle."""
    families, budget = report["families"], report["protocol"].get("budget")
    after = f"After {spoken(budget)} " if budget else ""
    scored = [f for f in families if _score(f, "mutual_fidelity").value is not None]
    learnt = [f for f in scored if not _unlearnt(_score(f, "mutual_fidelity"))]
    if not scored:
        return "", ""
    if not learnt:
        said = f"{after}none of {'the families' if after else 'these'} has learnt these images: train longer."
        return _begun(said), ""
    both = [f for f in learnt if all(_as_good(_score(f, key)) for key in ("mutual_fidelity", "mutual_coverage"))]
    if both:
        named = _listed([f["title"] for f in both])
        said = f"{after}the samples of {named} are as faithful as held-out images and reach as much of the data."
        if (n := report["protocol"].get("n") or ENOUGH) < ENOUGH:
            said = f"{after}{named} cannot be told from held-out images by {n:,} samples"
            return _begun(f"{said}, which is few: these scores are kind to few, so measure {ENOUGH:,}."), ""
        return _begun(said), triangle(report)
    none = "no family" if after else "none of these"
    said = f"{after}{none} is shown to be as faithful and as broad as held-out images."
    return _begun(said), f"{_leaders(report)} {triangle(report)}".rstrip()


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]


def triangle(report: dict[str, Any]) -> str:
    """Who breaks the triangle, by the rule of `standing.breakers`, or that none does; empty with fewer than three."""
    corners = [[_score(family, key) for family in report["families"]] for key in CORNERS]
    if (report["protocol"].get("n") or ENOUGH) < ENOUGH:
        return ""
    if len(report["families"]) < 3 or not all(any(score.defined for score in scores) for scores in corners):
        return ""
    quality, coverage, _ = CORNERS
    found = breakers(corners, [told_apart(report, column(key)) for key in (quality, coverage)])
    if not found:
        return "No family breaks the triangle."
    named = _listed([report["families"][i]["title"] for i in sorted(found)])
    return (
        f"{named} {'breaks' if len(found) == 1 else 'break'} the triangle: surely above {100 * HIGH:.0f} % of held-out "
        f"images in fidelity and coverage, with no family shown to be better at either, and surely above "
        f"{100 * NEAR:.0f} % of the speed of the fastest."
    )


def _leaders(report: dict[str, Any]) -> str:
    """Who leads on each corner, by the one rule of `standing.leaders`: a draw is called a draw."""
    said = []
    for key, word in CORNERS.items():
        scores = [_score(family, key) for family in report["families"]]
        best = leaders(scores, told_apart(report, column(key)), read(report.get("floor") or {}, key))
        titles = [report["families"][i]["title"] for i in sorted(best)]
        said.append(f"{word}: {_listed(titles) if titles else 'none can be told from the others'}.")
    return " ".join(said)


def undertrained(report: dict[str, Any]) -> str:
    """A banner naming the families whose samples do not look like the data yet."""
    trained = [f for f in report["families"] if f.get("family") != ""]  # and not images of unknown origin
    names = [f["title"] for f in trained if _unlearnt(_score(f, "mutual_fidelity"))]
    if not names:
        return ""
    falling = [f["title"] for f in report["families"] if f["title"] in names and _falling(f)]
    more = f" The loss of {_listed(falling)} was still falling." if falling else ""
    who = _listed(names) if len(names) < len(report["families"]) else "all of them"
    longer = " A longer <code>--budget</code> continues from here." if report["protocol"].get("budget") else ""
    return (
        f'<aside class="alarm"><b>Undertrained: {escape(who)}.</b> Fidelity below {UNLEARNT:g} of what held-out '
        f"images reach: the other numbers compare noise.{escape(more)}{longer}</aside>"
    )


def coming(report: dict[str, Any]) -> str:
    """What will still be added to the page."""
    names = report.get("coming") or []
    if not names:
        return ""
    return (
        f'<aside class="alarm"><b>Still learning: {escape(_listed(names))}.</b> This is what has been measured so far; '
        "the page loads itself anew until all are here.</aside>"
    )


def distrust(report: dict[str, Any]) -> str:
    """A banner where ruined real images did not score as ruined."""
    reasons = (report.get("scale") or {}).get("distrust") or []
    if not reasons:
        return ""
    listed = "".join(f"<p>{escape(reason)}</p>" for reason in reasons)
    passes = "passed" in axes_of(report)
    instead = ": quality is how often a classifier takes samples for real images instead" if passes else ""
    return (
        '<aside class="alarm"><b>This scale cannot be trusted here.</b> Real images were made worse on purpose, and '
        f"their scores did not follow{instead}.<details><summary>Which scores</summary>{listed}<p>--features "
        "inception may see what these features do not.</p></details></aside>"
    )


def spoken(budget: Any) -> str:
    """``75s`` as ``75 seconds``; anything else as it stands."""
    text = str(budget).strip()
    unit = {"s": "second", "m": "minute", "h": "hour"}.get(text[-1:])
    try:
        count = float(text[:-1])
    except ValueError:
        return text
    return f"{count:g} {unit}{'' if count == 1 else 's'}" if unit else text


def _score(family: dict[str, Any], key: str) -> Number:
    return read(family["metrics"], key)


def _unlearnt(score: Number) -> bool:
    return score.defined and score.value is not None and score.value + 2 * (score.error or 0.0) < UNLEARNT


def _as_good(score: Number) -> bool:
    return (
        score.defined
        and not score.flag
        and score.value is not None
        and score.value - 2 * (score.error or 0.0) > AS_GOOD
    )


def _worth(score: Number, words: str) -> str:
    return words if _as_good(score) else f"{_share(score)} {words}"


def _share(score: Number) -> str:
    value = 100 * (score.value or 0.0)
    return f"{value:.0f} %" if value >= 1 or value == 0 else "less than 1 %"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _falling(family: dict[str, Any]) -> bool:
    """Whether the mean loss of the last tenth of training is below that of the tenth before by twice its error.

    Only the loss of a family that minimises one: the two of a game rise and fall with each other.
    """
    curve = [value for _, value in family["training"]["curves"].get("loss", ()) if value is not None]
    tenth = len(curve) // 10
    if tenth < 5:
        return False
    before, last = curve[-2 * tenth : -tenth], curve[-tenth:]
    error = math.hypot(statistics.stdev(before), statistics.stdev(last)) / math.sqrt(tenth)
    return statistics.fmean(before) - statistics.fmean(last) > 2 * error
