"""Audio tokens of a crop's sound, two per frame."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, Modality
from dualforce_model.schema import Feature
from tasks.extractors.base import ByEncoder, CropMedia, Need


class AudioConfig(Frozen):
    """Settings of the audio tokens."""

    encoder: EncoderChoice = Field(EncoderChoice(name="log_mel"), description="which audio encoder of ENCODERS")


class Audio(ByEncoder):
    """Tokens [2T, a], float16."""

    name: ClassVar[str] = "audio"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "audio"
    needs: ClassVar[frozenset[Need]] = frozenset({"samples"})

    def __init__(self, config: AudioConfig) -> None:
        super().__init__(config.encoder)

    def __call__(self, crop: CropMedia) -> Feature:
        """`tokens` of the whole sound."""
        return {"tokens": self._encoder(crop.samples).astype(np.float16)}
