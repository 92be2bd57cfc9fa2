"""Lightning callbacks: what is measured and watched while a stage trains."""

from bcaudio.callbacks.bleu import BleuCallback
from bcaudio.callbacks.codebook_health import CodebookHealth
from bcaudio.callbacks.error_rate import ErrorRateCallback
from bcaudio.callbacks.nan_guard import NanGuard, NonFiniteLossError
from bcaudio.callbacks.stage_progress import StageProgress

__all__ = ["BleuCallback", "CodebookHealth", "ErrorRateCallback", "NanGuard", "NonFiniteLossError", "StageProgress"]
