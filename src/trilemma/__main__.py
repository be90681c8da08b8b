"""``python -m trilemma``: what torchrun starts."""

from trilemma.cli import main

main()
