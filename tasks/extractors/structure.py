"""Structure of every frame of a crop: pose and expression in a few numbers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Int32, UInt8
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, Modality
from dualforce_model.encoders.base import NoFaceError, said_of_each
from dualforce_model.encoders.structure import Measured, layout_of, measure, of_pictures
from dualforce_model.layout import Layout
from dualforce_model.schema import Feature
from tasks.extractors.base import ByEncoder, CropMedia, Extractor, Need
from tasks.extractors.video_latents import reference_frames


class StructureConfig(Frozen):
    """Settings of the structure."""

    encoder: EncoderChoice = Field(EncoderChoice(name="face_dct"), description="which structure of ENCODERS")
    num_references: int = Field(
        4, ge=0, le=16, description="frames measured alone, besides frame 0; the same number as the video's"
    )


class Structure(ByEncoder):
    """Motion [T, m] and, of encoders that tell them from it, key points at rest [T, k]; all float32.

    Of the frames that may stand as step 0 of a training window both come once more, as of pictures alone: what was
    before a picture (a track's smoothing, say) is unknown at generation.
    """

    name: ClassVar[str] = "structure"
    version: ClassVar[int] = 2
    modality: ClassVar[Modality] = "structure"
    needs: ClassVar[frozenset[Need]] = frozenset({"frames"})

    def __init__(self, config: StructureConfig) -> None:
        super().__init__(config.encoder)
        self.config = config

    def settings(self) -> tuple[int]:
        """How many references there are."""
        return (self.config.num_references,)

    @property
    def layout(self) -> Layout | None:
        """What each entry of a row is, where the encoder has a table of them."""
        return layout_of(self._encoder)

    def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
        """`motion` of every frame and `canonical` where there is any, the same of references, and which frames these
        are; NoFaceError where too few frames show a face.
        """
        chosen = [reference_frames(len(crop.frames), self.config.num_references) for crop in crops]
        whole = self._said([crop.frames for crop in crops])
        seen = [place for place, each in enumerate(whole) if not isinstance(each, NoFaceError)]
        alone = iter(self._said([crops[place].frames[i : i + 1] for place in seen for i in chosen[place]]))
        return [
            each if isinstance(each, NoFaceError) else self._feature(each, own, [next(alone) for _ in own])
            for each, own in zip(whole, chosen, strict=True)
        ]

    def _said(self, clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"]]) -> list[Measured | NoFaceError]:
        return said_of_each(self._encoder, partial(measure, self._encoder), clips)

    def _feature(
        self, whole: Measured, frames: Int32[np.ndarray, " r"], alone: Sequence[Measured | NoFaceError]
    ) -> Feature:
        references = of_pictures(self._encoder, whole, frames.tolist(), alone)
        told = {"reference_frames": frames, **_arrays(whole)}
        return {**told, **{f"reference_{name}": rows for name, rows in _arrays(references).items()}}


def _arrays(found: Measured) -> Feature:
    motion = {"motion": found.motion.astype(np.float32)}
    return motion if found.canonical is None else {**motion, "canonical": found.canonical.astype(np.float32)}


def layouts_of(extractors: Mapping[Modality, Extractor]) -> dict[str, Layout]:
    """Tables of entries by modality, of the extractors that have one."""
    told = {str(modality): getattr(each, "layout", None) for modality, each in extractors.items()}
    return {modality: layout for modality, layout in told.items() if layout is not None}
