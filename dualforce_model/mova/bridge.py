"""The bridge of MOVA: in chosen layers each tower attends to all of the other, at positions that are times.

Runs before a layer's two blocks; both directions read the states before either is updated. No gate, no norm of the
query side. Positions count the audio tower's tokens. Legend: b batch, l video tokens, k audio tokens, d, e widths.
"""

from dataclasses import dataclass

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_ltx2 import LTX2Attention
from jaxtyping import Float
from torch import Tensor, nn

from dualforce_model.bridge import BridgeConfig
from dualforce_model.mova.settings import BridgeSettings
from dualforce_model.mova.towers import Grid

FRAMES_PER_LATENT = 4  # the video VAE's stride in time
CUSTOM_LAYERS = (0, 2, 4, 6, 8, 12, 16, 20)  # what the release means by "custom"
CPU = torch.device("cpu")
Turn = tuple[Float[Tensor, "1 1 l r"], Float[Tensor, "1 1 l r"]]


@dataclass(frozen=True)
class Turns:
    """Rotary tables of both sides, the same for every head; None without positions."""

    video: Turn | None
    audio: Turn | None


def video_positions(num_frames: int, video_fps: float, audio_fps: float, first_frame_bias: bool) -> Tensor:
    """Position of each latent frame, in audio tokens. float32 [num_frames].

    With the bias the first latent frame is one pixel frame long and the others start after it; without it they lie
    three pixel frames late.
    """
    index = torch.arange(num_frames, dtype=torch.float32)
    if not first_frame_bias:
        return index * (audio_fps * FRAMES_PER_LATENT / video_fps)
    seconds = 1 / video_fps + (index - 1) * (FRAMES_PER_LATENT / video_fps)  # rounds as upstream does
    return torch.where(index > 0, seconds, 0.0) * audio_fps


def table(positions: Float[Tensor, " l"], head_dim: int) -> Turn:
    """Cosines and sines for split-half rotation."""
    cos, sin = get_1d_rotary_pos_embed(head_dim, positions, use_real=True, repeat_interleave_real=False)
    half = head_dim // 2
    return cos[None, None, :, :half], sin[None, None, :, :half]


class Conditioner(nn.Module):
    """One direction of one layer: tokens of one tower attend to the normed tokens of the other."""

    def __init__(self, dim: int, other_dim: int, head_dim: int) -> None:
        super().__init__()
        heads = dim // head_dim
        self.y_norm = nn.LayerNorm(other_dim, eps=1e-6)
        self.inner = LTX2Attention(dim, heads, heads, head_dim, cross_attention_dim=other_dim, rope_type="split")

    def forward(
        self, x: Float[Tensor, "b l d"], other: Float[Tensor, "b k e"], turn: Turn | None, other_turn: Turn | None
    ) -> Float[Tensor, "b l d"]:
        """What x is told; not added yet."""
        told: Tensor = self.inner(
            x,
            encoder_hidden_states=self.y_norm(other),
            query_rotary_emb=self._per_head(x, turn),
            key_rotary_emb=self._per_head(other, other_turn),
        )
        return told

    def _per_head(self, x: Tensor, turn: Turn | None) -> Turn | None:
        """diffusers wants the tables at full shape [b, heads, l, r]."""
        if turn is None:
            return None
        cos, sin = (part.expand(x.shape[0], self.inner.heads, -1, -1) for part in turn)
        return cos, sin


class MovaBridge(nn.Module):
    """All layers of the bridge, under upstream's parameter names but for the attention's own."""

    def __init__(self, settings: BridgeSettings) -> None:
        super().__init__()
        self.settings = settings
        video, audio, width = settings.visual_hidden_dim, settings.audio_hidden_dim, settings.head_dim
        self.layers = interacting_layers(settings)
        self.audio_to_video_conditioners = nn.ModuleDict(
            {str(layer): Conditioner(video, audio, width) for layer in self.layers}
        )
        self.video_to_audio_conditioners = nn.ModuleDict(
            {str(layer): Conditioner(audio, video, width) for layer in self.layers}
        )

    def turns(self, grid: Grid, num_audio: int, video_fps: float, device: torch.device = CPU) -> Turns:
        """Rotary tables for a video of `grid` tokens beside `num_audio` audio tokens; one for all layers."""
        settings = self.settings
        if not settings.apply_cross_rope:
            return Turns(None, None)
        frames, rows, columns = grid
        per_frame = video_positions(frames, video_fps, settings.audio_fps, settings.apply_first_frame_bias_in_rope)
        return Turns(
            table(per_frame.repeat_interleave(rows * columns).to(device), settings.head_dim),
            table(torch.arange(num_audio, dtype=torch.float32, device=device), settings.head_dim),
        )

    def forward(
        self, layer: int, video: Float[Tensor, "b l d"], audio: Float[Tensor, "b k e"], turns: Turns,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b k e"]]:  # fmt: skip
        """Both sides after the exchange; layers without one leave them as they are. `scales`: of video, of audio."""
        if layer not in self.layers:
            return video, audio
        to_video = self.audio_to_video_conditioners[str(layer)](video, audio, turns.video, turns.audio)
        to_audio = self.video_to_audio_conditioners[str(layer)](audio, video, turns.audio, turns.video)
        return video + scales[0] * to_video, audio + scales[1] * to_audio


def interacting_layers(settings: BridgeSettings) -> tuple[int, ...]:
    """Layers that exchange, by the strategy, of the layers that both towers have."""
    custom = CUSTOM_LAYERS if settings.interaction_strategy == "custom" else ()
    chosen = BridgeConfig(strategy=settings.interaction_strategy, depth=None, layers=custom)
    return chosen.bridged(min(settings.visual_layers, settings.audio_layers))
