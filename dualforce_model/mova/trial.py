"""One real run of a checkpoint: a short video with sound, written and read back, and what it took."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from pydantic import Field
from torch.nn.functional import interpolate

from dualforce_model import media
from dualforce_model.config import Frozen
from dualforce_model.mova.checkpoint import MovaCheckpoint
from dualforce_model.mova.inference import Machine, MovaRequest, generate
from dualforce_model.mova.prompts import Prompts

Picture = UInt8[np.ndarray, "h w 3"]


class TrialReport(Frozen):
    """What came out of a run."""

    video: str = Field(description="the MP4")
    device: str = Field(description="where the towers ran, and in which type")
    num_frames: int = Field(ge=1, description="frames in the file")
    height_px: int = Field(ge=1, description="rows")
    width_px: int = Field(ge=1, description="columns")
    sound_s: float = Field(ge=0, description="seconds of sound in the file")
    num_steps: int = Field(ge=1, description="Euler steps")
    high_noise_steps: int = Field(ge=0, description="steps of video_dit; the others are video_dit_2's")
    wall_s: float = Field(ge=0, description="seconds in all")
    peak_gpu_bytes: int | None = Field(None, ge=0, description="most memory on the GPU; null without one")

    def text(self) -> str:
        """For people."""
        memory = "" if self.peak_gpu_bytes is None else f", at most {self.peak_gpu_bytes / 1e9:.1f} GB on the GPU"
        return (
            f"{self.video}: {self.num_frames} frames of {self.height_px}x{self.width_px}, {self.sound_s:.2f} s sound; "
            f"{self.high_noise_steps} steps of video_dit, {self.num_steps - self.high_noise_steps} of video_dit_2; "
            f"{self.wall_s:.1f} s on {self.device}{memory}"
        )


def trial(
    checkpoint: MovaCheckpoint,
    request: MovaRequest,
    output: Path,
    picture: Picture | None = None,
    prompts: Prompts | None = None,
    machine: Machine = Machine(),  # noqa: B008  frozen
    progress: Callable[[str], None] = lambda line: None,
) -> TrialReport:
    """Generate, write, and read back. Without a picture, a test card; without prompts, guidance does nothing."""
    on_gpu = machine.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(machine.device)
    start = time.monotonic()
    sides = (request.height_px, request.width_px)
    first = colour_card(*sides) if picture is None else fitted(picture, *sides)
    made = generate(checkpoint, request, first, prompts, machine, progress)
    made.write(output)
    wall_s = time.monotonic() - start
    found = media.probe(output)
    return TrialReport(
        video=str(output),
        device=f"{machine.device} in {str(machine.dtype).removeprefix('torch.')}",
        num_frames=found.num_frames,
        height_px=found.height_px,
        width_px=found.width_px,
        sound_s=found.sound_duration_s,
        num_steps=request.num_steps,
        high_noise_steps=made.switched_at,
        wall_s=wall_s,
        peak_gpu_bytes=torch.cuda.max_memory_allocated(machine.device) if on_gpu else None,
    )


def colour_card(height_px: int, width_px: int) -> Picture:
    """Colour ramps with a grey disc: something that a decoder cannot invent."""
    rows, columns = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    card = np.stack([255 * columns / width_px, 255 * rows / height_px, 255 * (1 - columns / width_px)], axis=-1)
    radius = min(height_px, width_px) / 4
    card[(rows - height_px / 2) ** 2 + (columns - width_px / 2) ** 2 < radius**2] = 128
    return card.astype(np.uint8)


def fitted(picture: Picture, height_px: int, width_px: int) -> Picture:
    """The middle of a picture at another size, its proportions kept."""
    height, width = picture.shape[:2]
    scale = min(height / height_px, width / width_px)
    rows, columns = max(1, round(height_px * scale)), max(1, round(width_px * scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    part = torch.from_numpy(picture[top : top + rows, left : left + columns].copy()).permute(2, 0, 1)[None].float()
    sized = interpolate(part, size=(height_px, width_px), mode="bicubic", antialias=True, align_corners=False)
    out: np.ndarray = sized[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return out
