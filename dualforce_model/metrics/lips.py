"""Do the lips follow the sound? Mouth opening from pixels, loudness of speech from samples, and how they correlate.

Legend: T frames at 25 Hz, n samples at 16 kHz.

Nothing here is learned. A clip is judged by itself, so it works alike on real clips, on reconstructions and on what a
model made. Measured: on synthetic faces the opening correlates 0.97 with the renderer's truth. On real talking heads it
is coarse (0.68 with the distance of the inner lips that a landmark net sees), and real lips follow loudness loosely:
even the landmarks' distance correlates only 0.1 to 0.3 with it. A high r is a claim about lips that loudness drives.
"""

from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from dualforce_model import clock
from dualforce_model.encoders.face_track import FaceTrackConfig, patches, shrink, track_face
from dualforce_model.metrics.base import JudgedClip

# Places are shares of the cascade's face box. The region reaches from below the nostrils to the chin.
MOUTH_CENTRE, MOUTH_EXTENT, MOUTH_PX = (0.5, 0.87), (0.35, 0.46), 32
GAP_PX = 11  # rows of the region, 0.16 of the face: what is dark and less high than this can be a gap between lips
SOFTEN_PX = 0.7
TRACK = FaceTrackConfig(every=1, smoothing=1.0)
# Frames from one search for the face to the next, straight lines between: judging may look ahead. On 22 real clips the
# opening agrees with a landmark net's as well (r 0.61) as with a search in every second frame (0.61); at 8 it is 0.58.
SEARCH_EVERY = 5
TRACK_WINDOW = 7  # frames over which the box is averaged, without lag

SPEECH_BAND_HZ = (200.0, 4000.0)  # hum lies below, hiss above
ENVELOPE_SAMPLES = 2 * clock.SAMPLES_PER_FRAME
MIN_SPREAD = 1e-6


def mouth_opening(frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, " T"]:
    """How open the mouth is in each frame of a face crop: contrast of what is dark and low between brighter skin.

    The black-hat transform (closing minus picture, vertical) of the mouth region, root mean square, in grey values of
    [-1, 1]. Lips are red, so that red counts as much as luma: the gap is dark in both. Comparable within a clip.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames are {frames.dtype} {frames.shape}: expected uint8 [T, H, W, 3] with T >= 1")
    small = [shrink(np.ascontiguousarray(frame)) for frame in frames]
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small]
    lips = [_bright_lips(frame, gray) for frame, gray in zip(small, grays, strict=True)]
    mouths = patches(lips, _steady(_face_track(grays)), MOUTH_CENTRE, MOUTH_EXTENT, MOUTH_PX)
    column = np.ones((GAP_PX, 1), np.uint8)
    gaps = [
        cv2.morphologyEx(
            cv2.GaussianBlur(mouth, (0, 0), SOFTEN_PX), cv2.MORPH_BLACKHAT, column, borderType=cv2.BORDER_REPLICATE
        )
        for mouth in mouths
    ]
    return np.sqrt(np.mean(np.square(gaps), axis=(1, 2))).astype(np.float32)


def speech_envelope(samples: Float[np.ndarray, " n"], num_frames: int) -> Float32[np.ndarray, " T"]:
    """Loudness of speech at each frame: root mean square of 80 ms around the frame's 40 ms, 200 to 4000 Hz.

    Sound that ends early counts as silence, sound beyond the last frame is left out.
    """
    if samples.ndim != 1 or num_frames < 1:
        raise ValueError(f"sound of shape {samples.shape}, {num_frames} frames: expected [n] and at least one frame")
    length = clock.num_samples(num_frames)
    x = np.zeros(length + clock.SAMPLE_RATE_HZ, np.float64)  # a second of silence: filtering by FFT wraps around
    x[: min(length, len(samples))] = samples[:length]
    spectrum = np.fft.rfft(x)
    hz = np.fft.rfftfreq(len(x), 1.0 / clock.SAMPLE_RATE_HZ)
    spectrum[(hz < SPEECH_BAND_HZ[0]) | (hz > SPEECH_BAND_HZ[1])] = 0
    margin = (ENVELOPE_SAMPLES - clock.SAMPLES_PER_FRAME) // 2
    padded = np.pad(np.fft.irfft(spectrum, len(x))[:length], margin)
    windows = np.lib.stride_tricks.sliding_window_view(padded, ENVELOPE_SAMPLES)[:: clock.SAMPLES_PER_FRAME]
    return np.sqrt(np.mean(windows**2, axis=1)).astype(np.float32)


def lip_correlation(opening: Float[np.ndarray, " T"], envelope: Float[np.ndarray, " T"]) -> float:
    """Pearson correlation at lag 0 over frames 1 and later (frame 0 is given to the model, not made by it).

    0.0 when either does not vary: a mouth that stands still follows nothing.
    """
    if opening.shape != envelope.shape or opening.ndim != 1 or len(opening) < 3:
        raise ValueError(f"opening {opening.shape} and envelope {envelope.shape}: expected equal lengths of at least 3")
    x, y = (values[1:].astype(np.float64) for values in (opening, envelope))
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt(np.mean(x**2) * np.mean(y**2)))
    if min(float(np.std(x)), float(np.std(y))) < MIN_SPREAD:
        return 0.0
    return float(np.clip(np.mean(x * y) / spread, -1.0, 1.0))


class LipCorrelation:
    """Correlation of mouth opening and loudness of speech."""

    name: ClassVar[str] = "lip_correlation"
    unit: ClassVar[str] = "Pearson r"
    higher_is_better: ClassVar[bool] = True

    def load(self) -> None:
        """Nothing to ready."""

    def __call__(self, clip: JudgedClip) -> float:
        """The clip's r, from its own pixels and its own sound."""
        return lip_correlation(mouth_opening(clip.frames), speech_envelope(clip.samples, len(clip.frames)))


def _steady(track: Float32[np.ndarray, "T 3"]) -> Float32[np.ndarray, "T 3"]:
    """The track averaged over a window centred on each frame; its ends are held."""
    weights = np.hanning(TRACK_WINDOW + 2)[1:-1]
    padded = np.pad(track, ((TRACK_WINDOW // 2, TRACK_WINDOW // 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, TRACK_WINDOW, axis=0)
    return (windows @ (weights / weights.sum())).astype(np.float32)


def _face_track(grays: list[np.ndarray]) -> Float32[np.ndarray, "T 3"]:
    """Where the face is in every frame: searched in every fifth and the last, on straight lines between."""
    searched = sorted({*range(0, len(grays), SEARCH_EVERY), len(grays) - 1})
    found = track_face([grays[frame] for frame in searched], TRACK, closely=True)
    lines = [np.interp(np.arange(len(grays)), searched, found[:, value]) for value in range(3)]
    return np.stack(lines, axis=1).astype(np.float32)


def _bright_lips(frame: UInt8[np.ndarray, "h w 3"], gray: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Mean of red and luma: lips are nearly as bright as skin in it."""
    return cv2.addWeighted(np.ascontiguousarray(frame[..., 0]), 0.5, gray, 0.5, 0.0)
