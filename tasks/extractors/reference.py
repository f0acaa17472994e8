"""Reference features: what a picture encoder says of the frames that may stand as step 0 of a training window.

The encoder is one of modality reference: a picture to [r, e].
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, Modality
from dualforce_model.encoders.base import NoFaceError, said_of_each, sure
from dualforce_model.schema import Feature
from tasks.extractors.base import ByEncoder, CropMedia, Need
from tasks.extractors.video_latents import reference_frames


class ReferenceConfig(Frozen):
    """Settings of the reference features."""

    encoder: EncoderChoice = Field(EncoderChoice(name="dinov2"), description="which picture encoder of ENCODERS")
    num_references: int = Field(
        4, ge=0, le=16, description="frames besides frame 0; the same number as the video's, or training finds no match"
    )


class Reference(ByEncoder):
    """Features [1 + num_references, r, e], float16, of the same single frames that the video's references are."""

    name: ClassVar[str] = "reference"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "reference"
    needs: ClassVar[frozenset[Need]] = frozenset({"frames"})

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__(config.encoder)
        self.config = config

    def settings(self) -> tuple[int]:
        """How many references there are."""
        return (self.config.num_references,)

    def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
        """`features` of each reference and which `frames` these are; the pictures of all crops are encoded together."""
        chosen = [reference_frames(len(crop.frames), self.config.num_references) for crop in crops]
        pictures = [crop.frames[frame] for crop, frames in zip(crops, chosen, strict=True) for frame in frames]
        said = iter(said_of_each(self._encoder, self._encoder, pictures))
        return [
            {"features": np.stack([sure(next(said)) for _ in frames]).astype(np.float16), "frames": frames}
            for frames in chosen
        ]
