"""What a MOVA checkpoint says of itself: one model per component's JSON file, and no defaults.

The code that wrote the release has defaults that differ from the release in a dozen places, so a missing field is an
error here, never a guess. Fields that we do not name are the release's own bookkeeping and are left alone.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dualforce_model.bridge import Strategy

STRIDE_PX, STRIDE_FRAMES, PATCH_PX = 8, 4, 2  # of the video VAE, and of the towers on its latents
MAX_SIDE = 1_000_000  # of any width or count: four times the release's largest, its vocabulary
MAX_LAYERS = 1000
MAX_LEVELS = 8  # of a VAE
Rate = Annotated[int, Field(ge=1, le=1000)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]  # divides the latents


class Settings(BaseModel):
    """Base of a component's settings: immutable; fields of the file that are not named here are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    inert: ClassVar[dict[str, Any]] = {}  # fields that must have this value where the file has them at all

    @model_validator(mode="before")
    @classmethod
    def _inert_fields(cls, data: Any) -> Any:
        for name, value in cls.inert.items():
            if isinstance(data, dict) and data.get(name, value) != value:
                raise ValueError(f"{name} is {data[name]!r}; only {value!r} is supported, as in MOVA-360p")
        return data


class WanTowerSettings(Settings):
    """What both towers have."""

    inert = {
        "has_image_input": False,
        "has_image_pos_emb": False,
        "has_ref_conv": False,
        "add_control_adapter": False,
        "seperated_timestep": False,
        "fuse_vae_embedding_in_latents": False,
    }
    dim: int = Field(ge=1, le=MAX_SIDE, description="width of the tower")
    in_dim: int = Field(ge=1, le=MAX_SIDE, description="channels in")
    out_dim: int = Field(ge=1, le=MAX_SIDE, description="channels out")
    ffn_dim: int = Field(ge=1, le=MAX_SIDE, description="inner width of the feed-forward nets")
    text_dim: int = Field(ge=1, le=MAX_SIDE, description="width of prompt embeddings")
    freq_dim: int = Field(ge=2, le=MAX_SIDE, multiple_of=2, description="width of the timestep's sinusoid")
    num_heads: int = Field(ge=1, le=MAX_SIDE, description="attention heads")
    num_layers: int = Field(ge=1, le=MAX_LAYERS, description="blocks")
    eps: float = Field(gt=0, description="of every norm")
    require_clip_embedding: Literal[False] = Field(description="image features through cross-attention")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.num_heads

    @model_validator(mode="after")
    def _whole_heads(self) -> "WanTowerSettings":
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"dim {self.dim} does not divide into {self.num_heads} heads of even width")
        return self


class TowerSettings(WanTowerSettings):
    """A video tower."""

    patch_size: tuple[Literal[1], Literal[2], Literal[2]] = Field(
        description="frames, rows, columns of latent pixels per token"
    )
    require_vae_embedding: Literal[True] = Field(description="first frame on further input channels")


class AudioTowerSettings(WanTowerSettings):
    """The audio tower."""

    patch_size: tuple[Literal[1]] = Field(description="latents per token")
    vae_type: Literal["dac"] = Field(description="which audio latents; decides the positions")


class BridgeSettings(Settings):
    """The bridge."""

    visual_layers: int = Field(ge=1, le=MAX_LAYERS, description="blocks of the video towers")
    audio_layers: int = Field(ge=1, le=MAX_LAYERS, description="blocks of the audio tower")
    visual_hidden_dim: int = Field(ge=1, le=MAX_SIDE, description="width of the video towers")
    audio_hidden_dim: int = Field(ge=1, le=MAX_SIDE, description="width of the audio tower")
    audio_fps: float = Field(gt=0, description="audio tokens per second")
    head_dim: int = Field(ge=2, le=MAX_SIDE, multiple_of=2, description="width of a head, on both sides")
    interaction_strategy: Strategy = Field(description="which layers exchange")
    apply_cross_rope: bool = Field(description="whether the exchange knows times")
    apply_first_frame_bias_in_rope: bool = Field(description="whether the first latent frame is one pixel frame long")
    trainable_condition_scale: Literal[False] = Field(description="a scale that upstream never applies")
    pooled_adaln: Literal[False] = Field(description="audio modulated by pooled video")

    @model_validator(mode="after")
    def _whole_heads(self) -> "BridgeSettings":
        for name in ("visual_hidden_dim", "audio_hidden_dim"):
            if getattr(self, name) % self.head_dim:
                raise ValueError(f"{name} {getattr(self, name)} does not divide into heads of head_dim {self.head_dim}")
        return self


class SoundVaeSettings(Settings):
    """The audio VAE."""

    encoder_dim: int = Field(ge=1, le=MAX_SIDE, description="channels of the first encoder layer")
    encoder_rates: tuple[Rate, ...] = Field(min_length=1, max_length=MAX_LEVELS, description="strides of the encoder")
    decoder_dim: int = Field(ge=1, le=MAX_SIDE, description="channels of the first decoder layer")
    decoder_rates: tuple[Rate, ...] = Field(min_length=1, max_length=MAX_LEVELS, description="strides of the decoder")
    latent_dim: int = Field(ge=1, le=MAX_SIDE, description="channels of a latent")
    sample_rate: int = Field(ge=1, le=MAX_SIDE, description="samples per second")
    continuous: Literal[True] = Field(description="Gaussian latents, no code books")

    @property
    def hop(self) -> int:
        """Samples per latent."""
        product = 1
        for rate in self.encoder_rates:
            product *= rate
        return product


class VideoVaeSettings(Settings):
    """The Wan video VAE. Settings that newer releases of diffusers added are absent from older files: see `json`."""

    inert = {"is_residual": False, "patch_size": None, "in_channels": 3, "out_channels": 3}
    base_dim: int = Field(ge=1, le=MAX_SIDE, description="channels of the first layer")
    z_dim: int = Field(ge=1, le=MAX_SIDE, description="channels of a latent")
    dim_mult: tuple[Rate, ...] = Field(min_length=1, max_length=MAX_LEVELS, description="widths of the levels")
    num_res_blocks: int = Field(ge=1, le=100, description="residual blocks per level")
    attn_scales: tuple[()] = Field(description="levels with attention: none, diffusers cannot run any")
    temperal_downsample: tuple[bool, ...] = Field(
        max_length=MAX_LEVELS, description="which levels halve time (diffusers' spelling)"
    )
    latents_mean: tuple[Mean, ...] = Field(description="per channel")
    latents_std: tuple[Deviation, ...] = Field(description="per channel")

    @property
    def stride_px(self) -> int:
        """Pixels per latent, in rows and columns: every level but the last halves them."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def stride_frames(self) -> int:
        """Frames per latent, but for the first."""
        return 2 ** sum(self.temperal_downsample[: len(self.dim_mult) - 1])

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> "VideoVaeSettings":
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise ValueError(f"latents_mean and latents_std must have z_dim ({self.z_dim}) entries")
        return self


class TextEncoderSettings(Settings):
    """UMT5's encoder."""

    d_model: int = Field(ge=1, le=MAX_SIDE, description="width")
    d_kv: int = Field(ge=1, le=MAX_SIDE, description="width of a head")
    d_ff: int = Field(ge=1, le=MAX_SIDE, description="inner width of the feed-forward nets")
    num_heads: int = Field(ge=1, le=MAX_SIDE, description="attention heads")
    num_layers: int = Field(ge=1, le=MAX_LAYERS, description="blocks")
    vocab_size: int = Field(ge=1, le=MAX_SIDE, description="entries of the vocabulary")
    relative_attention_num_buckets: int = Field(ge=1, le=MAX_SIDE, description="entries of a position table")


class ScheduleSettings(Settings):
    """The noise schedule of both modalities."""

    inert = {
        "inverse_timesteps": False,
        "reverse_sigmas": False,
        "exponential_shift": False,
        "shift_terminal": None,
    }
    shift: float = Field(gt=0, le=100, description="s of both modalities")
    sigma_max: float = Field(gt=0, le=1, description="level of u at the start")
    sigma_min: float = Field(ge=0, lt=1, description="level of u at the end")
    extra_one_step: bool = Field(description="n+1 values of u, the last left out")
    num_train_timesteps: int = Field(ge=1, le=100_000, description="entries of the table, and timesteps per level 1")


class IndexFile(Settings):
    """model_index.json: which components there are, and where the experts change."""

    boundary_ratio: float = Field(gt=0, lt=1, description="video level under which the second expert takes over")
    audio_vae_type: Literal["dac"] = Field(description="which audio latents")
