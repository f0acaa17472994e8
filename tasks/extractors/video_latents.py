"""Video latents of a crop, and of a few of its frames alone: each may stand as step 0 of a training window."""

from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, Modality
from dualforce_model.encoders.base import NoFaceError, said_of_each, sure
from dualforce_model.schema import Feature
from tasks.extractors.base import ByEncoder, CropMedia, Need


class VideoLatentsConfig(Frozen):
    """Settings of the video latents."""

    encoder: EncoderChoice = Field(EncoderChoice(name="dct_video"), description="which codec of ENCODERS")
    num_references: int = Field(4, ge=0, le=16, description="frames encoded alone, besides frame 0")


def reference_frames(num_frames: int, count: int) -> Int32[np.ndarray, " r"]:
    """Frame 0 and the middles of `count` equal stretches of the other frames: the same for every run and machine."""
    others = [1 + (2 * k + 1) * (num_frames - 1) // (2 * count) for k in range(count)]
    return np.array([0, *[min(frame, num_frames - 1) for frame in others]], np.int32)


class VideoLatents(ByEncoder):
    """Latents [S,16,h,w] of the crop in steps, references [5,16,h,w] of single frames; both float16."""

    name: ClassVar[str] = "video_latents"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "video"
    needs: ClassVar[frozenset[Need]] = frozenset({"frames"})

    def __init__(self, config: VideoLatentsConfig) -> None:
        super().__init__(config.encoder)
        self.config = config

    def settings(self) -> tuple[int]:
        """How many references there are."""
        return (self.config.num_references,)

    def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
        """`latents`, `references` and which frames these are. Frame 0 as a reference is step 0, which sees it alone;
        the other references of all crops are encoded together, as clips of one frame.
        """
        chosen = [reference_frames(len(crop.frames), self.config.num_references) for crop in crops]
        latents = self._latents([crop.frames for crop in crops])
        alone = iter(
            self._latents([crop.frames[i : i + 1] for crop, own in zip(crops, chosen, strict=True) for i in own[1:]])
        )
        return [
            {
                "latents": steps.astype(np.float16),
                "references": np.concatenate([steps[:1], *islice(alone, len(own) - 1)]).astype(np.float16),
                "reference_frames": own,
            }
            for steps, own in zip(latents, chosen, strict=True)
        ]

    def _latents(self, clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"]]) -> list[Float32[np.ndarray, "_ C _ _"]]:
        return [sure(each) for each in said_of_each(self._encoder, self._encoder.encode, clips)]
