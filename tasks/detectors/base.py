"""What every face detector is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.pretrained import Weights


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one picture. Pixels of that picture; x to the right, y down."""

    box: tuple[float, float, float, float]  # x1, y1, x2, y2
    score: float  # how sure the detector is, 0 to 1
    # Eyes, nose, mouth corners, left one in the picture first. Outside the box where the picture's edge cuts the face.
    landmarks: tuple[tuple[float, float], ...] | None = None

    @property
    def height_px(self) -> float:
        return self.box[3] - self.box[1]


class DetectorConfig(Frozen):
    """Which detector, and what all of them are asked for."""

    name: str = Field("opencv_cascade", max_length=40, description="name in DETECTORS")
    min_face: float = Field(0.12, gt=0.01, le=0.9, description="smallest face looked for, share of the shorter side")
    min_score: float = Field(0.5, ge=0.0, le=1.0, description="faces the detector is less sure of are left out")
    max_side_px: int = Field(480, ge=64, le=4096, description="larger pictures are shrunk to this before the search")
    weights: Path | None = Field(
        None,
        exclude_if=lambda chosen: chosen is None,  # configurations without it keep the keys that they have had
        description="the weights' file, or the folder that holds it; none: below ~/.cache/dualforce/weights",
    )


class Detector(Protocol):
    """One way to find faces. Built cheaply (the driver asks for fingerprints); `load` reads weights, in the worker.

    `version` rises whenever an equal picture would give other faces. `weights` is None where there is nothing to get.
    `landmarks` says whether its faces have any.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    weights: ClassVar[Weights | None]
    landmarks: ClassVar[bool]

    def __init__(self, config: DetectorConfig) -> None:
        """Raises InputError for weights or packages that are not here, so that a run is refused before it starts."""
        ...

    def fingerprint(self) -> str:
        """32 hex digits over name, version, digest of the weights and config."""
        ...

    def load(self) -> None:
        """Make ready to detect. Raises InputError for weights that are gone or cannot be used."""
        ...

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"], near: Sequence[Face] = ()) -> list[Face]:
        """Faces of an RGB picture, the largest first.

        `near` are faces of a moment ago: given those, a detector to which it saves time may look only around them.
        """
        ...
