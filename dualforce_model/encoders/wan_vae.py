"""Video latents by the Wan VAE: 16 channels, stride 4x8x8, causal (the form of Wan 2.2: 48 channels, stride 16).

Legend: b clips at once, T frames, S steps (T = 4(S-1)+1), H W pixels, C channels, h w latent pixels.

A clip passes through the net step by step, frame 0 alone and then four frames at a time, with the last frames of every
convolution's input kept in between: memory does not grow with the clip, and a clip decoded in parts, whatever the
split, equals the same clip decoded at once bit for bit. Latents are the mode of the distribution, not a draw from it,
put to zero mean and unit spread by the numbers of the published config.

Clips of one size go side by side, whatever their lengths: one that is at its end leaves the batch, the others go on. A
picture alone is a clip of one frame.

Latents are stored in 16 bits: at most 2^-11 of a latent's size is lost (from 6e-5 on, below that 3e-8).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from pydantic import Field
from torch import Tensor

from dualforce_model import clock
from dualforce_model.batching import BatchSize, in_like_batches
from dualforce_model.config import Frozen
from dualforce_model.encoders.base import Modality
from dualforce_model.encoders.exact import exact_arithmetic
from dualforce_model.encoders.hub import Form, PublishedConfig, PublishedEncoder, Told
from dualforce_model.pretrained import PRETRAINED, Weights


class WanVaeConfig(PublishedConfig):
    """Settings of the Wan VAE. bf16 moved latents of a small random net by 0.3 % of their spread, fp16 by 0.03 %."""

    batch_clips: int = Field(
        8, ge=1, le=1024, description="clips, or pictures, encoded in one pass of the net; fewer where memory runs out"
    )


class _WanTold(Told):
    """config.json; what is left out has the default of diffusers' class."""

    z_dim: int = Field(16, ge=1, le=256)
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    scale_factor_spatial: int = Field(8, ge=1, le=64)
    patch_size: int | None = Field(None, ge=1, le=16)
    dim_mult: tuple[int, ...] = Field((1, 2, 4, 4), min_length=1, max_length=8)


class WanVae(PublishedEncoder):
    """Frames to latents and back."""

    name: ClassVar[str] = "wan_vae"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "video"
    config_type: ClassVar[type[Frozen]] = WanVaeConfig
    weights: ClassVar[Weights | None] = PRETRAINED["wan_vae"]
    form: ClassVar[Form] = Form("diffusers", "AutoencoderKLWan", ("AutoencoderKLWan",), subfolder="vae")
    unsaid: ClassVar[frozenset[str]] = PublishedEncoder.unsaid | {"batch_clips"}

    def __init__(self, config: WanVaeConfig | None = None) -> None:
        self._config = config or WanVaeConfig()
        super().__init__(self._config)
        told = self.told(_WanTold, self.said)
        self._channels = told.z_dim
        stride = 2 ** (len(told.dim_mult) - 1) * (told.patch_size or 1)
        if told.scale_factor_spatial != stride:
            self._refuse(f"scale_factor_spatial {told.scale_factor_spatial}, but its layers make {stride}")
        if 2 ** sum(told.temperal_downsample) != clock.FRAMES_PER_STEP:
            self._refuse(
                f"temperal_downsample {list(told.temperal_downsample)}: it makes no steps of {clock.FRAMES_PER_STEP} "
                "frames"
            )
        self._stride = stride
        self._batches = {alone: BatchSize(self._config.batch_clips) for alone in (False, True)}

    @property
    def config(self) -> WanVaeConfig:
        """What this codec was built with."""
        return self._config

    @property
    def num_features(self) -> int:
        """Latent channels: 16, or 48 in the form of Wan 2.2."""
        return self._channels

    @property
    def spatial_stride(self) -> int:
        """Pixels of a picture in one latent pixel, along a side: 8, or 16 in the form of Wan 2.2."""
        return self._stride

    def encode(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "S C h w"]:
        """Latents of T = 4k+1 frames whose sides are multiples of the stride. Raises ValueError for other shapes."""
        return self.many([frames])[0]

    def many(self, clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"]]) -> list[Float32[np.ndarray, "_ C _ _"]]:
        """Latents of each clip, as `encode` says them but for rounding; those of one size go through the net together.

        Pictures alone, as clips of one frame, are batches of their own: they need a fraction of the memory.
        """
        for frames in clips:
            self._check_frames(frames)
        found: dict[int, np.ndarray] = {}
        for alone, size in self._batches.items():
            places = [place for place, frames in enumerate(clips) if (len(frames) == 1) is alone]
            said = in_like_batches(
                size, self._together, [clips[place] for place in places], lambda each: each.shape[1:]
            )
            found.update(zip(places, said, strict=True))
        return [found[place] for place in range(len(clips))]

    def encode_image(self, image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "C h w"]:
        """Latent of one picture alone, equal to step 0 of a clip that begins with it."""
        return self.encode(image[None])[0]

    def decode(self, latents: Float32[np.ndarray, "S C h w"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Frames of a whole clip."""
        return self.decoder()(latents)

    def decoder(self) -> "WanDecoder":
        """For latents that come in parts; one per clip."""
        return WanDecoder(self)

    def _check_frames(self, frames: np.ndarray) -> None:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"frames are {frames.dtype} {frames.shape}: expected uint8 [T, H, W, 3]")
        height, width = frames.shape[1:3]
        if height % self._stride or width % self._stride or not height or not width:
            raise ValueError(f"frames of {width}x{height} px: both sides must be multiples of {self._stride}")
        clock.num_steps(len(frames))

    @torch.inference_mode()
    @exact_arithmetic()
    def _together(self, clips: Sequence[UInt8[np.ndarray, "_ H W 3"]]) -> list[Float32[np.ndarray, "_ C h w"]]:
        """Latents of clips of one size. They are taken by length, so that those that go on stay in front."""
        order = sorted(range(len(clips)), key=lambda index: -len(clips[index]))
        steps = [clock.num_steps(len(clips[index])) for index in order]
        found: list[list[np.ndarray]] = [[] for _ in clips]
        kept = _memory(self.net.encoder)
        mean, std = self._normal()
        for step in range(steps[0]):
            going = order[: sum(each > step for each in steps)]
            kept = [each[: len(going)] if isinstance(each, Tensor) else each for each in kept]
            chosen = clock.frames_of_step(step)
            pixels = self._pixels(np.stack([clips[index][chosen.start : chosen.stop] for index in going]))
            hidden = self.net.encoder(pixels, feat_cache=kept, feat_idx=[0])
            mode = self.net.quant_conv(hidden)[:, : self._channels].float()
            for index, latent in zip(going, ((mode - mean) / std)[:, :, 0].cpu().numpy(), strict=True):
                found[index].append(latent)
        return [np.stack(latents) for latents in found]

    def _pixels(self, frames: UInt8[np.ndarray, "b f H W 3"]) -> Tensor:
        """[b, 3, f, H, W] from -1 to 1, folded into patches where the net wants that."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        x = torch.from_numpy(frames).to(self.device).float() / 127.5 - 1.0
        x = x.permute(0, 4, 1, 2, 3).contiguous()
        patch = self.net.config.patch_size
        return (x if patch is None else patchify(x, patch_size=patch)).to(self.dtype)

    def _normal(self) -> tuple[Tensor, Tensor]:
        """Mean and spread of each channel, [C, 1, 1, 1]."""
        config = self.net.config
        mean, std = (torch.tensor(each, device=self.device) for each in (config.latents_mean, config.latents_std))
        return mean.reshape(-1, 1, 1, 1), std.reshape(-1, 1, 1, 1)


class WanDecoder:
    """Frames of one clip as its latents come. What the net has to remember of earlier steps stays on its device."""

    def __init__(self, codec: WanVae) -> None:
        self._codec = codec
        self._kept = _memory(codec.net.decoder)
        self._shape: tuple[int, ...] | None = None  # of a step; none before the first

    @torch.inference_mode()
    @exact_arithmetic()
    def __call__(self, latents: Float32[np.ndarray, "S C h w"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Frames of the next steps: one for the clip's first, four for every other."""
        channels = self._codec.num_features
        if latents.ndim != 4 or latents.shape[1] != channels or not latents.size:
            raise ValueError(f"latents of shape {latents.shape}: expected [S, {channels}, h, w] with S >= 1")
        if self._shape not in (None, latents.shape[1:]):
            raise ValueError(f"latents of shape {latents.shape}, but this clip began with steps of {self._shape}")
        mean, std = self._codec._normal()
        frames = []
        for step in latents:
            z = torch.from_numpy(np.ascontiguousarray(step, np.float32)).to(self._codec.device)[:, None]
            frames.append(self._step((z * std + mean)[None].to(self._codec.dtype)))
            self._shape = step.shape
        return np.concatenate(frames)

    def _step(self, z: Tensor) -> np.ndarray:
        """[1, C, 1, h, w] -> uint8 [f, H, W, 3]."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        net = self._codec.net
        first = self._shape is None
        x = net.decoder(net.post_quant_conv(z), feat_cache=self._kept, feat_idx=[0], first_chunk=first)
        if net.config.patch_size is not None:
            x = unpatchify(x, patch_size=net.config.patch_size)
        rounded = ((x[0].float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
        frames: np.ndarray = rounded.permute(1, 2, 3, 0).cpu().numpy()
        return frames


def _memory(part: Any) -> list[Any]:
    """A place for the last frames of every causal convolution's input, as the net fills them in itself."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    return [None] * sum(isinstance(each, WanCausalConv3d) for each in part.modules())
