"""Metrics that keep counts: they are summed over ranks first and divided last."""

from bcaudio.metrics.accuracy import Accuracy, ChoiceAccuracy
from bcaudio.metrics.bleu import BLEU, ChrF
from bcaudio.metrics.codebook import CodebookUsage
from bcaudio.metrics.counting import CountingMetric
from bcaudio.metrics.error_rate import ErrorRate
from bcaudio.metrics.mean import Mean
from bcaudio.metrics.mel_distance import MelDistance
from bcaudio.metrics.perplexity import Perplexity

__all__ = [
    "BLEU",
    "Accuracy",
    "ChoiceAccuracy",
    "ChrF",
    "CodebookUsage",
    "CountingMetric",
    "ErrorRate",
    "Mean",
    "MelDistance",
    "Perplexity",
]
