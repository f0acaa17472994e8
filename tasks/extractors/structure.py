"""Structure of every frame of a crop: pose and expression in a few numbers."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, Modality
from dualforce_model.schema import Feature
from tasks.extractors.base import ByEncoder, CropMedia, Need


class StructureConfig(Frozen):
    """Settings of the structure."""

    encoder: EncoderChoice = Field(EncoderChoice(name="face_dct"), description="which structure of ENCODERS")


class Structure(ByEncoder):
    """Motion [T, m], float32."""

    name: ClassVar[str] = "structure"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "structure"
    needs: ClassVar[frozenset[Need]] = frozenset({"frames"})

    def __init__(self, config: StructureConfig) -> None:
        super().__init__(config.encoder)

    def __call__(self, crop: CropMedia) -> Feature:
        """`motion` of every frame."""
        return {"motion": self._encoder(crop.frames).astype(np.float32)}
