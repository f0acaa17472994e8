"""MOVA's two-stage inference: picture and words in, video with sound out.

Components are loaded when their turn comes and let go after it: text encoder, video VAE, then audio tower, bridge and
one video expert at a time (`video_dit` above the boundary level, `video_dit_2` below), then both decoders.
Legend: b batch (1), c channels, t latent frames, k audio latents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float, UInt8
from pydantic import Field, model_validator
from torch import Tensor, nn

from dualforce_model import media
from dualforce_model.config import Frozen
from dualforce_model.errors import InputError
from dualforce_model.mova.checkpoint import MovaCheckpoint
from dualforce_model.mova.prompts import Prompts
from dualforce_model.mova.schedule import PairSchedule
from dualforce_model.mova.settings import PATCH_PX, STRIDE_FRAMES, STRIDE_PX, SoundVaeSettings, VideoVaeSettings
from dualforce_model.mova.step import DualTower, Latents, guided

MASK_CHANNELS = 4  # one per pixel frame of a latent frame
EXPERTS = ("video_dit", "video_dit_2")  # above and below the boundary
CPU = torch.device("cpu")
Progress = Callable[[str], None]


class MovaRequest(Frozen):
    """What to make. The defaults are the release's own, but for the height: its code says 360, which it refuses."""

    height_px: int = Field(352, ge=16, le=2048, multiple_of=STRIDE_PX * PATCH_PX, description="rows of the video")
    width_px: int = Field(640, ge=16, le=2048, multiple_of=STRIDE_PX * PATCH_PX, description="columns of the video")
    num_frames: int = Field(193, ge=5, le=4093, description="frames; a multiple of 4, plus 1")
    fps: int = Field(24, ge=1, le=120, description="frames per second")
    num_steps: int = Field(50, ge=1, le=1000, description="Euler steps")
    guidance: float = Field(5.0, ge=1, le=50, description="away from the negative prompt; 1: one branch only")
    seed: int = Field(42, ge=0, lt=2**63, description="of the noise")

    @model_validator(mode="after")
    def _whole_latents(self) -> "MovaRequest":
        if self.num_frames % STRIDE_FRAMES != 1:
            raise ValueError(f"num_frames {self.num_frames}: the video VAE wants a multiple of {STRIDE_FRAMES}, plus 1")
        return self


@dataclass(frozen=True)
class Generated:
    """A video and its sound."""

    frames: UInt8[np.ndarray, "f h w 3"]
    sound: Float[np.ndarray, " n"]
    fps: int
    rate_hz: int
    switched_at: int  # the first step of the low-noise expert

    def write(self, path: Path) -> None:
        """MP4 with sound."""
        media.write_video(path, self.frames, self.sound, fps=self.fps, rate_hz=self.rate_hz)


@dataclass(frozen=True)
class Machine:
    """Where and how exactly the towers run; both VAEs always run in float32."""

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32


@torch.no_grad()
def generate(
    checkpoint: MovaCheckpoint,
    request: MovaRequest,
    image: UInt8[np.ndarray, "h w 3"],
    prompts: Prompts | None = None,
    machine: Machine = Machine(),
    progress: Progress = lambda line: None,
) -> Generated:
    """A video that starts with `image` (of the requested size), with the sound that belongs to it."""
    if image.shape != (request.height_px, request.width_px, 3):
        raise InputError(f"a picture of {image.shape}, but the video is {request.height_px}x{request.width_px}x3")
    width = checkpoint.settings("video_dit").text_dim
    prompts = Prompts.none(width) if prompts is None else prompts
    progress("encoding the picture")
    condition = first_frame_condition(checkpoint, request, image, machine)
    schedule = PairSchedule.equal(checkpoint.settings("scheduler"), request.num_steps)
    start = noise(checkpoint, request, machine)
    latents = denoise(checkpoint, request, schedule, start, condition, prompts, machine, progress)
    progress("decoding the video")
    frames = decode_video(checkpoint, latents.video, machine)
    progress("decoding the sound")
    sound = decode_sound(checkpoint, latents.audio, machine)
    sound_settings = checkpoint.settings("audio_vae")
    num_samples = request.num_frames * sound_settings.sample_rate // request.fps
    switched_at = schedule.switch(checkpoint.index.boundary_ratio)
    return Generated(frames, sound[:num_samples], request.fps, sound_settings.sample_rate, switched_at)


def denoise(
    checkpoint: MovaCheckpoint,
    request: MovaRequest,
    schedule: PairSchedule,
    x: Latents,
    condition: Float[Tensor, "b c t h w"],
    prompts: Prompts,
    machine: Machine,
    progress: Progress,
) -> Latents:
    """From noise `x` to clean latents, in float32; the experts change once, at the boundary."""
    switch = schedule.switch(checkpoint.index.boundary_ratio)
    audio = checkpoint.load("audio_dit", machine.dtype, machine.device)
    bridge = checkpoint.load("dual_tower_bridge", machine.dtype, machine.device)
    branches = [prompts.positive] if request.guidance == 1 else [prompts.positive, prompts.negative]
    for expert, steps in zip(EXPERTS, (range(switch), range(switch, schedule.num_steps)), strict=True):
        if not steps:
            continue
        progress(f"{expert}: loading")
        model = DualTower(checkpoint.load(expert, machine.dtype, machine.device), audio, bridge)
        for step in steps:
            progress(f"{expert}: step {step + 1} of {schedule.num_steps}")
            times = schedule.timesteps[step].to(machine.device)
            channels = torch.cat([x.video, condition], dim=1)
            told = [
                model.velocities(channels, x.audio, (times[:1], times[1:]), text.to(machine.device), request.fps)
                for text in branches
            ]
            velocity = told[0] if len(told) == 1 else guided(told[0], told[1], request.guidance)
            x = Latents(*schedule.advance(step, (x.video, velocity.video), (x.audio, velocity.audio)))
        del model  # before the other expert comes
    return x


def noise(checkpoint: MovaCheckpoint, request: MovaRequest, machine: Machine) -> Latents:
    """Where a seed starts: drawn on the CPU, video first, so that every machine starts alike."""
    generator = torch.Generator().manual_seed(request.seed)
    shapes = latent_shapes(request, checkpoint.settings("video_vae"), checkpoint.settings("audio_vae"))
    video, audio = (torch.randn(shape, generator=generator) for shape in shapes)
    return Latents(video.to(machine.device), audio.to(machine.device))


def latent_shapes(
    request: MovaRequest, pictures: VideoVaeSettings, sound: SoundVaeSettings
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the latents of a video, [b, c, t, h, w], and of its sound, [b, c, k]."""
    frames = (request.num_frames - 1) // STRIDE_FRAMES + 1
    sides = (request.height_px // STRIDE_PX, request.width_px // STRIDE_PX)
    num_samples = request.num_frames * sound.sample_rate // request.fps
    return (1, pictures.z_dim, frames, *sides), (1, sound.latent_dim, -(-num_samples // sound.hop))


def first_frame_condition(
    checkpoint: MovaCheckpoint, request: MovaRequest, image: UInt8[np.ndarray, "h w 3"], machine: Machine
) -> Float[Tensor, "b c t h w"]:
    """Mask (first latent frame only) and latents of a video that is the picture, then grey."""
    vae: AutoencoderKLWan = checkpoint.load("video_vae", torch.float32, machine.device)
    picture = torch.from_numpy(image).permute(2, 0, 1).float().to(machine.device) / 127.5 - 1
    still = picture.new_zeros(1, 3, request.num_frames, *picture.shape[1:])
    still[:, :, 0] = picture
    mean, std = spread(checkpoint.settings("video_vae"), machine)
    latents = (vae.encode(still).latent_dist.mode() - mean) / std
    mask = latents.new_zeros(1, MASK_CHANNELS, *latents.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat([mask, latents], dim=1)


def decode_video(
    checkpoint: MovaCheckpoint, latents: Float[Tensor, "b c t h w"], machine: Machine
) -> UInt8[np.ndarray, "f h w 3"]:
    """Frames of normalised latents."""
    vae: AutoencoderKLWan = checkpoint.load("video_vae", torch.float32, machine.device)
    mean, std = spread(checkpoint.settings("video_vae"), machine)
    decoded = vae.decode(latents.float() * std + mean).sample[0]
    frames: np.ndarray = pixels(decoded).cpu().numpy()
    return frames


def pixels(decoded: Float[Tensor, "3 f h w"]) -> UInt8[Tensor, "f h w 3"]:
    """Bytes of levels in [-1, 1]."""
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0)


def decode_sound(
    checkpoint: MovaCheckpoint, latents: Float[Tensor, "b c k"], machine: Machine
) -> Float[np.ndarray, " n"]:
    """Samples of audio latents, which are used as they are."""
    vae: nn.Module = checkpoint.load("audio_vae", torch.float32, machine.device)
    samples: np.ndarray = vae.decode(latents.float())[0, 0].cpu().numpy()
    return samples


def spread(settings: VideoVaeSettings, machine: Machine) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the video VAE's latents, per channel."""
    mean, std = (
        torch.tensor(values, device=machine.device).view(1, -1, 1, 1, 1)
        for values in (settings.latents_mean, settings.latents_std)
    )
    return mean, std
