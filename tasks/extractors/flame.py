"""FLAME parameters of every frame of a crop: who it is, and how head, jaw and face move."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, Modality
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.encoders.flame_rows import FlameTrack
from dualforce_model.layout import Layout
from dualforce_model.schema import Feature
from tasks.extractors.base import ByEncoder, CropMedia, Need


class FlameConfig(Frozen):
    """Settings of the FLAME parameters."""

    encoder: EncoderChoice = Field(EncoderChoice(name="smirk"), description="which FLAME encoder of ENCODERS")


class Flame(ByEncoder):
    """Parameters [T,159], and eyelids [T,2] where the encoder tells; float32."""

    name: ClassVar[str] = "flame"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "flame"
    needs: ClassVar[frozenset[Need]] = frozenset({"frames"})

    def __init__(self, config: FlameConfig) -> None:
        super().__init__(config.encoder)

    @property
    def layout(self) -> Layout:
        """What each entry of a row is."""
        layout: Layout = self._encoder.layout
        return layout

    def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
        """`parameters` of every frame, `eyelids` beside them; NoFaceError where too few frames show a face."""
        return self._features(self._encoder.track, [crop.frames for crop in crops], _feature)


def _feature(track: FlameTrack) -> Feature:
    feature: Feature = {"parameters": track.parameters.astype(np.float32)}
    if track.eyelids is not None:
        feature["eyelids"] = track.eyelids.astype(np.float32)
    return feature
