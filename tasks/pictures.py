"""Pictures of a run for people: contact sheets, loss curves, lips against sound, truth beside generated.

Everything is drawn without a display and written atomically; equal input gives equal bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from dualforce_model import clock, media, storage
from dualforce_model.train_log import LogRow

INK, FAINT, RULE = "#1c2430", "#667080", "#d5dae1"
KEPT, DROPPED = "#1b7f4b", "#b3372b"
TRUTH, GENERATED, CONTROL, SOUND = "#4a5563", "#1f5fbf", "#d07a1f", "#c9d3df"
SERIES = ("#1f5fbf", "#d07a1f", "#1b7f4b", "#8a4fb0", "#b3372b", "#4a5563", "#0f8b8d", "#a08a10")

TILE_WIDTH_PX, PICTURE_HEIGHT_PX, MARGIN_PX = 420, 140, 18
TITLE_PX, NAME_PX, CAPTION_PX = 24, 15, 13
MAX_TILES = 120
DOTS_PER_INCH = 110
PLOT_INCHES = (11.0, 2.2)
MAX_PLOTS = 12


class Strip(NamedTuple):
    """One clip on a contact sheet."""

    name: str
    caption: str  # why it was dropped, or what was measured
    picture: Path | None  # JPEG or PNG strip of frames; None where there was nothing to see


class LipCurves(NamedTuple):
    """What lips and sound did in one clip, per frame."""

    name: str
    note: str
    envelope: Float32[np.ndarray, " T"]
    openings: Mapping[str, Float32[np.ndarray, " T"]]  # "truth", "generated", "shuffled" or others, by name


def contact_sheet(target: Path, kept: Sequence[Strip], left_out: Sequence[Strip], columns: int = 3) -> None:
    """One picture (PNG or JPEG) of all clips: those that were kept, then the others with their reasons."""
    groups = [("kept", KEPT, kept), ("left out", DROPPED, left_out)]
    height = MARGIN_PX + sum(_group_height(len(strips), columns) for _, _, strips in groups)
    width = MARGIN_PX + columns * (TILE_WIDTH_PX + MARGIN_PX)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = MARGIN_PX
    for title, colour, strips in groups:
        draw.text((MARGIN_PX, top), f"{title}: {len(strips)}", fill=colour, font=_font(TITLE_PX, bold=True))
        for index, strip in enumerate(strips[:MAX_TILES]):
            x = MARGIN_PX + index % columns * (TILE_WIDTH_PX + MARGIN_PX)
            y = top + TITLE_PX + MARGIN_PX + index // columns * _tile_height()
            _draw_tile(sheet, draw, strip, colour, (x, y))
        if len(strips) > MAX_TILES:
            note = f"and {len(strips) - MAX_TILES} more"
            draw.text((MARGIN_PX + 220, top + 8), note, fill=FAINT, font=_font(CAPTION_PX))
        top += _group_height(len(strips), columns)
    media.write_image(target, np.asarray(sheet))


def loss_curves(target: Path, rows: Sequence[LogRow]) -> None:
    """PNG of every loss in a training log over steps. Raises ValueError for a log without losses."""
    names = sorted(
        {name for row in rows for name in row.values if "loss" in name}, key=lambda name: (name != "loss", name)
    )
    if not names:
        raise ValueError(f"the training log has {len(rows)} rows and no value with `loss` in its name: nothing to draw")
    figure, axes = _plots(1, (PLOT_INCHES[0], 4.4))
    plot = axes[0]
    for name, colour in zip(names, SERIES * (len(names) // len(SERIES) + 1), strict=False):
        points = [(row.step, row.values[name]) for row in rows if name in row.values]
        steps, values = np.array(points, np.float64).T
        width = 2.2 if name == names[0] else 1.4
        plot.plot(steps, values, color=colour, linewidth=width, label=f"{name}  {values[-1]:.3g}")
    lowest = min(value for row in rows for name, value in row.values.items() if name in names)
    if lowest > 0:
        plot.set_yscale("log")
    plot.set_xlabel("optimizer step", color=FAINT)
    plot.set_title("training losses (last value in the legend)", loc="left", color=INK, fontsize=11)
    plot.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _write_figure(target, figure)


def lips_plot(target: Path, curves: Sequence[LipCurves]) -> None:
    """PNG: for each clip, speech envelope as an area and mouth openings as lines, each scaled to its own range."""
    shown = curves[:MAX_PLOTS]
    if not shown:
        raise ValueError("there is no clip to draw lips of")
    figure, axes = _plots(len(shown), (PLOT_INCHES[0], PLOT_INCHES[1] * len(shown) + 0.5))
    for plot, curve in zip(axes, shown, strict=True):
        seconds = np.arange(len(curve.envelope)) / clock.FPS
        plot.fill_between(seconds, _unit(curve.envelope), color=SOUND, linewidth=0, label="speech envelope")
        for (name, opening), colour in zip(curve.openings.items(), _opening_colours(curve.openings), strict=True):
            width, style = (1.0, "--") if name == "shuffled" else (1.6, "-")
            plot.plot(seconds, _unit(opening), color=colour, linewidth=width, linestyle=style, label=name)
        plot.set_xlim(0, max(float(seconds[-1]), 1 / clock.FPS))
        plot.set_yticks([])
        plot.set_title(f"{curve.name}    {curve.note}", loc="left", color=INK, fontsize=10)
    axes[0].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=6)
    axes[-1].set_xlabel("seconds", color=FAINT)
    _write_figure(target, figure)


def side_by_side(
    target: Path,
    left: UInt8[np.ndarray, "T H W 3"],
    right: UInt8[np.ndarray, "T H W 3"],
    sound: Float32[np.ndarray, " n"],
    titles: tuple[str, str] = ("truth", "generated"),
    scale: int = 3,
) -> None:
    """MP4 of two clips next to each other, enlarged, named, with the sound; as long as the shorter one."""
    frames = min(len(left), len(right))
    bars = [_title_bar(clip.shape[2] * scale, title) for clip, title in zip((left, right), titles, strict=True)]
    joined = (_pair(left[t], right[t], bars, scale) for t in range(frames))
    media.write_video(target, joined, sound[: clock.num_samples(frames)])


def _pair(left: np.ndarray, right: np.ndarray, bars: Sequence[np.ndarray], scale: int) -> np.ndarray:
    height = max(left.shape[0], right.shape[0]) * scale
    columns = []
    for frame, bar in zip((left, right), bars, strict=True):
        size = (frame.shape[1] * scale, frame.shape[0] * scale)
        picture = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        padding = ((0, height - picture.shape[0]), (0, 0), (0, 0))
        columns.append(np.concatenate([bar, np.pad(picture, padding)]))
    joined = np.concatenate(columns, axis=1)
    odd = ((0, joined.shape[0] % 2), (0, joined.shape[1] % 2), (0, 0))
    return np.pad(joined, odd)


def _title_bar(width: int, title: str) -> np.ndarray:
    bar = Image.new("RGB", (width, 30), INK)
    ImageDraw.Draw(bar).text((10, 6), title, fill="white", font=_font(NAME_PX))
    return np.asarray(bar)


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, strip: Strip, colour: str, at: tuple[int, int]) -> None:
    x, y = at
    box = (x, y, x + TILE_WIDTH_PX, y + PICTURE_HEIGHT_PX)
    if strip.picture is None:
        draw.rectangle(box, fill="#f1f3f6", outline=RULE)
        draw.text((x + 14, y + PICTURE_HEIGHT_PX // 2 - 8), "no picture", fill=FAINT, font=_font(CAPTION_PX))
    else:
        picture = Image.fromarray(media.read_image(strip.picture))
        picture.thumbnail((TILE_WIDTH_PX, PICTURE_HEIGHT_PX), Image.Resampling.LANCZOS)
        draw.rectangle(box, fill="#f1f3f6")
        sheet.paste(picture, (x, y + (PICTURE_HEIGHT_PX - picture.height) // 2))
    draw.rectangle((x, y + PICTURE_HEIGHT_PX, x + 3, y + PICTURE_HEIGHT_PX + 42), fill=colour)
    name, caption = _font(NAME_PX, bold=True), _font(CAPTION_PX)
    draw.text((x + 10, y + PICTURE_HEIGHT_PX + 4), _fitted(strip.name, name), fill=INK, font=name)
    draw.text((x + 10, y + PICTURE_HEIGHT_PX + 25), _fitted(strip.caption, caption), fill=FAINT, font=caption)


def _fitted(text: str, font: Any) -> str:
    """The text, cut with an ellipsis so that it fits into a tile. Names come from strangers: control characters go."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    if font.getlength(plain) <= TILE_WIDTH_PX - 10:
        return plain
    while plain and font.getlength(plain + "…") > TILE_WIDTH_PX - 10:
        plain = plain[: -max(len(plain) // 20, 1)]
    return plain + "…"


def _tile_height() -> int:
    return PICTURE_HEIGHT_PX + 42 + MARGIN_PX


def _group_height(count: int, columns: int) -> int:
    rows = -(-min(count, MAX_TILES) // columns)
    return TITLE_PX + 2 * MARGIN_PX + rows * _tile_height()


@cache
def _font(size_px: int, bold: bool = False) -> Any:
    """DejaVu Sans, which matplotlib carries: the same letters on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size_px)


def _plots(count: int, inches: tuple[float, float]) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(count, 1, squeeze=False)[:, 0])
    for plot in axes:
        plot.spines[["top", "right"]].set_visible(False)
        plot.spines[["left", "bottom"]].set_color(RULE)
        plot.tick_params(colors=FAINT, labelsize=8)
        plot.grid(axis="y", color=RULE, linewidth=0.6)
        plot.set_axisbelow(True)
    return figure, axes


def _opening_colours(names: Iterable[str]) -> list[str]:
    known = {"truth": TRUTH, "generated": GENERATED, "shuffled": CONTROL, "reconstruction": "#8a4fb0"}
    return [known.get(name, SERIES[index % len(SERIES)]) for index, name in enumerate(names)]


def _unit(values: np.ndarray) -> np.ndarray:
    """Scaled to 0 .. 1 within the clip; a flat line is 0."""
    low, high = float(values.min()), float(values.max())
    scaled: np.ndarray = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return scaled


def _write_figure(target: Path, figure: Figure) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    storage.write_bytes(target, buffer.getvalue())
