"""Audio tokens of a crop's sound, two per frame."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, Modality
from dualforce_model.encoders.base import NoFaceError
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

    def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
        """`tokens` of each whole sound."""
        return self._features(self._encoder, [crop.samples for crop in crops], _feature)


def _feature(tokens: Float32[np.ndarray, "J a"]) -> Feature:
    return {"tokens": tokens.astype(np.float16)}
