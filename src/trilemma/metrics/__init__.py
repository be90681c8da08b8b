"""Metrics: pure functions of matrices, which know nothing of the families they judge."""

from trilemma.metrics.features import Features, feature_network
from trilemma.metrics.frechet import Gaussian, frechet_bias, frechet_distance, frechet_flag
from trilemma.metrics.likelihood import bits_per_dim
from trilemma.metrics.manifold import Manifold, expected_coverage, manifold_scores
from trilemma.metrics.neighbours import nearest, train_closer

__all__ = [
    "Features",
    "Gaussian",
    "Manifold",
    "bits_per_dim",
    "expected_coverage",
    "feature_network",
    "frechet_bias",
    "frechet_distance",
    "frechet_flag",
    "manifold_scores",
    "nearest",
    "train_closer",
]
