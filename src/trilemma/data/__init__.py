"""Images from anywhere in one form, with one fixed split.

data = load("mnist", binarize="dynamic")
x = data.batch(data.train[:64])  # uint8 [64, 1, 28, 28]
"""

from trilemma.data.config import DataConfig
from trilemma.data.dataset import Dataset, describe, subset
from trilemma.data.embedded import NAMES
from trilemma.data.source import load

__all__ = ["NAMES", "DataConfig", "Dataset", "describe", "load", "subset"]
