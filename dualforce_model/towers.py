"""The two towers: Wan transformers over steps, each step with its own noise level.

A tower runs in three parts, so that another can run beside it: `start` (tokens and modulation), `advance` (one block),
`finish` (velocity).

Legend: b batch, s steps, n tokens per step, d width, c latent channels, m structure entries, r reference features, k
numbers of key points at rest.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from dualforce_model.clock import FRAMES_PER_STEP
from dualforce_model.config import Frozen
from dualforce_model.layers.attention import Band, StepBlock, backend_of
from dualforce_model.layers.cache import StepCache
from dualforce_model.layers.features import Features
from dualforce_model.layers.masks import StepMask
from dualforce_model.layers.modulation import modulate
from dualforce_model.layers.rotary import Rotation, still, structure_rotation, video_rotation

TIMESTEPS = 1000.0  # Wan's noise level 1.0
MASK_CHANNELS = 4  # one per pixel frame of a latent, as in MOVA
Grid = tuple[int, int]  # rows and columns of tokens in a step


class TowerConfig(Frozen):
    """Size of a tower. The defaults of all parts together are the preset `tiny`."""

    heads: int = Field(4, ge=1, le=64, description="attention heads")
    head_dim: int = Field(32, ge=8, le=256, multiple_of=4, description="width of a head; the tower is heads times this")
    layers: int = Field(4, ge=1, le=100, description="transformer blocks")
    ffn_dim: int = Field(384, ge=8, description="inner width of the feed-forward nets")
    text_dim: int = Field(0, ge=0, description="width of prompt embeddings; 0: no text attention at all")
    freq_dim: int = Field(64, ge=8, multiple_of=2, description="width of the sinusoid that embeds the noise level")

    @property
    def dim(self) -> int:
        """Width of the tower."""
        return self.heads * self.head_dim


class VideoTowerConfig(TowerConfig):
    """The tower over video latents."""

    latent_channels: int = Field(16, ge=1, description="channels of a video latent")
    patch_px: tuple[int, int] = Field((4, 4), description="rows and columns of latent pixels in one token")
    feature_dim: int = Field(
        0, ge=0, description="width of reference features (DINOv2, CLIP) of the whole clip; 0: the tower takes none"
    )


class StructureTowerConfig(TowerConfig):
    """The tower over structure: what comes in and goes out is per pixel frame."""

    heads: int = Field(2, ge=1, le=64, description="attention heads")
    ffn_dim: int = Field(256, ge=8, description="inner width of the feed-forward nets")
    entries: int = Field(32, ge=1, description="numbers per pixel frame")
    tokens_per_step: Literal[1, 2, 4, 8, 16] = Field(
        4,
        description="4: a token per pixel frame; 8, 16: two or four per frame, each with weights of its own; "
        "2, 1: a token for two or all four frames of the step",
    )
    canonical_dim: int = Field(
        0, ge=0, description="numbers of the reference's key points at rest (LivePortrait: 63); 0: the tower takes none"
    )
    sink_tokens: int = Field(
        2, ge=0, le=16, description="learned tokens that every step sees; they steady sparse streams"
    )


@dataclass
class TowerState:
    """Tokens on their way through a tower."""

    x: Float[Tensor, "b s n d"]
    embedded: Float[Tensor, "b s d"]
    modulation: Float[Tensor, "b s 6 d"]
    text: Float[Tensor, "b l d"] | None
    features: Features | None
    grid: Grid
    band: Band


class StepTower(WanTransformer3DModel):
    """`WanTransformer3DModel` with the same configuration and parameter names, run step by step.

    Added settings: `sink_tokens` (learned tokens that all steps see); `tokens_per_patch` (tokens that read the same
    patch, each with its share of in_channels and out_channels); `canonical_dim` (numbers of a condition that is added
    to all tokens); `text_dim` 0 leaves text attention out.
    """

    name: Literal["video", "structure"]
    _no_split_modules = ["StepBlock"]
    _repeated_blocks = ["StepBlock"]

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 20,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        sink_tokens: int = 0,
        tokens_per_patch: int = 1,
        canonical_dim: int = 0,
    ) -> None:
        super().__init__(
            patch_size, num_attention_heads, attention_head_dim, in_channels, out_channels, text_dim or 1, freq_dim,
            ffn_dim, 0, cross_attn_norm, qk_norm, eps, image_dim, added_kv_proj_dim, rope_max_seq_len,
            pos_embed_seq_len,
        )  # fmt: skip
        self.register_to_config(num_layers=num_layers, text_dim=text_dim)  # the parent was built without blocks
        dim = num_attention_heads * attention_head_dim
        told = {"text": text_dim > 0, "features": image_dim is not None}
        self.blocks = nn.ModuleList(
            StepBlock(dim, ffn_dim, num_attention_heads, qk_norm, cross_attn_norm, eps, added_kv_proj_dim, **told)
            for _ in range(num_layers)
        )
        self.rope = None  # positions are computed from the mask's places
        if not text_dim:
            self.condition_embedder.text_embedder = None
        self.sinks = nn.Parameter(torch.randn(sink_tokens, dim) * 0.02) if sink_tokens else None
        self.canonical_embedding = nn.Linear(canonical_dim, dim, bias=False) if canonical_dim else None

    @torch.no_grad()
    def initialise(self) -> None:
        """Start of a training from scratch: Xavier for the blocks, velocity zero. Draws from torch's generator."""
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.canonical_embedding:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        nn.init.zeros_(self.patch_embedding.bias)
        for linear in (self.condition_embedder.time_embedder.linear_1, self.condition_embedder.time_embedder.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(self.proj_out.weight)
        if self.config.image_dim is not None:
            for block in self.blocks:  # features say nothing yet: the start is that of a tower without them
                nn.init.zeros_(block.attn2.add_v_proj.weight)
        if self.canonical_embedding is not None:  # the same
            nn.init.zeros_(self.canonical_embedding.weight)

    def places(self, steps: tuple[int, ...], grid: Grid, device: torch.device) -> Rotation:
        """Rotation of the tokens of steps at the given places."""
        raise NotImplementedError(f"{type(self).__name__} has no positions")

    def begin(
        self,
        tokens: Float[Tensor, "b s n d"],
        sigma: Float[Tensor, "b s"],
        grid: Grid,
        mask: StepMask,
        cache: StepCache | None,
        commit: bool,
        text: Float[Tensor, "b l e"] | None,
        features: Features | None = None,
    ) -> TowerState:
        """Embed noise levels once per step (float32 up to the sinusoid), conditions once, and positions."""
        embedder, device = self.condition_embedder, tokens.device
        sinusoid = embedder.timesteps_proj(sigma.float().flatten() * TIMESTEPS).unflatten(0, sigma.shape)
        embedded = embedder.time_embedder(sinusoid.to(embedder.time_embedder.linear_1.weight.dtype)).type_as(tokens)
        modulation = embedder.time_proj(embedder.act_fn(embedded)).unflatten(2, (6, -1))
        places, sinks = mask.places, self.config.sink_tokens
        band = Band(
            mask=mask,
            tokens=tokens.shape[2],
            key_tokens=tokens.shape[2],
            queries=self.places(places.queries, grid, device),
            keys=still(sinks, self.places(places.keys, grid, device)),  # learned sinks stand at place 0
            clamped=None if places.clamped is None else self.places(places.clamped, grid, device),
            cache=cache,
            commit=commit,
            sinks=sinks,
        )
        return TowerState(
            x=tokens,
            embedded=embedded,
            modulation=modulation,
            text=self._embed_text(text, tokens),
            features=self._embed_features(features, tokens),
            grid=grid,
            band=band,
        )

    def _embed_text(self, text: Tensor | None, tokens: Tensor) -> Float[Tensor, "b l d"] | None:
        embedder = self.condition_embedder.text_embedder
        if embedder is None:
            if text is not None:
                raise ValueError(f"the {self.name} tower has no text attention (text_dim 0), but a text was given")
            return None
        if text is None:  # Wan pads prompts with zeros and attends to them: any number of zero tokens acts like one
            text = tokens.new_zeros(tokens.shape[0], 1, self.config.text_dim)
        embedded: Tensor = embedder(text)
        return embedded

    def _embed_features(self, features: Features | None, tokens: Tensor) -> Features | None:
        if features is None:
            return None
        embedder = self.condition_embedder.image_embedder
        if embedder is None:
            raise ValueError(f"the {self.name} tower takes no reference features (feature_dim 0), but some were given")
        there = torch.where(features.valid[..., None], features.tokens, 0.0)  # what is masked out may hold anything
        return Features(embedder(there.to(tokens.dtype)), features.valid)

    def advance(self, index: int, state: TowerState) -> None:
        """Run one block over the state's tokens."""
        block = self.blocks[index]
        attention = state.band.attention(self.name, index, backend_of(block.attn1.processor), self.sinks)
        given = (state.x, state.text, state.modulation, attention, state.features)
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            state.x = self._gradient_checkpointing_func(block, *given)
        else:
            state.x = block(*given)
        state.band.remember(self.name, index, attention)

    def project(self, state: TowerState) -> Float[Tensor, "b s n o"]:
        """Head: modulated norm and projection of the tokens."""
        shift, scale = (self.scale_shift_table + state.embedded[:, :, None].float()).unbind(2)
        projected: Tensor = self.proj_out(modulate(self.norm_out, state.x, shift, scale))
        return projected


class VideoTower(StepTower):
    """Tower over video latents: channels are noisy latent, mask, reference latent."""

    name = "video"

    @classmethod
    def build(cls, config: VideoTowerConfig) -> Self:
        """Tower of a configuration, initialised for training from scratch."""
        channels = config.latent_channels
        tower: Self = cls(
            (1, *config.patch_px),
            in_channels=2 * channels + MASK_CHANNELS,
            out_channels=channels,
            image_dim=config.feature_dim or None,
            added_kv_proj_dim=config.dim if config.feature_dim else None,
            **_sizes(config),
        )
        tower.initialise()
        return tower

    def start(
        self,
        video: Float[Tensor, "b s c height width"],
        reference: Float[Tensor, "b c height width"],
        is_reference: Bool[Tensor, "b s"],
        sigma: Float[Tensor, "b s"],
        mask: StepMask,
        cache: StepCache | None = None,
        commit: bool = False,
        text: Float[Tensor, "b l e"] | None = None,
        features: Features | None = None,
    ) -> TowerState:
        """Tokens of noisy latents, told which step is the reference and what the reference looks like."""
        (height, width), (_, rows, columns) = video.shape[-2:], self.config.patch_size
        if height % rows or width % columns:
            raise ValueError(f"latents of {height}x{width} pixels do not divide into patches of {rows}x{columns}")
        flag = is_reference[:, :, None, None, None].to(video.dtype).expand(-1, -1, MASK_CHANNELS, height, width)
        held = reference[:, None].to(video.dtype).expand(-1, video.shape[1], -1, -1, -1)
        channels = torch.cat([video, flag, held], dim=2).transpose(1, 2)
        tokens = self.patch_embedding(channels).flatten(3).permute(0, 2, 3, 1).contiguous()
        return self.begin(tokens, sigma, (height // rows, width // columns), mask, cache, commit, text, features)

    def finish(self, state: TowerState) -> Float[Tensor, "b s c height width"]:
        """Velocity of the latents."""
        (height, width), (_, rows, columns) = state.grid, self.config.patch_size
        patches = self.project(state).unflatten(3, (rows, columns, -1)).unflatten(2, (height, width))
        return patches.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)  # b s c, height rows, width columns

    def places(self, steps: tuple[int, ...], grid: Grid, device: torch.device) -> Rotation:
        """Step, row and column."""
        return video_rotation(steps, *grid, self.config.attention_head_dim, device)


class StructureTower(StepTower):
    """The same over structure: tokens at the times of their pixel frames; channels: noisy, reference."""

    name = "structure"

    @classmethod
    def build(cls, config: StructureTowerConfig) -> Self:
        """Tower of a configuration, initialised for training from scratch."""
        readers = max(1, config.tokens_per_step // FRAMES_PER_STEP)  # tokens that read the same frame
        tower: Self = cls(
            (1, max(1, FRAMES_PER_STEP // config.tokens_per_step), 1),
            in_channels=2 * config.entries * readers,
            out_channels=config.entries * readers,
            sink_tokens=config.sink_tokens,
            tokens_per_patch=readers,
            canonical_dim=config.canonical_dim,
            **_sizes(config),
        )
        tower.initialise()
        return tower

    def start(
        self,
        structure: Float[Tensor, "b s f m"],
        reference: Float[Tensor, "b m"],
        sigma: Float[Tensor, "b s"],
        mask: StepMask,
        cache: StepCache | None = None,
        commit: bool = False,
        text: Float[Tensor, "b l e"] | None = None,
        canonical: Float[Tensor, "b k"] | None = None,
    ) -> TowerState:
        """Tokens of noisy structure, told what the reference's is, and where its key points are at rest."""
        held = reference[:, None, None].to(structure.dtype).expand_as(structure)
        channels = torch.cat([structure, held], dim=3)
        if self.config.tokens_per_patch > 1:
            channels = self._per_reader(channels)
        video = channels.permute(0, 3, 1, 2)[..., None]  # a video of one column: its rows are the frames of a step
        tokens = self.patch_embedding(video).flatten(3).permute(0, 2, 3, 1).contiguous()
        if self.canonical_embedding is not None:
            tokens = tokens + self._embed_canonical(canonical, tokens)[:, None, None]
        elif canonical is not None:
            raise ValueError("the structure tower takes no canonical (canonical_dim 0), but one was given")
        return self.begin(tokens, sigma, (tokens.shape[2], 1), mask, cache, commit, text)

    def _embed_canonical(self, canonical: Tensor | None, tokens: Tensor) -> Float[Tensor, "b d"]:
        expected = (tokens.shape[0], self.config.canonical_dim)
        if canonical is None or tuple(canonical.shape) != expected:
            found = "none was given" if canonical is None else f"{tuple(canonical.shape)} was given"
            raise ValueError(
                f"the structure tower takes a canonical of shape {expected}, {found}: it is that of the reference, "
                "standardised"
            )
        assert self.canonical_embedding is not None, "asked only where there is one"
        embedded: Tensor = self.canonical_embedding(canonical.to(tokens.dtype))
        return embedded

    def _per_reader(self, channels: Float[Tensor, "b s f e"]) -> Float[Tensor, "b s n k"]:
        """Each frame once per reader, in the reader's own channels: one convolution, yet weights of their own."""
        own = torch.eye(self.config.tokens_per_patch, dtype=channels.dtype, device=channels.device)
        return torch.einsum("bsfe,rq->bsfrqe", channels, own).flatten(4, 5).flatten(2, 3)

    def finish(self, state: TowerState) -> Float[Tensor, "b s f m"]:
        """Velocity of the structure; the readers of one frame agree by their mean."""
        readers, rows = self.config.tokens_per_patch, self.config.patch_size[1]
        projected = self.project(state)
        if readers > 1:
            each = projected.unflatten(3, (readers, -1)).unflatten(2, (FRAMES_PER_STEP, readers))
            return each.diagonal(dim1=3, dim2=4).mean(-1)
        return projected.unflatten(3, (rows, -1)).flatten(2, 3)

    def places(self, steps: tuple[int, ...], grid: Grid, device: torch.device) -> Rotation:
        """Times of the pixel frames."""
        return structure_rotation(steps, self.config.attention_head_dim, device, tokens=grid[0])


def _sizes(config: TowerConfig) -> dict[str, int]:
    """A configuration in diffusers' words."""
    return {
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head_dim,
        "text_dim": config.text_dim,
        "freq_dim": config.freq_dim,
        "ffn_dim": config.ffn_dim,
        "num_layers": config.layers,
    }
