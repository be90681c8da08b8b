"""The questions that rest on log p(x) alone, of whatever family."""

from __future__ import annotations

from typing import Any

import torch

from trilemma.cli.query_asked import Asked, Reply, finite, true_labels, with_error
from trilemma.data import load
from trilemma.queries.classify import Classified, classify, draw_reliability
from trilemma.queries.likelihood import Answer, log_likelihood
from trilemma.queries.outliers import CAVEAT, draw_histograms, outliers

SIGNS = {"exact": "=", "bound": "≤", "estimate": "≈"}


def ask_likelihood(asked: Asked) -> Reply:
    dataset, indices = asked.images(100)
    answer = log_likelihood(
        asked.run,
        dataset.batch(indices),
        asked.classes(dataset, indices),
        samples=asked.flags.samples,
        seed=asked.seed,
        device=asked.device,
        progress=asked.progress,
    )
    record = {"images": dataset.name, "indices": indices.tolist(), **likelihood_record(answer)}
    if answer.nats is None or answer.mean is None:
        return Reply(record, [f"log p(x) is undefined: {answer.reason}"])
    (mean, error), sign = answer.mean, SIGNS[answer.kind]
    line = (
        f"{sign} {with_error(mean, error)} bits/dim, −log p(x) {sign} {-float(answer.nats.mean()):.2f} nats "
        f"({'density, ' if dataset.vector else ''}{answer.kind}: {answer.reason}; {len(indices)} "
        f"{'vectors' if dataset.vector else 'images'} of {dataset.name})"
    )
    return Reply(record, [line, *flagged(answer.flag)])


def flagged(flag: str | None) -> list[str]:
    """The line that distrusts a number, where there is one."""
    return [f"! {flag}"] if flag else []


def ask_classify(asked: Asked) -> Reply:
    config = asked.config
    if not config.spec.classes:
        raise ValueError("--classify needs p(x|y), and this run is unconditional: train one with --conditional")
    dataset, indices = asked.images(500)
    labels = true_labels(dataset, indices)
    if dataset.class_names != config.class_names:
        raise ValueError(
            f"the classes of {dataset.name} are not the run's: {', '.join(dataset.class_names[:5])} … "
            f"instead of {', '.join(config.class_names[:5])} …"
        )
    prior = None
    if asked.flags.prior == "training":
        own = load(config.data)
        prior = torch.bincount(true_labels(own, own.train), minlength=config.spec.classes)
    answer = classify(
        asked.run,
        dataset.batch(indices),
        labels,
        prior,
        samples=asked.flags.samples,
        seed=asked.seed,
        device=asked.device,
        progress=asked.progress,
    )
    path = asked.picture("reliability")
    if asked.first:
        draw_reliability(answer, path, asked.title(dataset.name))
    accuracy, nll = answer.accuracy, answer.negative_log_likelihood
    bins = [{"images": n, "confidence": sure, "accuracy": right} for n, sure, right in answer.reliability if n]
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "kind": answer.kind,
        "reason": answer.reason,
        "classes": list(config.class_names),
        "prior": answer.prior.tolist(),
        "accuracy": accuracy[0],
        "accuracy_standard_error": accuracy[1],
        "calibration_error": answer.calibration_error,
        "negative_log_likelihood": nll[0],
        "bins": bins,
        "confusion": answer.confusion.tolist(),
        "predicted": answer.predicted.tolist(),
        "picture": str(path),
    }
    lines = [
        f"accuracy {with_error(*accuracy)}, −log p(y|x) {with_error(*nll)} nats, "
        f"calibration error {answer.calibration_error:.4f} ({len(indices)} images of {dataset.name})",
        f"Bayes' rule, {answer.kind}: {answer.reason}; prior {asked.flags.prior or 'uniform'}",
        *confusion_table(answer, config.class_names),
        str(path),
    ]
    return Reply(record, lines)


def ask_ood(asked: Asked) -> Reply:
    dataset, indices = asked.images(500)
    other, others = asked.source(asked.value, 500)
    answer = outliers(
        asked.run,
        dataset.batch(indices),
        other.batch(others),
        samples=asked.flags.samples,
        seed=asked.seed,
        device=asked.device,
        progress=asked.progress,
    )
    path = asked.picture("outliers")
    if asked.first:
        draw_histograms(answer, (dataset.name, other.name), path, asked.title(f"{dataset.name} or {other.name}?"))
    area, typical = answer.likelihood, answer.typicality
    sides = {"own": (dataset, indices, answer.own), "other": (other, others, answer.other)}
    record: dict[str, Any] = {
        side: {"images": data.name, "indices": rows.tolist(), **likelihood_record(scored)}
        for side, (data, rows, scored) in sides.items()
    }
    record |= {
        "auroc": area[0],
        "auroc_standard_error": finite(area[1]),
        "typicality_auroc": finite(typical[0]),
        "typicality_auroc_standard_error": finite(typical[1]),
        "verdict": answer.verdict,
        "caveat": CAVEAT,
        "picture": str(path),
    }
    lines = [
        f"{data.name}: {SIGNS[scored.kind]} {with_error(mean, error)} bits/dim ({len(rows)} images)"
        for data, rows, scored in sides.values()
        for mean, error in [scored.mean or (float("nan"),) * 2]
    ]
    lines += flagged(answer.own.flag)
    lines += [
        f"AUROC of low likelihood as a sign of {other.name} {with_error(*area)} ({answer.kind})",
        f"AUROC of atypical likelihood, too high or too low {with_error(*typical)}",
        answer.verdict,
        str(path),
    ]
    return Reply(record, lines)


def likelihood_record(answer: Answer) -> dict[str, Any]:
    mean = answer.mean
    return {
        "kind": answer.kind,
        "reason": answer.reason,
        "dims": answer.dims,
        "nats": None if answer.nats is None else answer.nats.tolist(),
        "bits_per_dim": None if answer.bits is None else answer.bits.tolist(),
        "mean_bits_per_dim": None if mean is None else mean[0],
        "standard_error": None if mean is None else finite(mean[1]),
        "flag": answer.flag,
    }


def confusion_table(answer: Classified, names: tuple[str, ...]) -> list[str]:
    """Lines of a table, a row for each true class, where there are few enough to read."""
    if len(names) > 12:
        return []
    wide = max(5, *(len(name) for name in names))
    shown = [name[:wide].rjust(wide) for name in names]
    head = f"{'is ↓ called →':>{max(wide, 13)}} {' '.join(shown)}"
    rows = [
        f"{name:>{max(wide, 13)}} {' '.join(str(count).rjust(wide) for count in row)}"
        for name, row in zip(names, answer.confusion.tolist(), strict=True)
    ]
    return [head, *rows]
