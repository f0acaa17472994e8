"""Audio tokens of a crop's sound, two per frame."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from dualforce_model.config import Frozen, digest
from dualforce_model.encoders import EncoderChoice, Modality, make_encoder
from dualforce_model.schema import Feature
from tasks.extractors.base import NO_WEIGHTS, CropMedia, Need


class AudioConfig(Frozen):
    """Settings of the audio tokens."""

    encoder: EncoderChoice = Field(EncoderChoice(name="log_mel"), description="which audio encoder of ENCODERS")


class Audio:
    """Tokens [2T, a], float16."""

    name: ClassVar[str] = "audio"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "audio"
    needs: ClassVar[frozenset[Need]] = frozenset({"samples"})

    def __init__(self, config: AudioConfig) -> None:
        self.config = config
        self._encoder = make_encoder(config.encoder.name, config.encoder.config)

    @property
    def weights_digest(self) -> str:
        """The encoder has no weights."""
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
        """`tokens` of the whole sound."""
        return {"tokens": self._encoder(crop.samples).astype(np.float16)}
