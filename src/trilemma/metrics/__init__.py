"""Metrics: pure functions of matrices, which know nothing of the families they judge."""

from trilemma.metrics.classifier import (
    Classifier,
    classification_accuracy_score,
    conditional_accuracy,
    train_classifier,
)
from trilemma.metrics.copying import Copies, Nearness, Pair, copies, nearness, verdict
from trilemma.metrics.distortions import Distortion, distortions
from trilemma.metrics.estimate import (
    Reach,
    bootstrap,
    jackknife,
    jackknife_error,
    left_out,
    mean_of,
    share_of,
)
from trilemma.metrics.features import FEATURES, CustomFeatures, Features
from trilemma.metrics.frechet import (
    frechet_bias,
    frechet_distance,
    frechet_estimate,
    frechet_flag,
    frechet_infinity,
)
from trilemma.metrics.kernel import clip_mmd, kernel_distance
from trilemma.metrics.likelihood import bits_per_dim, worse_than_uniform
from trilemma.metrics.manifold import Manifold, expected_coverage, manifold_scores
from trilemma.metrics.memorisation import authpct, c_t, train_closer
from trilemma.metrics.modes import Modes, mode_coverage, nearest_distance, stacked_labels
from trilemma.metrics.moments import Gaussian, Moments
from trilemma.metrics.mutual import Mutual, mutual_nearness
from trilemma.metrics.neighbours import closest, nearest
from trilemma.metrics.network import feature_network
from trilemma.metrics.two_sample import passed
from trilemma.metrics.whitened import Alike, Whitened

__all__ = [
    "FEATURES",
    "Alike",
    "Classifier",
    "Copies",
    "CustomFeatures",
    "Distortion",
    "Features",
    "Gaussian",
    "Manifold",
    "Modes",
    "Moments",
    "Mutual",
    "Nearness",
    "Pair",
    "Reach",
    "Whitened",
    "authpct",
    "bits_per_dim",
    "bootstrap",
    "c_t",
    "classification_accuracy_score",
    "clip_mmd",
    "closest",
    "conditional_accuracy",
    "copies",
    "distortions",
    "expected_coverage",
    "feature_network",
    "frechet_bias",
    "frechet_distance",
    "frechet_estimate",
    "frechet_flag",
    "frechet_infinity",
    "jackknife",
    "jackknife_error",
    "kernel_distance",
    "left_out",
    "manifold_scores",
    "mean_of",
    "mode_coverage",
    "mutual_nearness",
    "nearest",
    "nearest_distance",
    "nearness",
    "passed",
    "share_of",
    "stacked_labels",
    "train_classifier",
    "train_closer",
    "verdict",
    "worse_than_uniform",
]
