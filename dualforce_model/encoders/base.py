"""What every encoder is: a frozen function from pixels or samples to numbers, with a name and a fingerprint.

Several clips at once: an encoder that gains from them is `Batching`, that is, has a `many`; the others are asked one by
one. `said_of_each` does the one or the other, so that nobody else has to ask. How much goes through a net in one pass
is the encoder's own setting (`batch_frames`, `batch_windows`, `batch_clips`), halved where memory runs out.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from dualforce_model.config import Frozen, digest
from dualforce_model.pretrained import Weights

Modality = Literal["video", "structure", "audio", "flame", "reference", "text"]
NO_WEIGHTS = "none"
GivenT = TypeVar("GivenT")
SaidT = TypeVar("SaidT")


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


@runtime_checkable
class Batching(Protocol):
    """An encoder that gains from several clips at once: one alone leaves its net's batches part empty."""

    def many(self, clips: Sequence[Any]) -> Sequence[Any]:
        """What it says of each clip, in their order; clips may differ in length and size.

        Of a video codec that is what `encode` says, of structure `measure`, of FLAME `track`, of sound and of reference
        pictures a call; but for rounding the same as one by one. In place of a clip's answer may be the NoFaceError
        that it alone would raise: what was made of the others stands.
        """
        ...


def said_of_each(encoder: Any, one: Callable[[GivenT], SaidT], clips: Sequence[GivenT]) -> list[SaidT | NoFaceError]:
    """What an encoder says of each clip, all at once where it gains from that; `one` is what asks it of one."""
    if isinstance(encoder, Batching):
        return list(encoder.many(clips))
    return [or_no_face(one, clip) for clip in clips]


def or_no_face(one: Callable[[GivenT], SaidT], clip: GivenT) -> SaidT | NoFaceError:
    """What is said of a clip, or that its face is not seen, as a value: the clips beside it do not suffer for it."""
    try:
        return one(clip)
    except NoFaceError as error:
        return error.with_traceback(None)  # which would hold on to the frames


def sure(said: SaidT | NoFaceError) -> SaidT:
    """What was said of a clip. Raises the NoFaceError in its place."""
    if isinstance(said, NoFaceError):
        raise said
    return said


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
        """Latent of one picture alone: step 0 of every clip that begins with it."""
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
