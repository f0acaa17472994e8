"""What every encoder is: a frozen function from pixels or samples to numbers, with a name and a fingerprint."""

from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from dualforce_model.config import Frozen, digest
from dualforce_model.pretrained import Weights

Modality = Literal["video", "structure", "audio", "flame", "reference", "text"]
NO_WEIGHTS = "none"


class NoFaceError(ValueError):
    """A clip whose face is not seen, or in too few frames to tell what it does: a fact about the clip."""


@runtime_checkable
class Encoder(Protocol):
    """One way to turn a clip into the numbers of one modality.

    Built cheaply: the driver of a run asks for fingerprints alone. Weights, where there are any (`weights` is their
    entry in dualforce_model/pretrained.py, and the config's `weights` says where they lie), are found when it is built
    and read by `load`, once per worker. `version` rises whenever equal input would give other numbers; `config` is
    everything that can be chosen.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    modality: ClassVar[Modality]
    config_type: ClassVar[type[Frozen]]
    weights: ClassVar[Weights | None]

    @property
    def config(self) -> Frozen:
        """What this encoder was built with."""
        ...

    @property
    def num_features(self) -> int:
        """Channels of a video latent, entries of a structure vector, or entries of an audio token."""
        ...

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights, or `NO_WEIGHTS`."""
        ...

    def fingerprint(self) -> str:
        """32 hex digits over name, version, config and what is in the weights; where these lie does not matter."""
        ...

    def load(self, device: str = "cpu") -> None:
        """Read the weights, if any, to a device of torch's. Raises DamagedWeightsError."""
        ...


class WeightFree:
    """What encoders without weights have in common."""

    name: ClassVar[str]
    version: ClassVar[int]
    weights: ClassVar[Weights | None] = None

    @property
    def config(self) -> Frozen:
        """What this encoder was built with."""
        raise NotImplementedError

    @property
    def weights_digest(self) -> str:
        """There are none."""
        return NO_WEIGHTS

    def fingerprint(self) -> str:
        """32 hex digits over name, version and config."""
        return digest(self.name, self.version, self.config)

    def load(self, device: str = "cpu") -> None:
        """Nothing to read, and nothing that another device would do faster."""


def encoder_fingerprint(encoder: Encoder) -> str:
    """The fingerprint of an encoder with weights: name, version, config, what is in the weights."""
    settings = encoder.config.model_dump(mode="json", exclude={"weights"})
    return digest(encoder.name, encoder.version, settings, encoder.weights_digest)


class VideoDecoder(Protocol):
    """Frames of one clip as its latents come; it remembers what the codec needs of earlier steps."""

    def __call__(self, latents: Float32[np.ndarray, "S C h w"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Frames of the next S steps, S >= 1: one for the clip's first step, four for every other."""
        ...


class VideoCodec(Encoder, Protocol):
    """A video encoder that can be undone. T = 4(S-1)+1 frames, S steps, C channels."""

    @property
    def spatial_stride(self) -> int:
        """Pixels of a picture in one latent pixel, along a side."""
        ...

    def encode(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "S C h w"]:
        """Latents of a clip; step i depends on its own frames and earlier ones alone."""
        ...

    def encode_image(self, image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "C h w"]:
        """Latent of one picture alone."""
        ...

    def decode(self, latents: Float32[np.ndarray, "S C h w"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Frames of a whole clip."""
        ...

    def decoder(self) -> VideoDecoder:
        """For a clip that comes in parts; together they equal `decode` of the whole, whatever the split."""
        ...


@runtime_checkable
class Placing(Protocol):
    """A structure encoder that can say where in the crop things are, for pictures that people look at."""

    def places(self, motion: Float32[np.ndarray, "T m"]) -> Float32[np.ndarray, "T k 2"]:
        """Points (x, y) of every frame as shares of the crop's width and height."""
        ...


@runtime_checkable
class Landmarking(Protocol):
    """A structure encoder that finds landmarks on its way, for pictures that people look at."""

    def load(self, device: str = "cpu") -> None:
        """Read the weights."""
        ...

    def landmarks(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T k 2"]:
        """Points (x, y) of every frame as shares of its width and height. Raises NoFaceError; `load` comes first."""
        ...


class EncoderChoice(Frozen):
    """One encoder by name, as `make_encoder` takes it."""

    name: str = Field(min_length=1, max_length=40, description="a name of ENCODERS")
    config: dict[str, Any] = Field({}, description="its settings; what is left out has its default")
