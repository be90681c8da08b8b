"""One metric, or a few that are computed together, in one file; `trilemma.evaluation.metric` finds them."""
