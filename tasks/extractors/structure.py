"""Structure of every frame of a crop: pose and expression in a few numbers."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from dualforce_model.config import Frozen, digest
from dualforce_model.encoders import EncoderChoice, Modality, make_encoder
from dualforce_model.schema import Feature
from tasks.extractors.base import NO_WEIGHTS, CropMedia, Need


class StructureConfig(Frozen):
    """Settings of the structure."""

    encoder: EncoderChoice = Field(EncoderChoice(name="face_dct"), description="which structure of ENCODERS")


class Structure:
    """Motion [T, m], float32."""

    name: ClassVar[str] = "structure"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "structure"
    needs: ClassVar[frozenset[Need]] = frozenset({"frames"})

    def __init__(self, config: StructureConfig) -> None:
        self.config = config
        self._encoder = make_encoder(config.encoder.name, config.encoder.config)

    @property
    def weights_digest(self) -> str:
        """The encoder has no weights of its own; the cascade's version is pinned with OpenCV's."""
        return NO_WEIGHTS

    @property
    def encoder_fingerprint(self) -> str:
        """Of the encoder alone: what a model trained on this has to be used with."""
        return str(self._encoder.fingerprint())

    def fingerprint(self) -> str:
        """32 hex digits over name, version, weights and encoder."""
        return digest(self.name, self.version, self.weights_digest, self._encoder.fingerprint())

    def load(self) -> None:
        """Nothing to load."""

    def __call__(self, crop: CropMedia) -> Feature:
        """`motion` of every frame."""
        return {"motion": self._encoder(crop.frames).astype(np.float32)}
