"""What SyncNet hears: 13 mel-frequency cepstra, 100 times per second.

Every constant is part of the trained net: the settings are the defaults of the package `python_speech_features`, and
the samples have the size of 16-bit integers. Legend: n samples at 16 kHz, m windows of 25 ms, one per 10 ms.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float64

from dualforce_model import clock

HERTZ = 100
NUM_CEPSTRA = 13
STEP = clock.SAMPLE_RATE_HZ // HERTZ
WINDOW = clock.SAMPLE_RATE_HZ // 40  # 25 ms
NUM_FFT = 512
NUM_BANDS = 26
PRE_EMPHASIS = 0.97
LIFTER = 22
FULL_SCALE = 32768.0
TINY = np.finfo(np.float64).eps  # what no energy counts as before the logarithm


def mfcc(samples: Float[np.ndarray, " n"]) -> Float64[np.ndarray, "m 13"]:
    """Cepstra of sound in [-1, 1]; the first is the logarithm of the window's energy. The last window is zero padded.

    Raises ValueError for no sound, several channels, or values that are no numbers.
    """
    if samples.ndim != 1 or not samples.size:
        raise ValueError(f"sound of shape {samples.shape}: expected one channel with at least one sample")
    if not np.isfinite(samples).all():
        raise ValueError("the sound holds values that are no numbers (nan or infinity)")
    # Rounded, as the 16-bit files are that the net was trained on.
    x = np.clip(np.round(samples.astype(np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    x = np.concatenate([x[:1], x[1:] - PRE_EMPHASIS * x[:-1]])
    power = np.square(np.abs(np.fft.rfft(_windows(x), NUM_FFT))) / NUM_FFT
    cepstra = _log(power @ _mel_bands().T) @ _cosines().T
    cepstra *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(NUM_CEPSTRA) / LIFTER)
    cepstra[:, 0] = _log(power.sum(axis=1))
    return cepstra


def _windows(x: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "m w"]:
    """Rectangular windows that cover all of the sound; silence follows it."""
    count = 1 + max(-(-(len(x) - WINDOW) // STEP), 0)
    padded = np.pad(x, (0, (count - 1) * STEP + WINDOW - len(x)))
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]


def _log(energy: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    return np.log(np.where(energy == 0, TINY, energy))


@lru_cache(maxsize=1)
def _mel_bands() -> Float64[np.ndarray, "bands bins"]:
    """Triangles between whole bins of the spectrum, 0 to 8000 Hz, evenly spaced on the mel scale; each peaks at 1."""
    nyquist = clock.SAMPLE_RATE_HZ / 2
    mels = np.linspace(0, 2595 * np.log10(1 + nyquist / 700), NUM_BANDS + 2)
    hertz = 700 * (10 ** (mels / 2595) - 1)
    edges = np.floor((NUM_FFT + 1) * hertz / clock.SAMPLE_RATE_HZ)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.arange(NUM_FFT // 2 + 1)[None, :]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.clip(np.minimum(rising, falling), 0.0, None)


@lru_cache(maxsize=1)
def _cosines() -> Float64[np.ndarray, "13 bands"]:
    """The first rows of the orthonormal cosine transform (type II)."""
    rows, columns = np.arange(NUM_CEPSTRA)[:, None], np.arange(NUM_BANDS)[None, :]
    cosines = np.sqrt(2 / NUM_BANDS) * np.cos(np.pi * rows * (2 * columns + 1) / (2 * NUM_BANDS))
    cosines[0] *= np.sqrt(0.5)
    return cosines
