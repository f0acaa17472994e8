"""Metrics: pure functions of frames and sound, one file each. `METRICS` lists them by name."""

from dualforce_model.metrics.base import JudgedClip, Metric
from dualforce_model.metrics.lips import LipCorrelation, lip_correlation, mouth_opening, speech_envelope

METRICS: dict[str, type[Metric]] = {
    "lip_correlation": LipCorrelation,
}

__all__ = [
    "METRICS",
    "JudgedClip",
    "LipCorrelation",
    "Metric",
    "lip_correlation",
    "mouth_opening",
    "speech_envelope",
]
