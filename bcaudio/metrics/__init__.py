"""Metrics that keep counts: they are summed over ranks first and divided last."""

from bcaudio.metrics.accuracy import Accuracy, ChoiceAccuracy
from bcaudio.metrics.bleu import BLEU
from bcaudio.metrics.codebook import CodebookUsage
from bcaudio.metrics.error_rate import ErrorRate
from bcaudio.metrics.mel_distance import MelDistance

__all__ = ["BLEU", "Accuracy", "ChoiceAccuracy", "CodebookUsage", "ErrorRate", "MelDistance"]
