"""One picture of one clip's features, for people: the crop with its landmarks, what moves, what is heard.

From top to bottom: frames of the crop with the places that the structure encoder knows; curves of what moves most in
every part of the structure (of FLAME, too, and how much the latents change from step to step), each scaled to its own
range; the sound's log-mel. All share one axis, the seconds of the clip.
"""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dualforce_model import clock
from dualforce_model.encoders import LogMel
from dualforce_model.schema import Feature

FRAMES = 8
FRAME_PX = 160
DOT_PX, MANY = 2, 60  # of so many landmarks each is drawn smaller
WIDTH_INCHES, DOTS_PER_INCH = 11.6, 110
STRIP_INCHES, LANE_INCHES, MEL_INCHES = 1.24, 0.34, 1.1
MAX_LANES = 10
JPEG_QUALITY = 85
INK, FAINT, RULE = "#1c2430", "#667080", "#d5dae1"
LINES = {"structure": "#1f5fbf", "flame": "#8a4fb0", "video": "#d07a1f"}
DOT = (90, 220, 90)


# Points (x, y) of each frame that is shown, as shares of width and height; None: nothing was found in it.
Places = Sequence[Float32[np.ndarray, "k 2"] | None]


class ClipMedia(NamedTuple):
    """What a person would see and hear of a clip."""

    frames: UInt8[np.ndarray, "T H W 3"]
    sound: Float32[np.ndarray, " n"]  # none, or 640 samples a frame


class Lane(NamedTuple):
    """One curve."""

    name: str
    modality: str
    seconds: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]


def feature_sheet(
    title: str,
    clip: ClipMedia,
    features: Mapping[str, Feature],
    names: Mapping[str, Sequence[str]],
    places: Places = (),
) -> bytes:
    """JPEG of a clip's features. `names`: of the entries of structure and FLAME; `places`: what `moments` show."""
    lanes = lanes_of(features, names)
    mels = None if not len(clip.sound) else LogMel()(clip.sound)[:, : LogMel().config.num_mels].T
    heights = [STRIP_INCHES] + [max(len(lanes), 1) * LANE_INCHES] * bool(lanes) + [MEL_INCHES] * (mels is not None)
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.75), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    length_s = len(clip.frames) / clock.FPS
    _show_frames(rows[0], _strip(clip.frames, places), length_s, f"{_plain(title)}    {_shapes(features)}")
    if lanes:
        _show_lanes(rows[1], lanes, length_s)
    if mels is not None:
        rows[-1].imshow(mels, aspect="auto", origin="lower", cmap="magma", extent=(0, length_s, 0, len(mels)))
        rows[-1].set_yticks([])
        rows[-1].set_ylabel("log-mel", rotation=0, ha="right", va="center", color=FAINT, fontsize=8)
    rows[-1].set_xlabel("seconds", color=FAINT, fontsize=8)
    rows[-1].tick_params(colors=FAINT, labelsize=8)
    for side in (side for row in rows for side in row.spines.values()):
        side.set_color(RULE)
    return _jpeg(figure)


def lanes_of(features: Mapping[str, Feature], names: Mapping[str, Sequence[str]]) -> list[Lane]:
    """What moves most in each part of structure and FLAME, and how much the latents change; none of what is not there.

    A part is entries whose names differ in their numbers alone.
    """
    lanes = []
    for modality, array in (("structure", "motion"), ("flame", "parameters")):
        if modality not in features:
            continue
        rows = features[modality][array].astype(np.float64)
        told = names.get(modality) or [f"entry {index}" for index in range(rows.shape[1])]
        seconds = (np.arange(len(rows)) + 0.5) / clock.FPS
        lanes += [Lane(told[entry], modality, seconds, rows[:, entry]) for entry in _liveliest(rows, told)]
    if "video" in features and len(features["video"]["latents"]) > 1:
        latents = features["video"]["latents"].astype(np.float64)
        change = np.sqrt(np.square(np.diff(latents, axis=0)).mean(axis=(1, 2, 3)))
        middles = [np.mean(clock.frames_of_step(step)) + 0.5 for step in range(1, len(latents))]
        lanes.append(Lane("latents' change", "video", np.array(middles) / clock.FPS, change))
    return lanes


def _liveliest(rows: Float[np.ndarray, "T m"], names: Sequence[str]) -> list[int]:
    """The entry of each part that varies most, in the order of the entries; of many parts the liveliest."""
    spread, best = rows.std(axis=0), dict[str, int]()
    for entry, name in enumerate(names):
        part = re.sub(r"[\d_\s]+$", "", name)
        if part not in best or spread[entry] > spread[best[part]]:
            best[part] = entry
    moving = [entry for entry in best.values() if spread[entry] > 0] or [0]
    return sorted(sorted(moving, key=lambda entry: -spread[entry])[:MAX_LANES])


def moments(num_frames: int) -> list[int]:
    """The frames that are shown: at equal distances, each in the middle of its stretch."""
    return [min(int((index + 0.5) / FRAMES * num_frames), num_frames - 1) for index in range(FRAMES)]


def _strip(frames: UInt8[np.ndarray, "T H W 3"], places: Places) -> UInt8[np.ndarray, "h w 3"]:
    """Frames side by side, with dots where the places are."""
    shown = []
    for index, moment in enumerate(moments(len(frames))):
        frame = cv2.resize(frames[moment], (FRAME_PX, FRAME_PX), interpolation=cv2.INTER_AREA)
        points = places[index] if places else None
        if points is not None:
            radius = DOT_PX if len(points) < MANY else 1
            for x, y in points * FRAME_PX:
                cv2.circle(frame, (round(float(x)), round(float(y))), radius, DOT, -1, cv2.LINE_AA)
        shown.append(frame)
    return np.concatenate(shown, axis=1)


def _show_frames(plot: Any, strip: UInt8[np.ndarray, "h w 3"], length_s: float, title: str) -> None:
    plot.imshow(strip, aspect="auto", extent=(0, length_s, 0, 1))
    plot.set_yticks([])
    plot.set_xticks([])
    plot.set_title(title, loc="left", color=INK, fontsize=9)


def _show_lanes(plot: Any, lanes: Sequence[Lane], length_s: float) -> None:
    """One above the other, first on top."""
    for place, lane in enumerate(reversed(lanes)):
        low, high = float(lane.values.min()), float(lane.values.max())
        scaled = (lane.values - low) / (high - low) if high > low else np.full_like(lane.values, 0.5)
        plot.axhline(place, color=RULE, linewidth=0.6)
        plot.plot(lane.seconds, place + 0.08 + 0.84 * scaled, color=LINES[lane.modality], linewidth=1.1)
        plot.text(length_s, place + 0.5, f" {low:.3g} … {high:.3g}", va="center", fontsize=7, color=FAINT)
    plot.set_yticks([place + 0.5 for place in range(len(lanes))], [_plain(lane.name) for lane in reversed(lanes)])
    plot.tick_params(colors=FAINT, labelsize=8, length=0)
    plot.set_xlim(0, length_s)
    plot.set_ylim(0, len(lanes))
    plot.set_xticks([])


def _shapes(features: Mapping[str, Feature]) -> str:
    """What there is, in one line."""
    first = {name: next(iter(arrays.values())) for name, arrays in sorted(features.items())}
    return "   ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in first.items())


def _plain(text: str) -> str:
    """No letter that is no letter, and none that matplotlib takes for a formula."""
    return "".join(letter if letter.isprintable() and letter != "$" else " " for letter in text)


def _jpeg(figure: Figure) -> bytes:
    """The drawn figure. Equal input gives equal bytes."""
    figure.canvas.draw()
    buffer = BytesIO()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]  # it is an Agg canvas
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
