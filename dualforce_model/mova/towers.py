"""The two towers of MOVA: diffusers' Wan transformer, entered, advanced block by block, and left.

Legend: b batch, c channels, t latent frames, l tokens, d width, e width of text.
"""

from dataclasses import dataclass
from typing import Self

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from jaxtyping import Float
from torch import Tensor, nn

from dualforce_model.mova.settings import AudioTowerSettings, TowerSettings

LONGEST_VIDEO = 1024  # latent frames; the release has a table of this length
Grid = tuple[int, int, int]  # frames, rows, columns of tokens


class ExactTimesteps(nn.Module):
    """Sinusoid of a timestep, cosines first, in float64: diffusers' float32 is 4e-5 off near t = 1000."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.num_channels = num_channels

    def forward(self, timesteps: Float[Tensor, " b"]) -> Float[Tensor, "b f"]:
        """Float32 features of the timesteps."""
        half = self.num_channels // 2
        exponents = torch.arange(half, dtype=torch.float64, device=timesteps.device) / half
        angles = timesteps.double()[:, None] * 10_000.0**-exponents
        return torch.cat([angles.cos(), angles.sin()], dim=1).float()


class LineRotation(nn.Module):
    """Rotary positions 0, 1, 2, ... over the whole head width, in the place of the 3-D ones."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def forward(self, latents: Float[Tensor, "b c t 1 1"]) -> tuple[Float[Tensor, "1 t 1 k"], Float[Tensor, "1 t 1 k"]]:
        """Cosines and sines of the tokens."""
        positions = torch.arange(latents.shape[2], device=latents.device)
        cos, sin = get_1d_rotary_pos_embed(self.head_dim, positions, use_real=True, freqs_dtype=torch.float64)
        return cos[None, :, None], sin[None, :, None]


@dataclass
class Stream:
    """Tokens on their way through a tower."""

    x: Float[Tensor, "b l d"]
    text: Float[Tensor, "b k d"]
    embedded: Float[Tensor, "b d"]
    modulation: Float[Tensor, "b 6 d"]
    rotary: tuple[Tensor, Tensor]
    grid: Grid


class MovaTower(WanTransformer3DModel):
    """`WanTransformer3DModel`, its forward cut into three so that a bridge can run between blocks."""

    @classmethod
    def of_video(cls, settings: TowerSettings) -> Self:
        """Tower over video latents."""
        tower: Self = cls(patch_size=settings.patch_size, **_sizes(settings))
        tower.condition_embedder.timesteps_proj = ExactTimesteps(settings.freq_dim)
        with torch.device("cpu"):  # the table is no parameter: it must not stay on the meta device
            tower.rope = WanRotaryPosEmbed(settings.head_dim, settings.patch_size, LONGEST_VIDEO)
        return tower

    @classmethod
    def of_audio(cls, settings: AudioTowerSettings) -> Self:
        """Tower over audio latents, which it takes as videos of one pixel."""
        tower: Self = cls(patch_size=(1, 1, 1), **_sizes(settings))
        tower.condition_embedder.timesteps_proj = ExactTimesteps(settings.freq_dim)
        tower.rope = LineRotation(settings.head_dim)
        return tower

    def enter(self, latents: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], text: Tensor) -> Stream:
        """Tokens, rotary positions, and one modulation per sample. The timestep stays float32 up to the sinusoid."""
        _, rows, columns = self.config.patch_size
        grid = (latents.shape[2], latents.shape[3] // rows, latents.shape[4] // columns)
        dtype = self.patch_embedding.weight.dtype
        rotary = self.rope(latents)
        x = self.patch_embedding(latents.to(dtype)).flatten(2).transpose(1, 2).contiguous()
        embedded, modulation, told, _ = self.condition_embedder(timestep.float(), text.to(dtype))
        return Stream(x, told, embedded, modulation.unflatten(1, (6, -1)), rotary, grid)

    def advance(self, layer: int, stream: Stream) -> None:
        """Run one block over the stream's tokens."""
        stream.x = self.blocks[layer](stream.x, stream.text, stream.modulation, stream.rotary)

    def leave(self, stream: Stream) -> Float[Tensor, "b c t h w"]:
        """Velocity of the latents."""
        shift, scale = (self.scale_shift_table.float() + stream.embedded[:, None].float()).chunk(2, dim=1)
        normed = (self.norm_out(stream.x.float()) * (1 + scale) + shift).type_as(stream.x)
        patches = self.proj_out(normed).unflatten(1, stream.grid).unflatten(-1, (*self.config.patch_size, -1))
        out: Tensor = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return out


def _sizes(settings: TowerSettings | AudioTowerSettings) -> dict[str, int | float]:
    """A checkpoint's words in diffusers' words."""
    return {
        "num_attention_heads": settings.num_heads,
        "attention_head_dim": settings.head_dim,
        "in_channels": settings.in_dim,
        "out_channels": settings.out_dim,
        "text_dim": settings.text_dim,
        "freq_dim": settings.freq_dim,
        "ffn_dim": settings.ffn_dim,
        "num_layers": settings.num_layers,
        "eps": settings.eps,
    }
