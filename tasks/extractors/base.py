"""What every extractor is, and what it may look at."""

from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, UInt8

from dualforce_model.encoders import Modality
from dualforce_model.schema import Feature

Need = Literal["frames", "samples"]
NO_WEIGHTS = "none"


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

    def load(self) -> None:
        """Make ready to extract, once per worker."""
        ...

    def __call__(self, crop: CropMedia) -> Feature:
        """The named arrays of the modality, as dualforce_model/schema.py lists them."""
        ...
