"""Structure of every frame of a crop: pose and expression in a few numbers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, Modality
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.encoders.structure import Measured, layout_of, measure
from dualforce_model.layout import Layout
from dualforce_model.schema import Feature
from tasks.extractors.base import ByEncoder, CropMedia, Extractor, Need


class StructureConfig(Frozen):
    """Settings of the structure."""

    encoder: EncoderChoice = Field(EncoderChoice(name="face_dct"), description="which structure of ENCODERS")


class Structure(ByEncoder):
    """Motion [T, m] and, of encoders that tell them from it, key points at rest [T, k]; both float32."""

    name: ClassVar[str] = "structure"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "structure"
    needs: ClassVar[frozenset[Need]] = frozenset({"frames"})

    def __init__(self, config: StructureConfig) -> None:
        super().__init__(config.encoder)

    @property
    def layout(self) -> Layout | None:
        """What each entry of a row is, where the encoder has a table of them."""
        return layout_of(self._encoder)

    def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
        """`motion` of every frame, and `canonical` where there is any; NoFaceError where too few frames show a face."""
        return self._features(partial(measure, self._encoder), [crop.frames for crop in crops], _feature)


def _feature(found: Measured) -> Feature:
    feature = {"motion": found.motion.astype(np.float32)}
    return feature if found.canonical is None else {**feature, "canonical": found.canonical.astype(np.float32)}


def layouts_of(extractors: Mapping[Modality, Extractor]) -> dict[str, Layout]:
    """Tables of entries by modality, of the extractors that have one."""
    told = {str(modality): getattr(each, "layout", None) for modality, each in extractors.items()}
    return {modality: layout for modality, layout in told.items() if layout is not None}
