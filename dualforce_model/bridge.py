"""The bridge: video and structure tokens look at each other, in chosen layers, both ways.

Scope `step`: tokens of the same step, by a reshape: no mask, no cache, no leak of time. Scope `causal` (an ablation):
also of the steps before, under the towers' band mask and with a cache of its own. Both directions read the states
before either is updated. Structure stands at its frame's time, video at the centre of its group; both noise levels
steer norms and gates, and the gates start at exactly 0.

Legend: b batch, s steps, n video tokens per step, f structure tokens per step, d widths.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_ltx2 import LTX2Attention
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dualforce_model.config import Frozen
from dualforce_model.layers.attention import Band, StepAttention, attend, backend_of
from dualforce_model.layers.cache import StepCache
from dualforce_model.layers.masks import StepMask
from dualforce_model.layers.modulation import add_gated, modulate
from dualforce_model.layers.norms import with_own_norms
from dualforce_model.layers.rotary import Rotation, latent_rotation, offset_rotation, rotate, structure_rotation

Strategy = Literal["shallow_focus", "distributed", "progressive", "custom", "full"]


class BridgeConfig(Frozen):
    """Where and how the towers exchange."""

    strategy: Strategy = Field("shallow_focus", description="which layers exchange")
    depth: int | None = Field(
        2,
        ge=1,
        le=100,
        description="no layer from this one on exchanges (shallow_focus: all before it do); null: upstream's formula; "
        "left out: null, but 2 for shallow_focus",
    )
    layers: tuple[int, ...] = Field((), description="custom: the layers, from 0")
    scope: Literal["step", "causal"] = Field(
        "step", description="step: tokens of the same step exchange; causal: each also sees the steps before its own"
    )
    direction: Literal["both", "video_to_structure", "structure_to_video"] = Field("both", description="who is told")
    condition_dim: int = Field(32, ge=8, description="width in which the two noise levels meet")

    @model_validator(mode="before")
    @classmethod
    def _depth_is_of_shallow_focus(cls, given: Any) -> Any:
        """The default depth is shallow_focus's; any other strategy goes as deep as it says itself."""
        if isinstance(given, Mapping) and given.get("strategy", "shallow_focus") != "shallow_focus":
            return {"depth": None, **given}
        return given

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
                chosen = range(num_layers if self.depth is not None else min(10, num_layers // 3))
            case "distributed":
                chosen = range(0, num_layers, 3)
            case "progressive":
                chosen = (*range(8), *range(8, num_layers, 3))
            case "full":
                chosen = range(num_layers)
            case "custom":
                chosen = self.layers
        deepest = num_layers if self.depth is None else min(num_layers, self.depth)
        return tuple(layer for layer in chosen if layer < deepest)


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
        attended = dispatch_attention_fn(query, key, value, backend=backend_of(self))
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


class BandProcessor:
    """Attention processor of `LTX2Attention`: tokens of a step attend to the other side's of all steps they see."""

    _attention_backend: AttentionBackendName | None = None
    _parallel_config = None

    def __call__(
        self,
        attn: LTX2Attention,
        hidden_states: Float[Tensor, "b s n d"],
        encoder_hidden_states: Float[Tensor, "b s f e"],
        attention_mask: Tensor | None = None,
        query_rotary_emb: StepAttention | None = None,
        key_rotary_emb: None = None,
    ) -> Float[Tensor, "b s n d"]:
        assert query_rotary_emb is not None, "attention over steps needs its StepAttention"
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(-1, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(-1, (attn.heads, -1))
        value = attn.to_v(encoder_hidden_states).unflatten(-1, (attn.heads, -1))
        attended = attend(query, key, value, None, query_rotary_emb, self)
        out: Tensor = attn.to_out[1](attn.to_out[0](attended.flatten(2).view_as(hidden_states)))
        return out


Way = Literal["to_video", "to_structure"]
View = Mapping[str, Rotation | StepAttention]  # what a way's attention is told besides the tokens, by argument


@dataclass(frozen=True)
class Meeting:
    """What all layers of one pass share: a condition per step, and who sees whom where."""

    condition: Float[Tensor, "b s k"]
    turns: Mapping[Way, View] = field(default_factory=dict)  # scope step
    bands: Mapping[Way, Band] = field(default_factory=dict)  # scope causal


class OneWay(nn.Module):
    """One direction of one layer: `x` is told about `other`. The gate is exactly 0 at the start."""

    def __init__(self, dim: int, heads: int, other_dim: int, config: BridgeConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.other_norm = nn.LayerNorm(other_dim, elementwise_affine=False, eps=1e-6)
        self.attn = same_step_attention(dim, other_dim, heads)
        if config.scope == "causal":
            self.attn.set_processor(BandProcessor())
        self.modulation = nn.Linear(config.condition_dim, 3 * dim + 2 * other_dim)
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
        view: View,
    ) -> Float[Tensor, "b s n d"]:
        """x + gate * attention(x, other)."""
        shift, scale, gate, other_shift, other_scale = self.modulation(condition).float().split(self._widths, dim=-1)
        query, key = modulate(self.norm, x, shift, scale), modulate(self.other_norm, other, other_shift, other_scale)
        return add_gated(x, self.attn(query, key, **view), gate)


class Exchange(nn.Module):
    """One layer of the bridge."""

    def __init__(self, config: BridgeConfig, video: tuple[int, int], structure: tuple[int, int]) -> None:
        super().__init__()
        to_video, to_structure = config.direction != "video_to_structure", config.direction != "structure_to_video"
        self.to_video = OneWay(*video, structure[0], config) if to_video else None
        self.to_structure = OneWay(*structure, video[0], config) if to_structure else None

    def forward(
        self,
        video: Float[Tensor, "b s n d"],
        structure: Float[Tensor, "b s f e"],
        condition: Float[Tensor, "b s k"],
        views: Mapping[Way, View],
    ) -> tuple[Float[Tensor, "b s n d"], Float[Tensor, "b s f e"]]:
        """Both sides after the exchange; each read the other as it was before."""
        told_video, told = video, structure
        if self.to_video is not None:
            told_video = self.to_video(video, structure, condition, views["to_video"])
        if self.to_structure is not None:
            told = self.to_structure(structure, video, condition, views["to_structure"])
        return told_video, told


class Bridge(nn.Module):
    """All exchanging layers, and the width in which the two noise levels meet."""

    def __init__(
        self, config: BridgeConfig, num_layers: int, video: tuple[int, int], structure: tuple[int, int]
    ) -> None:
        """`video` and `structure` are (width, heads) of the towers, `num_layers` the layers that both have."""
        super().__init__()
        self.gradient_checkpointing = False  # diffusers' `enable_gradient_checkpointing` looks for it
        self.causal = config.scope == "causal"
        self.condition = nn.Linear(video[0] + structure[0], config.condition_dim)
        self.exchanges = nn.ModuleDict(
            {str(layer): Exchange(config, video, structure) for layer in config.bridged(num_layers)}
        )
        self._ways: dict[Way, int] = {}  # width of a head in each direction
        if config.direction != "video_to_structure":
            self._ways["to_video"] = video[0] // video[1]
        if config.direction != "structure_to_video":
            self._ways["to_structure"] = structure[0] // structure[1]

    def initialise(self) -> None:
        """Start of a training from scratch: the towers do not know of each other."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, OneWay):
                module.initialise()

    def meet(
        self,
        video: Float[Tensor, "b s d"],
        structure: Float[Tensor, "b s e"],
        mask: StepMask,
        tokens: tuple[int, int],
        cache: StepCache | None = None,
        commit: bool = False,
    ) -> Meeting:
        """One condition per step out of both sides' embedded noise levels, and the positions of their tokens.

        `tokens` are video's and structure's per step.
        """
        condition = nn.functional.silu(self.condition(nn.functional.silu(torch.cat([video, structure], dim=-1))))
        if self.causal:
            bands = {way: _band(way, dim, mask, tokens, video.device, cache, commit) for way, dim in self._ways.items()}
            return Meeting(condition, bands=bands)
        turned = {"to_video": "key_rotary_emb", "to_structure": "query_rotary_emb"}  # frames stand off the centre
        turns: dict[Way, View] = {
            way: {turned[way]: offset_rotation(mask.queries, dim, video.device, tokens=tokens[1])}
            for way, dim in self._ways.items()
        }
        return Meeting(condition, turns=turns)

    def bridges(self, layer: int) -> bool:
        """Whether the layer exchanges."""
        return str(layer) in self.exchanges

    def forward(
        self, layer: int, video: Float[Tensor, "b s n d"], structure: Float[Tensor, "b s f e"], meeting: Meeting
    ) -> tuple[Float[Tensor, "b s n d"], Float[Tensor, "b s f e"]]:
        """Exchange in one layer; layers without an exchange leave both sides as they are."""
        if not self.bridges(layer):
            return video, structure
        exchange = self.exchanges[str(layer)]
        looks = {
            way: band.attention(f"bridge.{way}", layer, backend_of(getattr(exchange, way).attn.processor))
            for way, band in meeting.bands.items()
        }
        views = {**meeting.turns, **{way: {"query_rotary_emb": look} for way, look in looks.items()}}
        exchanged: tuple[Tensor, Tensor]
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            exchanged = self._gradient_checkpointing_func(exchange, video, structure, meeting.condition, views)
        else:
            exchanged = exchange(video, structure, meeting.condition, views)
        for way, look in looks.items():
            meeting.bands[way].remember(f"bridge.{way}", layer, look)
        return exchanged


def _band(
    way: Way,
    dim: int,
    mask: StepMask,
    tokens: tuple[int, int],
    device: torch.device,
    cache: StepCache | None,
    commit: bool,
) -> Band:
    """Who sees whom in one direction of a causal bridge, everybody at his time in frames."""
    num_video, num_structure = tokens

    def seen(steps: tuple[int, ...]) -> Rotation:
        return latent_rotation(steps, dim, device, num_video)

    def felt(steps: tuple[int, ...]) -> Rotation:
        return structure_rotation(steps, dim, device, num_structure)

    query, key = (seen, felt) if way == "to_video" else (felt, seen)
    num_query, num_key = (num_video, num_structure) if way == "to_video" else (num_structure, num_video)
    places = mask.places
    return Band(
        mask=mask,
        tokens=num_query,
        key_tokens=num_key,
        queries=query(places.queries),
        keys=key(places.keys),
        clamped=None if places.clamped is None else query(places.clamped),
        cache=cache,
        commit=commit,
    )
