"""Distances between what SyncNet sees and hears, the offset at which they are least, and how sure that is.

Legend: w windows of five frames, one per frame; d entries of an embedding; l = 2 REACH + 1 lags.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64

from dualforce_model import clock

WINDOW_FRAMES = 5
REACH = 15  # frames looked at on either side: what published numbers were made with
EPSILON = 1e-6  # torch's pairwise distance adds it to every difference, and published numbers have it


class Agreement(NamedTuple):
    """What a clip's distances say. Distance is published as Sync-D (LSE-D), confidence as Sync-C (LSE-C)."""

    offset_frames: int  # as published: positive where the sound comes before the lips
    distance: float
    confidence: float

    @property
    def sound_late_ms(self) -> float:
        """How much later the sound comes than the lips; negative: earlier."""
        return float(-self.offset_frames * 1000 / clock.FPS)


def num_windows(num_frames: int, num_samples: int) -> int:
    """Windows that picture and sound of a clip are compared in: one fewer than there could be, as published."""
    return max(min(num_frames, num_samples // clock.SAMPLES_PER_FRAME) - WINDOW_FRAMES, 0)


def distances(
    video_wd: Float[np.ndarray, "w d"], audio_wd: Float[np.ndarray, "w d"], reach: int = REACH
) -> Float32[np.ndarray, "w l"]:
    """Distance of every window's lips to the sound `-reach .. reach` windows later; beyond the clip it is zeros."""
    if video_wd.shape != audio_wd.shape or video_wd.ndim != 2 or not len(video_wd):
        raise ValueError(
            f"embeddings of lips {video_wd.shape} and sound {audio_wd.shape}: expected equal shapes [w, d] with w >= 1"
        )
    padded = np.pad(audio_wd.astype(np.float32), ((reach, reach), (0, 0)))
    lags = [
        np.linalg.norm(video_wd - padded[lag : lag + len(video_wd)] + np.float32(EPSILON), axis=1)
        for lag in range(2 * reach + 1)
    ]
    return np.stack(lags, axis=1).astype(np.float32)


def mean_distances(
    video_wd: Float[np.ndarray, "w d"], audio_wd: Float[np.ndarray, "w d"], reach: int = REACH
) -> Float64[np.ndarray, " l"]:
    """Mean over the windows of `distances`, sound from `reach` frames earlier to `reach` later."""
    return distances(video_wd, audio_wd, reach).mean(axis=0, dtype=np.float64)


def agree(curve: Float[np.ndarray, " l"]) -> Agreement:
    """Offset, least distance, and how far that lies under the median. Of equal distances the first counts."""
    if curve.ndim != 1 or len(curve) % 2 == 0:
        raise ValueError(f"distances of shape {curve.shape}: expected one per lag, an odd number")
    best = int(curve.argmin())
    least = float(curve[best])
    return Agreement(len(curve) // 2 - best, least, float(np.median(curve)) - least)
