"""Run or images + held-out images → numbers, each with its protocol.

A score stands beside that of held-out real images, computed by the same function on as many images (its floor), and
beside those of distorted real images (its scale).
"""

from trilemma.data import subset
from trilemma.evaluation.difference import Difference, differences, judge
from trilemma.evaluation.ladder import draw as draw_ladder
from trilemma.evaluation.measure import evaluate, real_scores
from trilemma.evaluation.protocol import Protocol, protocol_of
from trilemma.evaluation.record import FORMAT, describe_data, describe_protocol
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.stream import Tell
from trilemma.number import Number

__all__ = [
    "FORMAT",
    "Difference",
    "Number",
    "Protocol",
    "Reference",
    "Tell",
    "describe_data",
    "describe_protocol",
    "differences",
    "draw_ladder",
    "evaluate",
    "judge",
    "protocol_of",
    "real_scores",
    "subset",
]
