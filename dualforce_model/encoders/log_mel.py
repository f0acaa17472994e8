"""Audio tokens without weights: log-mel bands at 50 Hz plus loudness and envelope.

Legend: T frames, J = 2T tokens, a entries per token.

Token j stands for samples 320j .. 320j+319. Its window ends at the end of that stretch plus the declared look-ahead, so
with look-ahead 0 no token knows anything that has not been heard yet.
"""

from functools import lru_cache
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Float32
from pydantic import Field, model_validator

from dualforce_model import clock
from dualforce_model.config import Frozen
from dualforce_model.encoders.base import Modality, WeightFree

HOP = clock.SAMPLE_RATE_HZ // clock.AUDIO_HZ  # 320
# Measured on real speech (eleven recordings, -17 to -39 dBFS): usual level of the lowest and of the highest band, of
# the loudness, and the spread of all of them. They put speech near zero mean and unit spread.
LOW_BAND_DB, HIGH_BAND_DB, LOUDNESS_DB, SPREAD_DB = -44.0, -80.0, -30.0, 15.0
ENVELOPE_SPREAD = 0.1  # RMS of the window against full scale 1


class LogMelConfig(Frozen):
    """Settings of the log-mel audio encoder."""

    num_mels: int = Field(38, ge=4, le=128, description="mel bands; two more entries are loudness and envelope")
    window_ms: int = Field(40, ge=20, le=200, description="length of sound that one token sees, milliseconds")
    look_ahead_ms: int = Field(0, ge=0, le=200, description="how far a token sees beyond its own end, milliseconds")
    low_hz: float = Field(60.0, ge=0.0, le=1000.0, description="lower edge of the lowest band, Hz")
    high_hz: float = Field(7600.0, gt=1000.0, le=8000.0, description="upper edge of the highest band, Hz")
    floor_db: float = Field(-100.0, ge=-140.0, le=-40.0, description="what is quieter counts as this, dB of full scale")

    @model_validator(mode="after")
    def _sees_beyond_its_look_ahead(self) -> Self:
        if self.look_ahead_ms >= self.window_ms:
            raise ValueError(f"look_ahead_ms {self.look_ahead_ms} must be below window_ms {self.window_ms}")
        return self


@lru_cache(maxsize=8)
def mel_filters(num_mels: int, num_fft: int, low_hz: float, high_hz: float) -> Float32[np.ndarray, "bands bins"]:
    """Triangles on the mel scale (2595 log10(1 + f/700)), each with weights that sum to one."""
    low, high = (2595.0 * np.log10(1.0 + edge / 700.0) for edge in (low_hz, high_hz))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, num_mels + 2) / 2595.0) - 1.0)
    bins = np.fft.rfftfreq(num_fft, 1.0 / clock.SAMPLE_RATE_HZ)[None, :]
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.clip(np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)), 0.0, None)
    weight = triangles.sum(axis=1, keepdims=True)
    # A band narrower than the bins takes the bin next to its centre.
    nearest = np.eye(bins.size)[np.abs(bins - centre).argmin(axis=1)]
    return np.where(weight > 0, triangles / np.where(weight > 0, weight, 1.0), nearest).astype(np.float32)


class LogMel(WeightFree):
    """Sound to tokens. Deterministic; equal sound gives equal tokens wherever in a clip it stands."""

    name: ClassVar[str] = "log_mel"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "audio"
    config_type: ClassVar[type[Frozen]] = LogMelConfig

    def __init__(self, config: LogMelConfig | None = None) -> None:
        self._config = config or LogMelConfig()
        self._window = self._config.window_ms * clock.SAMPLE_RATE_HZ // 1000
        self._ahead = self._config.look_ahead_ms * clock.SAMPLE_RATE_HZ // 1000
        self._num_fft = 1 << (self._window - 1).bit_length()
        self._taper = np.hanning(self._window + 2)[1:-1].astype(np.float32)

    @property
    def config(self) -> LogMelConfig:
        """What this encoder was built with."""
        return self._config

    @property
    def num_features(self) -> int:
        """Entries per token: the mel bands, loudness, envelope."""
        return self._config.num_mels + 2

    @property
    def look_ahead_ms(self) -> int:
        """How far a token sees beyond its own end."""
        return self._config.look_ahead_ms

    def __call__(self, samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "J a"]:
        """Tokens [2T, a] of 640T samples at 16 kHz. Raises ValueError for another number of samples."""
        if samples.ndim != 1 or not samples.size or samples.size % clock.SAMPLES_PER_FRAME:
            raise ValueError(
                f"sound of shape {samples.shape}: expected one channel with {clock.SAMPLES_PER_FRAME} samples per frame"
            )
        if not np.isfinite(samples).all():
            raise ValueError("the sound holds values that are no numbers (nan or infinity)")
        return self._tokens(self._windows(samples.astype(np.float32)))

    def _windows(self, x: np.ndarray) -> np.ndarray:
        """Views [2T, window]; silence stands before the first and after the last sample."""
        lead = self._window - HOP - self._ahead
        padded = np.pad(x, (max(lead, 0), self._ahead))[max(-lead, 0) :]
        return np.lib.stride_tricks.sliding_window_view(padded, self._window)[::HOP]

    def _tokens(self, windows: np.ndarray) -> np.ndarray:
        config = self._config
        spectrum = np.fft.rfft(windows * self._taper, self._num_fft).astype(np.complex64)
        power = (spectrum.real**2 + spectrum.imag**2) / np.float32(np.sum(self._taper) ** 2 / 4)
        bands = power @ mel_filters(config.num_mels, self._num_fft, config.low_hz, config.high_hz).T
        rms = np.sqrt(np.mean(windows**2, axis=1, keepdims=True))
        usual = np.linspace(LOW_BAND_DB, HIGH_BAND_DB, config.num_mels, dtype=np.float32)
        mels = (self._decibels(bands) - usual) / SPREAD_DB
        loudness = (self._decibels(rms**2) - LOUDNESS_DB) / SPREAD_DB
        return np.concatenate([mels, loudness, rms / ENVELOPE_SPREAD - 0.5], axis=1).astype(np.float32)

    def _decibels(self, power: np.ndarray) -> np.ndarray:
        return 10.0 * np.log10(np.maximum(power, 10.0 ** (self._config.floor_db / 10.0)))
