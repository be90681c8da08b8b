"""The user study: people judge which images are real, or which of two is better, not knowing where they are from."""
