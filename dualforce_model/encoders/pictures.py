"""Reference features: what DINOv2 or CLIP's vision half says of one picture.

Legend: H W pixels, r tokens of width e: the picture's own token (CLS) first, then one per patch, row by row.

They are the keys of Wan's image cross-attention. Wan's image-to-video models take all 257 tokens of CLIP as they go
into its last layer (hidden state -2), which is the default here; DINOv2's are taken after its last normalisation.
A picture is brought to size as the folder's preprocessor_config.json says, else as the published models want it:
shorter side resized (bicubic, antialiased), middle cut out, mean and spread of each colour taken out.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from pydantic import Field, field_validator, model_validator

from dualforce_model.batching import BatchSize, in_batches
from dualforce_model.config import Frozen
from dualforce_model.encoders.base import Modality
from dualforce_model.encoders.exact import exact_arithmetic
from dualforce_model.encoders.hub import PREPROCESSOR_NAME, Form, PublishedConfig, PublishedEncoder, Told
from dualforce_model.pretrained import PRETRAINED, Weights

MAX_SIDE_PX = 2048
BATCH_PICTURES = 64  # in one pass of the net; fewer where memory runs out
Triple = tuple[float, float, float]
IMAGENET: dict[str, Triple] = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
OPENAI: dict[str, Triple] = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}


class Dinov2Config(PublishedConfig):
    """Settings of DINOv2."""

    tokens: Literal["cls", "all"] = Field("all", description="the picture's own token alone, or those of patches too")
    layer: int | None = Field(
        None, ge=-100, le=100, description="hidden state that is taken, as a Python index; empty: the normalised last"
    )


class ClipConfig(PublishedConfig):
    """Settings of CLIP's vision half."""

    tokens: Literal["cls", "all"] = Field("all", description="the picture's own token alone, or those of patches too")
    layer: int | None = Field(
        -2,
        ge=-100,
        le=100,
        description="hidden state that is taken, as a Python index; -2 as Wan does; empty: the last",
    )


class _VisionTold(Told):
    """config.json; what is left out has the default of transformers' classes."""

    hidden_size: int = Field(768, ge=1, le=8192)
    num_hidden_layers: int = Field(12, ge=1, le=200)
    image_size: int = Field(224, ge=1, le=MAX_SIDE_PX)
    patch_size: int = Field(ge=1, le=256)


class Preparation(Told):
    """preprocessor_config.json: from any picture to what the net sees."""

    do_resize: bool = True
    size: dict[str, int] = Field(description="shortest_edge, or height and width, px")
    resample: Literal[0, 1, 2, 3, 4, 5] = 3  # Pillow's number of bicubic
    do_center_crop: bool = True
    crop_size: dict[str, int] = Field(description="height and width, px")
    do_rescale: bool = True
    rescale_factor: float = Field(1 / 255, gt=0, le=1)
    do_normalize: bool = True
    image_mean: Triple
    image_std: Triple

    @field_validator("size", mode="before")
    @classmethod
    def _shorter_side(cls, value: Any) -> Any:
        return {"shortest_edge": value} if isinstance(value, int) else value

    @field_validator("crop_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return {"height": value, "width": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _one_square(self) -> Self:
        if set(self.size) not in ({"shortest_edge"}, {"height", "width"}) or set(self.crop_size) != {"height", "width"}:
            raise ValueError(f"size {self.size} and crop_size {self.crop_size} name other sides than expected")
        if not all(1 <= side <= MAX_SIDE_PX for side in (*self.size.values(), *self.crop_size.values())):
            raise ValueError(f"size {self.size}, crop_size {self.crop_size}: sides of 1 to {MAX_SIDE_PX} px expected")
        if min(self.image_std) <= 0:
            raise ValueError(f"image_std {self.image_std}: spreads are above 0")
        if self.do_center_crop and (not self.do_resize or min(self.size.values()) < max(self.crop_size.values())):
            raise ValueError(f"size {self.size} is smaller than crop_size {self.crop_size}, or there is no resizing")
        if len(set(self.shown.values())) != 1:
            raise ValueError(f"pictures of {self.shown} px: the net sees squares of one size")
        return self

    @property
    def shown(self) -> dict[str, int]:
        """Sides of what the net sees, px; `shortest_edge` alone where pictures keep their shape."""
        return self.crop_size if self.do_center_crop else self.size

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "3 y x"]:
        """The picture as the net sees it."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"picture {image.dtype} {image.shape}: expected uint8 [H, W, 3]")
        shown = self._cut(self._resized(image)).astype(np.float32)
        if self.do_rescale:
            shown = shown * np.float32(self.rescale_factor)
        if self.do_normalize:
            mean, std = (np.array(each, np.float32) for each in (self.image_mean, self.image_std))
            shown = np.asarray((shown - mean) / std, np.float32)
        return np.ascontiguousarray(shown.transpose(2, 0, 1))

    def _resized(self, image: np.ndarray) -> np.ndarray:
        if not self.do_resize:
            return image
        height, width = image.shape[:2]
        if "shortest_edge" in self.size:
            edge, shorter = self.size["shortest_edge"], min(height, width)
            wanted = (int(edge * width / shorter), int(edge * height / shorter))
        else:
            wanted = (self.size["width"], self.size["height"])
        return np.asarray(Image.fromarray(image).resize(wanted, Image.Resampling(self.resample)))

    def _cut(self, image: np.ndarray) -> np.ndarray:
        if not self.do_center_crop:
            return image
        height, width = self.crop_size["height"], self.crop_size["width"]
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return image[top : top + height, left : left + width]


class PictureEncoder(PublishedEncoder):
    """One picture to its tokens."""

    modality: ClassVar[Modality] = "reference"
    prepared: ClassVar[dict[str, Any]]  # where the folder does not say
    told_type: ClassVar[type[_VisionTold]] = _VisionTold

    def __init__(self, config: Dinov2Config | ClipConfig) -> None:
        super().__init__(config)
        self._tokens, self._layer = config.tokens, config.layer
        told = self.told(self.told_type, self._vision())
        self._width = told.hidden_size
        states = told.num_hidden_layers + 1
        if self._layer is not None and not -states <= self._layer < states:
            self._refuse(f"it has {states} hidden states; layer {self._layer} was asked for")
        self._prepare = self.told(Preparation, {**self.prepared, **self.preprocessor()}, PREPROCESSOR_NAME)
        self._check_size(next(iter(self._prepare.shown.values())), told)
        self._batch = BatchSize(BATCH_PICTURES)

    @property
    def num_features(self) -> int:
        """Entries per token: the net's width."""
        return self._width

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "r e"]:
        """Tokens of a picture of any size: r = 1, or 1 and the number of patches."""
        return self.many([image])[0]

    def many(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Float32[np.ndarray, "r e"]]:
        """Tokens of pictures of any sizes, many in one pass of the net; the same as one by one but for rounding."""
        return list(chain.from_iterable(in_batches(self._batch, self._pass, images)))

    @torch.inference_mode()
    @exact_arithmetic()
    def _pass(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "n r e"]:
        pixels = torch.from_numpy(np.stack([self._prepare(image) for image in images])).to(self.device, self.dtype)
        said: Any = self.net(pixel_values=pixels, output_hidden_states=self._layer is not None)
        hidden = said.last_hidden_state if self._layer is None else said.hidden_states[self._layer]
        wanted = hidden[:, :1] if self._tokens == "cls" else hidden
        tokens: np.ndarray = wanted.float().cpu().numpy()
        return tokens

    def _vision(self) -> dict[str, Any]:
        """The part of config.json that speaks of pictures."""
        return self.said

    def _check_size(self, side_px: int, told: _VisionTold) -> None:
        """Refuse what the net would read past, or refuse itself."""
        if side_px % told.patch_size:
            self._refuse(
                f"{PREPROCESSOR_NAME} makes pictures of {side_px} px, no multiple of patches of {told.patch_size}"
            )


class Dinov2(PictureEncoder):
    """DINOv2, any size: its positions are interpolated."""

    name: ClassVar[str] = "dinov2"
    version: ClassVar[int] = 1
    config_type: ClassVar[type[Frozen]] = Dinov2Config
    weights: ClassVar[Weights | None] = PRETRAINED["dinov2"]
    form: ClassVar[Form] = Form("transformers", "Dinov2Model", ("dinov2",), others=("classifier.",))
    prepared: ClassVar[dict[str, Any]] = {"size": 256, "crop_size": 224, **IMAGENET}

    class _Told(_VisionTold):
        patch_size: int = Field(16, ge=1, le=256)

    told_type: ClassVar[type[_VisionTold]] = _Told

    def __init__(self, config: Dinov2Config | None = None) -> None:
        self._config = config or Dinov2Config()
        super().__init__(self._config)

    @property
    def config(self) -> Dinov2Config:
        """What this encoder was built with."""
        return self._config


class Clip(PictureEncoder):
    """CLIP's vision half, out of its own folder or that of the whole CLIP."""

    name: ClassVar[str] = "clip"
    version: ClassVar[int] = 1
    config_type: ClassVar[type[Frozen]] = ClipConfig
    weights: ClassVar[Weights | None] = PRETRAINED["clip"]
    form: ClassVar[Form] = Form(
        "transformers",
        "CLIPVisionModel",
        ("clip_vision_model", "clip"),
        subfolder="image_encoder",
        others=("text_model.", "text_projection.", "visual_projection.", "logit_scale"),
    )
    prepared: ClassVar[dict[str, Any]] = {"size": 224, "crop_size": 224, **OPENAI}

    class _Told(_VisionTold):
        patch_size: int = Field(32, ge=1, le=256)

    told_type: ClassVar[type[_VisionTold]] = _Told

    def __init__(self, config: ClipConfig | None = None) -> None:
        self._config = config or ClipConfig()
        super().__init__(self._config)

    @property
    def config(self) -> ClipConfig:
        """What this encoder was built with."""
        return self._config

    def _vision(self) -> dict[str, Any]:
        inner = self.said.get("vision_config", {}) if self.said["model_type"] == "clip" else self.said
        return inner if isinstance(inner, dict) else {}

    def _check_size(self, side_px: int, told: _VisionTold) -> None:
        super()._check_size(side_px, told)
        if side_px != told.image_size:
            self._refuse(
                f"{PREPROCESSOR_NAME} makes pictures of {side_px} px, the net has positions for {told.image_size}"
            )
