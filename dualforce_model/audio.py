"""Sound drives both towers: gated cross-attention of every token to the audio around its own pixel frames.

Audio of steps t - past_steps .. t + look_ahead_steps reaches step t, nothing else. Lips follow the sound to the frame
only if a frame knows which tokens are its own. So the window is first read once per pixel frame, by the same weights,
with the frame's own two tokens always in the same place of the input; absent tokens (before the clip, behind the
window, masked) are one learned vector. A structure token attends to the frames of its step by time; a video latent,
which holds four frames at once, attends to four mixtures that keep the frames apart.

Legend: b batch, s steps, a features of a token, w steps of a window, c width of a slot, d width of a context token.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from diffusers.models.normalization import FP32LayerNorm
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from dualforce_model.bridge import same_step_attention
from dualforce_model.clock import FRAMES_PER_STEP, SLOTS_PER_STEP, TOKENS_PER_FRAME
from dualforce_model.config import Frozen
from dualforce_model.layers.rotary import offset_rotation
from dualforce_model.towers import StructureTower, TowerConfig

THETA = 100.0  # offsets are a few frames: most pairs of a head must turn visibly within them
MARGIN = SLOTS_PER_STEP - TOKENS_PER_FRAME  # slots by which the windows of a step's first and last frame differ
GATE_SPEED = 10.0  # Adam moves every number alike, and a closed gate has far to go while nothing behind it learns
FAST, FOCUS = 4, 4.0  # numbers of a head that turn fastest, and how far they outweigh the content at the start
NOWHERE = -(1 << 40)  # position of audio that is not there


class AudioConfig(Frozen):
    """What is heard, and by which layers."""

    features: int = Field(40, ge=1, description="numbers per audio token")
    layers: int = Field(3, ge=1, le=100, description="layers of both towers that listen, from the first on")
    past_steps: int = Field(1, ge=0, le=8, description="steps of sound before a step that reach it")
    look_ahead_steps: int = Field(
        0, ge=0, le=8, description="steps of sound after a step that reach it: 160 ms of latency each"
    )
    slot_dim: int = Field(
        24, ge=4, description="width to which an audio token is reduced before a frame's window is read"
    )
    context_dim: int = Field(64, ge=8, description="width of the tokens that the towers attend to")


class AudioContext(NamedTuple):
    """What the towers attend to: four tokens per step, one per pixel frame, and for video mixtures of them."""

    frames: Float[Tensor, "b s 4 d"]
    mixed: Float[Tensor, "b s 4 d"]


class AudioEncoder(nn.Module):
    """Audio tokens of a window of steps -> one token per pixel frame."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.past_steps, self.look_ahead_steps = config.past_steps, config.look_ahead_steps
        self.window_steps = config.past_steps + 1 + config.look_ahead_steps
        self.frame_slots = SLOTS_PER_STEP * self.window_steps + MARGIN
        slot, width = config.slot_dim, config.context_dim
        self.slot = nn.Linear(config.features, slot)
        self.absent = nn.Parameter(torch.zeros(slot))
        self.frame = nn.Sequential(nn.Linear(self.frame_slots * slot, width), nn.GELU(), nn.Linear(width, width))
        self.frame_norm = FP32LayerNorm(width)
        self.mix = nn.Linear(FRAMES_PER_STEP * width, FRAMES_PER_STEP * width)
        self.mix_norm = FP32LayerNorm(width)

    def forward(
        self,
        audio: Float[Tensor, "b p 8 a"],
        valid: Bool[Tensor, "b p 8"],
        positions: Int[Tensor, "b p"],
        first: int,
        num_steps: int,
    ) -> AudioContext:
        """Context of steps first .. first + num_steps - 1 of the given audio; the rest is their past and future."""
        slots, heard = self._windows(self.slot(audio), valid, positions, first, num_steps)
        slots = torch.where(heard[..., None], slots, self.absent.to(slots.dtype))
        per_frame = slots.unfold(2, self.frame_slots, TOKENS_PER_FRAME).flatten(3)
        frames = self.frame_norm(self.frame(per_frame))
        mixed = self.mix_norm(self.mix(frames.flatten(2)).unflatten(2, (FRAMES_PER_STEP, -1)))
        return AudioContext(frames, mixed)

    def _windows(
        self, slots: Float[Tensor, "b p 8 c"], valid: Tensor, positions: Tensor, first: int, num_steps: int
    ) -> tuple[Float[Tensor, "b s l c"], Bool[Tensor, "b s l"]]:
        """Slots of each step's window with a margin at both ends, and which of them may be heard."""
        num_before, num_after = self.past_steps - first, first + num_steps + self.look_ahead_steps - slots.shape[1]
        pad = nn.functional.pad
        slots = pad(slots, (0, 0, 0, 0, num_before, num_after))  # negative where more was given than is reached
        valid = pad(valid, (0, 0, num_before, num_after))
        positions = pad(positions, (num_before, num_after), value=NOWHERE)
        windows = slots.unfold(1, self.window_steps, 1).permute(0, 1, 4, 2, 3).flatten(2, 3)
        heard = valid.unfold(1, self.window_steps, 1).transpose(2, 3)
        held = positions.unfold(1, self.window_steps, 1)
        distance = torch.arange(self.window_steps, device=positions.device) - self.past_steps
        # A training window follows the reference by a jump: what stands before it in the batch is not its past.
        in_place = held == held[:, :, self.past_steps, None] + distance
        heard = (heard & in_place[..., None]).flatten(2, 3)
        return pad(windows, (0, 0, MARGIN, MARGIN)), pad(heard, (MARGIN, MARGIN))


class AudioAttention(nn.Module):
    """One layer of one tower listening: x + gate * attention(norm(x), context). The gate is exactly 0 at the start."""

    def __init__(self, dim: int, heads: int, context_dim: int, per_frame: bool) -> None:
        """`per_frame`: the tower's tokens stand at the times of their pixel frames."""
        super().__init__()
        self.per_frame = per_frame
        self.norm = FP32LayerNorm(dim, eps=1e-6)
        self.attn = same_step_attention(dim, context_dim, heads)
        self.gate = nn.Parameter(torch.zeros(dim))

    @torch.no_grad()
    def look_at_own_frame(self) -> None:
        """Let attention start at the token's own time: the fastest pairs of queries and keys agree there."""
        for linear in (self.attn.to_q, self.attn.to_k):
            linear.bias.view(self.attn.heads, -1)[:, :FAST] = FOCUS

    def forward(
        self, x: Float[Tensor, "b s n d"], context: AudioContext, steps: tuple[int, ...]
    ) -> Float[Tensor, "b s n d"]:
        """Tokens of each step after listening to their step's context."""
        dim, device = self.attn.head_dim, x.device
        own_time = offset_rotation(steps, dim, device, THETA, tokens=x.shape[2]) if self.per_frame else None
        heard = self.attn(
            self.norm(x),
            context.frames if self.per_frame else context.mixed,
            query_rotary_emb=own_time,
            key_rotary_emb=offset_rotation(steps, dim, device, THETA),
        )
        return (x.float() + GATE_SPEED * self.gate.float() * heard.float()).type_as(x)


class Listening(nn.Module):
    """The encoder, and the listening layers of the towers."""

    def __init__(self, config: AudioConfig, towers: Mapping[str, TowerConfig]) -> None:
        super().__init__()
        self.gradient_checkpointing = False  # diffusers' `enable_gradient_checkpointing` looks for it
        self.encoder = AudioEncoder(config)
        self.towers = nn.ModuleDict({name: _layers(config, name, tower) for name, tower in towers.items()})

    def initialise(self) -> None:
        """Start of a training from scratch: Xavier, closed gates."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():  # after the linears that it consists of
            if isinstance(module, AudioAttention) and module.per_frame:
                module.look_at_own_frame()

    def forward(
        self, tower: str, layer: int, x: Float[Tensor, "b s n d"], context: AudioContext, steps: tuple[int, ...]
    ) -> Float[Tensor, "b s n d"]:
        """Listen in one layer of a tower; deeper layers leave the tokens as they are."""
        layers = self.towers[tower]
        if layer >= len(layers):
            return x
        heard: Tensor
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            heard = self._gradient_checkpointing_func(layers[layer], x, context, steps)
        else:
            heard = layers[layer](x, context, steps)
        return heard


def _layers(config: AudioConfig, name: str, tower: TowerConfig) -> nn.ModuleList:
    num_layers = min(config.layers, tower.layers)
    return nn.ModuleList(
        AudioAttention(tower.dim, tower.heads, config.context_dim, per_frame=name == StructureTower.name)
        for _ in range(num_layers)
    )
