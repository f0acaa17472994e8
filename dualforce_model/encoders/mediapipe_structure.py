"""Structure by MediaPipe alone, whose weights are small and free: 52 blend shapes, turn, place and size of the head.

It cannot tell who a face is from what it does as LivePortrait can, so there are no key points at rest.
Legend: T frames, m = 62 entries of a row.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Float32, UInt8

from dualforce_model.encoders.base import Modality
from dualforce_model.encoders.face_mesh import NUM_BLENDSHAPES, MeshEncoder, MeshTrack
from dualforce_model.layout import Layout, Part

SOURCE = "MediaPipe"
NUM_MESH = 468  # points of the face itself; the irises come after them
MP62 = Layout(
    name="mp62",
    version=1,
    parts=(
        Part(
            name="blendshapes",
            start=0,
            stop=NUM_BLENDSHAPES,
            unit="0 to 1, in MediaPipe's order",
            source=SOURCE,
            at_rest=(0,),  # the neutral one
        ),
        Part(name="rotation", start=52, stop=58, unit="first two rows of the head's rotation", source=SOURCE),
        Part(name="translation", start=58, stop=61, unit="cm: right, up, towards the camera", source=SOURCE),
        Part(name="scale", start=61, stop=62, unit="mesh's radius over the frame's width", source=SOURCE),
    ),
)


class MediaPipeStructure(MeshEncoder):
    """Frames of a face crop to rows of `mp62`. Frame t's depends on frames 0 .. t alone, once a face is seen."""

    name: ClassVar[str] = "mediapipe_structure"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "structure"

    @property
    def layout(self) -> Layout:
        """What each entry of a row is."""
        return MP62

    @property
    def num_features(self) -> int:
        """m, the width of a row."""
        return MP62.num_entries

    def __call__(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T 62"]:
        """Rows of every frame. Raises NoFaceError."""
        track = self._mesh.track(frames)
        return rows_of(track, frames.shape[2])

    def landmarks(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T 468 2"]:
        """The mesh, without the irises, as shares of the frames' width and height. Raises NoFaceError."""
        points = self._mesh.track(frames).points[:, :NUM_MESH, :2]
        return np.asarray(points / np.array(frames.shape[2:0:-1], np.float32), np.float32)


def rows_of(track: MeshTrack, width_px: int) -> Float32[np.ndarray, "T 62"]:
    """Rows of a face's track in frames of that width."""
    linear = track.poses[:, :3, :3].astype(np.float64)
    unit = linear / np.cbrt(np.linalg.det(linear))[:, None, None]
    points = track.points[..., :2].astype(np.float64)
    spread = points - points.mean(axis=1, keepdims=True)
    radius = np.sqrt((spread**2).sum(axis=2).mean(axis=1)) / width_px
    return MP62.join(
        {
            "blendshapes": track.blendshapes,
            "rotation": unit[:, :2].reshape(-1, 6),
            "translation": track.poses[:, :3, 3],
            "scale": radius[:, None],
        }
    )
