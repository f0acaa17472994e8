"""Structure without weights: where the face is, and a few DCT coefficients of its mouth and eyes.

Legend: T frames, m entries per frame (32 with the defaults).

The layout is a versioned table (`FaceDctStructure.layout`): face centre and size, then the mouth, then each eye.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders.base import Modality, WeightFree
from dualforce_model.encoders.dct_codec import dct_matrix
from dualforce_model.encoders.face_track import FaceTrackConfig, patches, to_gray, track_face

PATCH_PX = 16
# Measured on real talking heads: places in the cascade's box, as shares of its side.
MOUTH_CENTRE, MOUTH_EXTENT = (0.5, 0.8), (0.52, 0.42)
EYE_CENTRES, EYE_EXTENT = ((0.3, 0.38), (0.7, 0.38)), (0.3, 0.22)


class FaceDctConfig(Frozen):
    """Settings of the face structure."""

    track: FaceTrackConfig = Field(FaceTrackConfig(), description="how the face box is followed")
    num_mouth: int = Field(21, ge=1, le=64, description="DCT coefficients of the mouth, low frequencies first")
    num_eye: int = Field(4, ge=1, le=64, description="DCT coefficients of each eye, low frequencies first")


def low_frequencies(count: int) -> list[tuple[int, int]]:
    """The first (y, x) frequencies by diagonals, vertical ones first: lips and lids move up and down."""
    pairs = [(y, x) for y in range(PATCH_PX) for x in range(PATCH_PX)]
    return sorted(pairs, key=lambda pair: (pair[0] + pair[1], pair[1]))[:count]


class FaceDctStructure(WeightFree):
    """Frames of a face crop to structure vectors. Causal, deterministic; one picture gives [1, m]."""

    name: ClassVar[str] = "face_dct"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "structure"
    config_type: ClassVar[type[Frozen]] = FaceDctConfig

    def __init__(self, config: FaceDctConfig | None = None) -> None:
        self._config = config or FaceDctConfig()
        dct = dct_matrix(PATCH_PX) / np.float32(np.sqrt(PATCH_PX))  # a patch of ones has a first coefficient of one
        self._mouth = _patch_basis(dct, low_frequencies(self._config.num_mouth))
        self._eye = _patch_basis(dct, low_frequencies(self._config.num_eye))

    @property
    def config(self) -> FaceDctConfig:
        """What this encoder was built with."""
        return self._config

    @property
    def num_features(self) -> int:
        """Entries per frame: 3 for the box, then mouth, left eye, right eye."""
        return 3 + self._config.num_mouth + 2 * self._config.num_eye

    @property
    def layout(self) -> tuple[str, ...]:
        """Name of each entry, in order; left and right are the picture's."""
        mouth = [f"mouth_{y}_{x}" for y, x in low_frequencies(self._config.num_mouth)]
        eyes = [f"{side}_eye_{y}_{x}" for side in ("left", "right") for y, x in low_frequencies(self._config.num_eye)]
        return ("centre_x", "centre_y", "size", *mouth, *eyes)

    def places(self, motion: Float32[np.ndarray, "T m"]) -> Float32[np.ndarray, "T 4 2"]:
        """Both eyes and the corners of the mouth's patch, as the face's box implies them."""
        centre, size = (motion[:, None, :2] + 1) / 2, (motion[:, None, 2:3] + 1) / 2
        (x, y), (width, _) = MOUTH_CENTRE, MOUTH_EXTENT
        shares = np.array([*EYE_CENTRES, (x - width / 2, y), (x + width / 2, y)], np.float32)
        return np.asarray(centre + (shares - np.float32(0.5)) * size, np.float32)

    def __call__(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T m"]:
        """Structure of every frame; frame t depends on frames 0 .. t alone."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(f"frames are {frames.dtype} {frames.shape}: expected uint8 [T, H, W, 3] with T >= 1")
        grays = [to_gray(frame) for frame in frames]
        track = track_face(grays, self._config.track)
        box = track * np.float32(2) - np.float32(1)
        mouth = patches(grays, track, MOUTH_CENTRE, MOUTH_EXTENT, PATCH_PX)
        eyes = [patches(grays, track, centre, EYE_EXTENT, PATCH_PX) for centre in EYE_CENTRES]
        columns = [box, _project(mouth, self._mouth), *[_project(eye, self._eye) for eye in eyes]]
        return np.concatenate(columns, axis=1).astype(np.float32)


def _patch_basis(dct: np.ndarray, frequencies: list[tuple[int, int]]) -> np.ndarray:
    """[count, p*p]"""
    return np.stack([np.outer(dct[y], dct[x]).ravel() for y, x in frequencies])


def _project(x_tpp: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """One product per frame, so that a frame's numbers do not depend on how many frames came with it."""
    projected: np.ndarray = np.matmul(x_tpp.reshape(len(x_tpp), 1, -1), basis.T)[:, 0]
    return projected
