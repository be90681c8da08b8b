"""Run or images + held-out images → numbers, each with its protocol.

A score stands beside that of held-out real images, computed by the same function on as many images (its floor), and
beside those of distorted real images (its scale).
"""

from trilemma.data import subset
from trilemma.evaluation.difference import Difference, differences, judge
from trilemma.evaluation.ladder import draw as draw_ladder
from trilemma.evaluation.measure import evaluate, real_scores
from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.outside import Draw, Source, subject_of
from trilemma.evaluation.protocol import Protocol, protocol_of
from trilemma.evaluation.record import FORMAT, describe_data, describe_protocol
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.stream import Tell
from trilemma.evaluation.subject import Subject, check_alike
from trilemma.number import Number

__all__ = [
    "FORMAT",
    "Difference",
    "Draw",
    "Measured",
    "Metric",
    "Number",
    "Protocol",
    "Reference",
    "Source",
    "Subject",
    "Tell",
    "check_alike",
    "describe_data",
    "describe_protocol",
    "differences",
    "draw_ladder",
    "evaluate",
    "judge",
    "protocol_of",
    "real_scores",
    "subject_of",
    "subset",
]
