"""What every extractor is, and what it may look at."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, UInt8

from dualforce_model.config import digest
from dualforce_model.encoders import EncoderChoice, Modality, make_encoder
from dualforce_model.encoders.base import Batching, NoFaceError, said_of_each, sure
from dualforce_model.schema import Feature

Need = Literal["frames", "samples"]


class CropMedia(NamedTuple):
    """A decoded crop: T = 4k+1 frames and their sound. An extractor is given what it needs, the rest may be empty."""

    frames: UInt8[np.ndarray, "T H W 3"]
    samples: Float32[np.ndarray, " n"]  # 16 kHz mono, n = 640 T


class Extractor(Protocol):
    """One feature of a clip. Built cheaply (the driver asks for fingerprints); `load` reads weights, in the worker.

    `version` rises whenever an equal crop would give other numbers. `needs` says what has to be decoded.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    modality: ClassVar[Modality]
    needs: ClassVar[frozenset[Need]]

    def __init__(self, config: Any) -> None: ...

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights, or `NO_WEIGHTS`."""
        ...

    @property
    def encoder_fingerprint(self) -> str:
        """Of the encoder that is applied, one of dualforce_model/encoders: a model trained on this is used with it."""
        ...

    def fingerprint(self) -> str:
        """32 hex digits over name, version, weights and config."""
        ...

    def load(self, device: str = "cpu") -> None:
        """Make ready to extract on a device of torch's, once per worker."""
        ...

    @property
    def gains(self) -> bool:
        """Whether several crops at once are worth the wait and the memory: `many` is given more than one only then."""
        ...

    def __call__(self, crop: CropMedia) -> Feature:
        """The named arrays of the modality, as dualforce_model/schema.py lists them."""
        ...

    def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
        """The feature of each crop, in their order; they may differ in length and size. Equal to one by one within the
        encoder's tolerance. A crop whose face is not seen has that error in its place, and costs the others nothing.
        """
        ...


class ByEncoder(ABC):
    """What extractors have in common that apply one encoder of dualforce_model/encoders."""

    name: ClassVar[str]
    version: ClassVar[int]

    def __init__(self, choice: EncoderChoice) -> None:
        self._encoder: Any = make_encoder(choice.name, choice.config)

    @property
    def weights_digest(self) -> str:
        """That of the encoder's weights."""
        return str(self._encoder.weights_digest)

    @property
    def encoder_fingerprint(self) -> str:
        """Of the encoder alone: what a model trained on this has to be used with."""
        return str(self._encoder.fingerprint())

    def fingerprint(self) -> str:
        """32 hex digits over name, version, weights, encoder and what else is chosen."""
        return digest(self.name, self.version, self.weights_digest, self.encoder_fingerprint, *self.settings())

    def settings(self) -> tuple[Any, ...]:
        """What is chosen beside the encoder and decides the numbers."""
        return ()

    def load(self, device: str = "cpu") -> None:
        """Load the encoder."""
        self._encoder.load(device)

    @property
    def gains(self) -> bool:
        """Whether the encoder does from several clips at once."""
        return isinstance(self._encoder, Batching)

    def __call__(self, crop: CropMedia) -> Feature:
        """The feature of a crop. Raises NoFaceError where the encoder sees none."""
        return sure(self.many([crop])[0])

    @abstractmethod
    def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
        """The feature of each crop, or why there is none."""

    def _features(
        self, one: Callable[[Any], Any], clips: Sequence[np.ndarray], feature: Callable[[Any], Feature]
    ) -> list[Feature | NoFaceError]:
        """What `feature` makes of what the encoder says of each clip; `one` is what asks it of one."""
        said = said_of_each(self._encoder, one, clips)
        return [each if isinstance(each, NoFaceError) else feature(each) for each in said]
