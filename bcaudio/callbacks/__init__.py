"""Lightning callbacks: what is measured and watched while a stage trains."""

from bcaudio.callbacks.benchmarks import BenchmarkCallback
from bcaudio.callbacks.bleu import BleuCallback
from bcaudio.callbacks.codebook_health import CodebookHealth
from bcaudio.callbacks.error_rate import ErrorRateCallback
from bcaudio.callbacks.intelligence import IntelligenceAlarmError, IntelligenceWatch
from bcaudio.callbacks.nan_guard import NanGuard, NonFiniteLossError
from bcaudio.callbacks.preflight import Preflight
from bcaudio.callbacks.replica_check import DivergedRankError, ReplicaCheck
from bcaudio.callbacks.sample_ledger import SampleLedger, read_ledger
from bcaudio.callbacks.stage_progress import StageProgress
from bcaudio.callbacks.throughput import Throughput
from bcaudio.callbacks.watchdog import Watchdog

__all__ = [
    "BenchmarkCallback",
    "BleuCallback",
    "CodebookHealth",
    "DivergedRankError",
    "ErrorRateCallback",
    "IntelligenceAlarmError",
    "IntelligenceWatch",
    "NanGuard",
    "NonFiniteLossError",
    "Preflight",
    "ReplicaCheck",
    "SampleLedger",
    "StageProgress",
    "Throughput",
    "Watchdog",
    "read_ledger",
]
