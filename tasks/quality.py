"""How good a clip is: pure functions from pixels, boxes and samples to scores. What passes is the policy's business.

Every score names its method; where nothing here can measure a thing, its value is None and the method says so.
Legend: T frames at 25 per second, n samples at 16 kHz.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from dualforce_model.clock import FPS, SAMPLE_RATE_HZ
from dualforce_model.media import Picture
from dualforce_model.metrics.lips import lip_correlation
from tasks.faces import Track, alive, most_at_once
from tasks.head_pose import head_pose
from tasks.records import Score

GLANCE_PX = 48  # side of the tiny picture in which cuts are looked for
GLANCE_CELLS = 4  # cells per side whose colours are counted apart
COLOUR_LEVELS = 8
CUT_PIXELS = 12.0  # mean difference of the tiny pictures, grey levels
CUT_COLOURS = 0.3  # share of the pixels that change their colour bin
CUT_OUTLIER = 3.0  # times the usual difference around it: heads and cameras move for longer than one frame
CUT_SURROUNDINGS = 8  # distinct frames on either side

HEAD_ANGLES = ("yaw_deg", "pitch_deg", "roll_deg")
SYNC_SCORES = ("sound_offset_ms", "sync_confidence")
FACE_PX = 128  # side of the face in which sharpness is measured
SILENCE_DB = -120.0
SOUND_FRAME = SAMPLE_RATE_HZ // 50  # 20 ms
VOICE_HZ = (250.0, 4000.0)
VOICE_RISE_DB = 9.0  # above the quietest tenth of the clip
VOICE_RANGE_DB = 30.0  # below the loudest: breath and room
VOICE_FLOOR_DB = -60.0
QUIETEST_DB = -90.0  # a background below 16-bit noise is no background
VOICE_PAUSE = 10  # frames of 20 ms: shorter gaps are inside words and sentences

LIP_LAGS = 5  # frames; sound that is later or earlier is the business of `sound_sync`
LIP_WINDOW = 5  # frames over which speed and loudness are averaged
LIP_SPEED = 0.003  # mean change of the opening per frame that a still mouth shows, grey values of [-1, 1]
QUIET = 0.03  # of the loudest: what is quieter is silence
OFFSET_LAGS = 15  # frames looked at on either side
OFFSET_WINDOW = 15  # frames; slower changes (pose, light, phrases) say little about where the sound belongs
# Best correlation over all lags, times the root of T, that 97.5 % of unrelated pairs of real clips stay under is 4.4.
OFFSET_CHANCE = 5.0


def duration_s(num_frames: int) -> Score:
    """Length of the decoded clip."""
    return Score(method="frames", value=num_frames / FPS)


def face_px(track: Track) -> Score:
    """Median height of the face's box, pixels of the source."""
    return Score(method="median box height", value=track.height_px)


def people(tracks: Sequence[Track], num_frames: int) -> Score:
    """Most lasting faces at once."""
    return Score(method="lasting tracks", value=float(most_at_once(tracks, num_frames)))


def people_share(tracks: Sequence[Track], looks: Sequence[int], num_frames: int) -> Score:
    """Share of the looks (frame numbers) at which more than one lasting face is there."""
    together = alive(tracks, num_frames)[np.asarray(looks)] > 1
    return Score(method="lasting tracks, per look", value=float(together.mean()))


def head_angles(track: Track) -> dict[str, Score]:
    """`yaw_deg pitch_deg roll_deg`: how far the head is turned, nodded and tilted from looking into the camera.

    Median size over the looks, in degrees: a head that turns from side to side is turned, though its mean is 0.
    """
    if track.landmarks is None:
        return {name: not_measured("landmarks") for name in HEAD_ANGLES}
    seen = [head_pose(points) for points in track.landmarks if np.isfinite(points).all()]
    poses = [pose for pose in seen if pose is not None]
    if not poses:
        return {name: Score(method="five landmarks: those of no look are a head's") for name in HEAD_ANGLES}
    return {
        name: Score(method="five landmarks", value=float(np.median([abs(getattr(pose, name)) for pose in poses])))
        for name in HEAD_ANGLES
    }


def glance(picture: Picture) -> UInt8[np.ndarray, "g g 3"]:
    """A picture small enough to keep for every frame, for `shot_cuts`."""
    few = picture.sampled(4 * GLANCE_PX, 4 * GLANCE_PX)  # averaging every pixel of a large picture takes too long
    return np.asarray(cv2.resize(few, (GLANCE_PX, GLANCE_PX), interpolation=cv2.INTER_AREA))


def shot_cuts(glances: Sequence[UInt8[np.ndarray, "g g 3"]]) -> Score:
    """Number of cuts: frames that differ from the one before in pixels and colours, and far more than is usual there.

    Repeated pictures (a source under 25 fps) are left out first: beside them every change would be an outlier.
    """
    distinct = [glances[0]] + [now for before, now in pairwise(glances) if not np.array_equal(before, now)]
    pairs = list(pairwise(distinct))
    pixels = np.array([np.abs(now.astype(np.int16) - before).mean() for before, now in pairs])
    cuts = 0
    for index in np.flatnonzero(pixels > CUT_PIXELS).tolist():
        around: np.ndarray = np.delete(
            pixels[max(index - CUT_SURROUNDINGS, 0) : index + CUT_SURROUNDINGS + 1], min(index, CUT_SURROUNDINGS)
        )
        usual = float(np.median(around)) if len(around) else 0.0
        cuts += pixels[index] > CUT_OUTLIER * usual and _colour_change(*pairs[index]) > CUT_COLOURS
    return Score(method="pixels and colours", value=float(cuts))


def _colour_change(before: UInt8[np.ndarray, "g g 3"], now: UInt8[np.ndarray, "g g 3"]) -> float:
    """Share of pixels, 0 to 1, whose colour bin differs between two pictures, cell by cell."""
    first, second = _cell_colours(before), _cell_colours(now)
    return float(np.abs(first - second).sum() / 2 / first.sum())


def _cell_colours(picture: UInt8[np.ndarray, "g g 3"]) -> Float64[np.ndarray, "cells bins"]:
    bins = (picture // (256 // COLOUR_LEVELS)).astype(np.int64) @ np.array([COLOUR_LEVELS**2, COLOUR_LEVELS, 1])
    edge = len(picture) // GLANCE_CELLS
    cells = bins.reshape(GLANCE_CELLS, edge, GLANCE_CELLS, edge).transpose(0, 2, 1, 3).reshape(GLANCE_CELLS**2, -1)
    return np.stack([np.bincount(cell, minlength=COLOUR_LEVELS**3) for cell in cells]).astype(float)


def sharpness(faces: Sequence[UInt8[np.ndarray, "h w 3"]]) -> Score:
    """Median over frames of the Laplacian's variance over the picture's own, in percent, of the face at 128 px."""
    values = []
    for face in faces:
        gray = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
        shrinking = len(gray) >= FACE_PX
        gray = cv2.resize(gray, (FACE_PX, FACE_PX), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
        values.append(100 * cv2.Laplacian(gray, cv2.CV_32F).var() / (gray.var() + 1.0))
    return Score(method="normalised Laplacian", value=float(np.median(values)))


def brightness(faces: Sequence[UInt8[np.ndarray, "h w 3"]]) -> Score:
    """Median over the looks of the median luma of the face, 0 (black) to 255."""
    lumas = [float(np.median(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY))) for face in faces]
    return Score(method="median luma", value=float(np.median(lumas)))


def no_face_sought() -> Score:
    """A score that needs a face, of a clip in which none was looked for."""
    return Score(method="mode general: no face is looked for")


def not_measured(needed: str) -> Score:
    """A score that nothing here can take."""
    return Score(method=f"none: needs {needed}")


def loudness_db(sound: Float32[np.ndarray, " n"]) -> Score:
    """Level against full scale; without any sound -120."""
    power = float(np.mean(np.square(sound, dtype=np.float64))) if len(sound) else 0.0
    return Score(method="rms", value=max(10 * np.log10(power + 1e-20), SILENCE_DB))


def speech_share(sound: Float32[np.ndarray, " n"]) -> Score:
    """Share of the time in which the voice band rises out of the clip's own background. Music and babble rise too."""
    voiced = _voiced(_voice_levels(sound))
    return Score(method="energy", value=float(voiced.mean()) if len(voiced) else 0.0)


def snr_db(sound: Float32[np.ndarray, " n"]) -> Score:
    """Speech over the background between it; None where one of the two is missing. Babble makes it too kind."""
    levels = _voice_levels(sound)
    voiced = _voiced(levels)
    if not voiced.any() or voiced.all():
        return Score(method="energy: needs speech and pauses")
    background = max(float(_power(levels[~voiced]).mean()), 10 ** (QUIETEST_DB / 10))
    speech = max(float(_power(levels[voiced]).mean()) - background, background / 1000)
    return Score(method="energy", value=float(10 * np.log10(speech / background)))


def lip_motion(opening: Float32[np.ndarray, " T"], envelope: Float32[np.ndarray, " T"]) -> Score:
    """How much the lips move, and with the sound: 0 (still, or a voice from off screen) to 1.

    Agreement of how fast the mouth moves with how loud it is, at the best lag within 200 ms, times the share of the
    movement that no still mouth shows. Speed, not opening: on real clips the opening itself says nothing about whether
    the voice belongs to the face (against other clips' voices: 0.50 of the pairs told apart, by speed 0.85).
    """
    if len(opening) <= 2 * LIP_LAGS or float(np.std(envelope)) == 0.0:
        return Score(method="mouth speed and loudness: needs sound")
    speed = np.abs(np.diff(opening, prepend=opening[:1]))
    loudness = np.log(envelope + QUIET * envelope.max())
    agreement = float(_agreement(_mean_over(speed, LIP_WINDOW), _mean_over(loudness, LIP_WINDOW), LIP_LAGS).max())
    movement = float(speed.mean())
    return Score(method="mouth speed and loudness", value=max(agreement, 0.0) * movement / (movement + LIP_SPEED))


def sound_sync(opening: Float32[np.ndarray, " T"], envelope: Float32[np.ndarray, " T"]) -> dict[str, Score]:
    """`sound_offset_ms sync_confidence`: how much later the sound comes than the lips, and how sure that is.

    The offset (negative: earlier) is coarse: lips lead real voices by up to 80 ms. Confidence is the best correlation
    of opening and loudness over what unrelated clips of this length reach by chance: under 1 there is no offset.
    """
    method = "mouth opening and envelope"
    if len(opening) <= 2 * OFFSET_LAGS or float(np.std(envelope)) == 0.0:
        return dict.fromkeys(SYNC_SCORES, Score(method=f"{method}: needs sound and {2 * OFFSET_LAGS / FPS:.1f} s"))
    if float(np.abs(np.diff(opening)).mean()) < LIP_SPEED:
        return dict.fromkeys(SYNC_SCORES, Score(method=f"{method}: needs a mouth that moves"))
    mouth, sound = (curve - _mean_over(curve, OFFSET_WINDOW) for curve in (opening, envelope))
    agreement = _agreement(mouth, sound, OFFSET_LAGS)
    best = int(agreement.argmax())
    confidence = float(max(agreement[best], 0.0) * np.sqrt(len(opening)) / OFFSET_CHANCE)
    offset = Score(method=f"{method}: they agree at no lag")
    if confidence >= 1.0 and best not in (0, len(agreement) - 1):
        before, peak, after = agreement[best - 1 : best + 2]
        lag = best - OFFSET_LAGS + (before - after) / 2 / (before - 2 * peak + after)
        offset = Score(method=method, value=float(1000 / FPS * lag))
    return dict(zip(SYNC_SCORES, (offset, Score(method=f"{method}, over chance", value=confidence)), strict=True))


def _agreement(
    mouth: Float32[np.ndarray, " T"], sound: Float32[np.ndarray, " T"], lags: int
) -> Float64[np.ndarray, " l"]:
    """Correlation of the mouth with the sound of -lags .. lags frames later."""
    frames = len(mouth)
    return np.array(
        [
            lip_correlation(mouth[max(-lag, 0) : frames - max(lag, 0)], sound[max(lag, 0) : frames - max(-lag, 0)])
            for lag in range(-lags, lags + 1)
        ]
    )


def _mean_over(curve: Float32[np.ndarray, " T"], window: int) -> Float32[np.ndarray, " T"]:
    """Weighted mean around each frame (Hann, odd window); the ends are held."""
    weights = np.hanning(window + 2)[1:-1]
    padded = np.pad(curve, window // 2, mode="edge")
    return np.convolve(padded, weights / weights.sum(), mode="valid").astype(np.float32)


def _voice_levels(sound: Float32[np.ndarray, " n"]) -> Float64[np.ndarray, " f"]:
    """Level of the voice band per 20 ms, dB of full scale."""
    frames = len(sound) // SOUND_FRAME
    if not frames:
        return np.zeros(0)
    spectrum = np.fft.rfft(sound[: frames * SOUND_FRAME].reshape(frames, SOUND_FRAME) * np.hanning(SOUND_FRAME))
    hertz = np.fft.rfftfreq(SOUND_FRAME, 1 / SAMPLE_RATE_HZ)
    band = (hertz >= VOICE_HZ[0]) & (hertz <= VOICE_HZ[1])
    power = np.square(np.abs(spectrum[:, band])).sum(axis=1) * (
        2 / SOUND_FRAME / np.square(np.hanning(SOUND_FRAME)).sum()
    )
    return np.maximum(10 * np.log10(power + 1e-20), SILENCE_DB)


def _voiced(levels: Float64[np.ndarray, " f"]) -> np.ndarray:
    """Bool [f]: which frames of 20 ms are speech, short pauses included."""
    if not len(levels):
        return np.zeros(0, bool)
    loud = np.percentile(levels, 95)
    background = np.percentile(levels, 10)
    voiced = levels > max(background + VOICE_RISE_DB, loud - VOICE_RANGE_DB, VOICE_FLOOR_DB)
    marks = np.flatnonzero(voiced)
    for first, second in pairwise(marks):
        if second - first <= VOICE_PAUSE:
            voiced[first:second] = True
    return voiced


def _power(levels: Float64[np.ndarray, " f"]) -> Float64[np.ndarray, " f"]:
    return 10 ** (levels / 10)
