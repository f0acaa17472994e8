"""The bridge: video and structure tokens of the same step look at each other, in chosen layers, both ways.

Same step means a reshape: no mask, no cache, no leak of time. Both directions read the states before either is updated.
Structure stands at its frame's time, video at the centre of its group; both noise levels steer norms and gates, and the
gates start at exactly 0. Legend: b batch, s steps, n video tokens per step, f structure tokens per step, d widths.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_ltx2 import LTX2Attention
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dualforce_model.config import Frozen
from dualforce_model.layers.modulation import add_gated, modulate
from dualforce_model.layers.norms import with_own_norms
from dualforce_model.layers.rotary import Rotation, offset_rotation, rotate

Turned = Literal["query_rotary_emb", "key_rotary_emb"]
Strategy = Literal["shallow_focus", "distributed", "progressive", "custom", "full"]


class BridgeConfig(Frozen):
    """Where and how the towers exchange."""

    strategy: Strategy = Field("shallow_focus", description="which layers exchange")
    depth: int | None = Field(
        2, ge=1, le=100, description="shallow_focus: number of layers from the first on; null: a third, at most 10"
    )
    layers: tuple[int, ...] = Field((), description="custom: the layers, from 0")
    direction: Literal["both", "video_to_structure", "structure_to_video"] = Field("both", description="who is told")
    condition_dim: int = Field(32, ge=8, description="width in which the two noise levels meet")

    @model_validator(mode="after")
    def _custom_names_layers(self) -> "BridgeConfig":
        if (self.strategy == "custom") != bool(self.layers):
            raise ValueError(
                f"strategy {self.strategy!r} with layers {self.layers}: custom, and only custom, lists layers"
            )
        return self

    def bridged(self, num_layers: int) -> tuple[int, ...]:
        """The layers that exchange, of the `num_layers` that both towers have."""
        chosen: Iterable[int]
        match self.strategy:
            case "shallow_focus":
                chosen = range(self.depth if self.depth is not None else min(10, num_layers // 3))
            case "distributed":
                chosen = range(0, num_layers, 3)
            case "progressive":
                chosen = (*range(8), *range(8, num_layers, 3))
            case "full":
                chosen = range(num_layers)
            case "custom":
                chosen = self.layers
        return tuple(layer for layer in chosen if layer < num_layers)


class SameStepProcessor:
    """Attention processor of `LTX2Attention`: tokens of a step attend to the other tokens of the same step."""

    _attention_backend: AttentionBackendName | None = None
    _parallel_config = None

    def __call__(
        self,
        attn: LTX2Attention,
        hidden_states: Float[Tensor, "b s n d"],
        encoder_hidden_states: Float[Tensor, "b s f e"],
        attention_mask: Tensor | None = None,
        query_rotary_emb: Rotation | None = None,
        key_rotary_emb: Rotation | None = None,
    ) -> Float[Tensor, "b s n d"]:
        query = self._turn(attn, attn.norm_q(attn.to_q(hidden_states)), query_rotary_emb)
        key = self._turn(attn, attn.norm_k(attn.to_k(encoder_hidden_states)), key_rotary_emb)
        value = self._turn(attn, attn.to_v(encoder_hidden_states), None)
        attended = dispatch_attention_fn(
            query, key, value, backend=self._attention_backend or AttentionBackendName.NATIVE
        )
        out: Tensor = attn.to_out[1](attn.to_out[0](attended.flatten(2).unflatten(0, hidden_states.shape[:2])))
        return out

    @staticmethod
    def _turn(attn: LTX2Attention, x: Float[Tensor, "b s n d"], by: Rotation | None) -> Float[Tensor, "bs n h k"]:
        """Heads, turned; every step its own batch entry."""
        heads = x.unflatten(-1, (attn.heads, -1))
        turned = heads if by is None else rotate(heads.flatten(1, 2), by).view_as(heads)
        return turned.flatten(0, 1)


def same_step_attention(dim: int, other_dim: int, heads: int) -> LTX2Attention:
    """Cross-attention of tokens of width `dim` to same-step tokens of width `other_dim`."""
    attn = LTX2Attention(dim, heads, heads, dim // heads, cross_attention_dim=other_dim, processor=SameStepProcessor())
    with_own_norms(attn)
    return attn


class OneWay(nn.Module):
    """One direction of one layer: `x` is told about `other`. The gate is exactly 0 at the start."""

    def __init__(self, dim: int, heads: int, other_dim: int, condition_dim: int, turned: Turned) -> None:
        """`turned` is the side that holds structure: its frames stand off the centre of the step."""
        super().__init__()
        self.turned = turned
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.other_norm = nn.LayerNorm(other_dim, elementwise_affine=False, eps=1e-6)
        self.attn = same_step_attention(dim, other_dim, heads)
        self.modulation = nn.Linear(condition_dim, 3 * dim + 2 * other_dim)
        self._widths = (dim, dim, dim, other_dim, other_dim)

    def initialise(self) -> None:
        """Closed gate, plain norms."""
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Float[Tensor, "b s n d"],
        other: Float[Tensor, "b s f e"],
        condition: Float[Tensor, "b s k"],
        steps: tuple[int, ...],
    ) -> Float[Tensor, "b s n d"]:
        """x + gate * attention(x, other)."""
        turn = offset_rotation(steps, self.attn.head_dim, x.device)
        shift, scale, gate, other_shift, other_scale = self.modulation(condition).float().split(self._widths, dim=-1)
        query, key = modulate(self.norm, x, shift, scale), modulate(self.other_norm, other, other_shift, other_scale)
        return add_gated(x, self.attn(query, key, **{self.turned: turn}), gate)


class Exchange(nn.Module):
    """One layer of the bridge."""

    def __init__(self, config: BridgeConfig, video: tuple[int, int], structure: tuple[int, int]) -> None:
        super().__init__()
        width = config.condition_dim
        to_video, to_structure = config.direction != "video_to_structure", config.direction != "structure_to_video"
        self.to_video = OneWay(*video, structure[0], width, "key_rotary_emb") if to_video else None
        self.to_structure = OneWay(*structure, video[0], width, "query_rotary_emb") if to_structure else None

    def forward(
        self,
        video: Float[Tensor, "b s n d"],
        structure: Float[Tensor, "b s f e"],
        condition: Float[Tensor, "b s k"],
        steps: tuple[int, ...],
    ) -> tuple[Float[Tensor, "b s n d"], Float[Tensor, "b s f e"]]:
        """Both sides after the exchange; each read the other as it was before."""
        told_video = video if self.to_video is None else self.to_video(video, structure, condition, steps)
        told = structure if self.to_structure is None else self.to_structure(structure, video, condition, steps)
        return told_video, told


class Bridge(nn.Module):
    """All exchanging layers, and the width in which the two noise levels meet."""

    def __init__(
        self, config: BridgeConfig, num_layers: int, video: tuple[int, int], structure: tuple[int, int]
    ) -> None:
        """`video` and `structure` are (width, heads) of the towers, `num_layers` the layers that both have."""
        super().__init__()
        self.condition = nn.Linear(video[0] + structure[0], config.condition_dim)
        self.exchanges = nn.ModuleDict(
            {str(layer): Exchange(config, video, structure) for layer in config.bridged(num_layers)}
        )

    def initialise(self) -> None:
        """Start of a training from scratch: the towers do not know of each other."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, OneWay):
                module.initialise()

    def meet(self, video: Float[Tensor, "b s d"], structure: Float[Tensor, "b s e"]) -> Float[Tensor, "b s k"]:
        """One condition per step out of both sides' embedded noise levels."""
        return nn.functional.silu(self.condition(nn.functional.silu(torch.cat([video, structure], dim=-1))))

    def bridges(self, layer: int) -> bool:
        """Whether the layer exchanges."""
        return str(layer) in self.exchanges

    def forward(
        self,
        layer: int,
        video: Float[Tensor, "b s n d"],
        structure: Float[Tensor, "b s f e"],
        condition: Float[Tensor, "b s k"],
        steps: tuple[int, ...],
    ) -> tuple[Float[Tensor, "b s n d"], Float[Tensor, "b s f e"]]:
        """Exchange in one layer; layers without an exchange leave both sides as they are."""
        if not self.bridges(layer):
            return video, structure
        exchanged: tuple[Tensor, Tensor] = self.exchanges[str(layer)](video, structure, condition, steps)
        return exchanged
