"""Many models on one page: trained for it under one budget, trained before, or known by their images alone."""

from trilemma.comparison.past import Past, is_comparison, rebuild, runs_in
from trilemma.comparison.rows import Row, as_run
from trilemma.comparison.sizes import compare_sizes
from trilemma.comparison.together import Real, Stopped, Tell, compare, fitting, standard_metrics

__all__ = [
    "Past",
    "Real",
    "Row",
    "Stopped",
    "Tell",
    "as_run",
    "compare",
    "compare_sizes",
    "fitting",
    "is_comparison",
    "rebuild",
    "runs_in",
    "standard_metrics",
]
