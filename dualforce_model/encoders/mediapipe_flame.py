"""In FLAME's place where nobody may use its nets: the head's turn, a rough jaw, and blend shapes, all of MediaPipe's.

What it is: rows as wide as FLAME's, whose motion training can align structure with. The head's turn is measured, and
in FLAME's axes. What it is not: FLAME. Expression is 50 of the blend shapes as they are (0 to 1), which no FLAME model
draws; the jaw is `jawOpen` and the sideways ones times the angles of a jaw that does this fully; shape and camera are
0. The table's name says so: `blendshapes159`, where the nets of FLAME make `flame159`.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32, UInt8

from dualforce_model import flame
from dualforce_model.encoders.base import Modality
from dualforce_model.encoders.face_mesh import BLENDSHAPES, MeshEncoder
from dualforce_model.encoders.flame_rows import FlameTrack, stand_in_layout
from dualforce_model.layout import Layout
from dualforce_model.rotations import axis_angles, nearest

LEFT_OUT = ("_neutral", "jawOpen")  # says nothing; is the jaw's
EXPRESSION = tuple(index for index, name in enumerate(BLENDSHAPES) if name not in LEFT_OUT)
JAW_OPEN_RADIANS = 0.35  # 20 degrees
JAW_SIDEWAYS_RADIANS = 0.1


class MediaPipeFlame(MeshEncoder):
    """Frames to rows [T,159] of `blendshapes159`. Runs on the processor, wherever it is told to be loaded."""

    name: ClassVar[str] = "mediapipe_flame"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "flame"
    layout: ClassVar[Layout] = stand_in_layout(
        f"0 to 1: MediaPipe's blend shapes in its order, without {' and '.join(LEFT_OUT)}", "MediaPipe"
    )

    @property
    def num_features(self) -> int:
        """Entries per frame: 159."""
        return flame.NUM_PARAMETERS

    def track(self, frames: UInt8[np.ndarray, "T H W 3"]) -> FlameTrack:
        """Rows of every RGB frame; one picture is a clip of one frame. Raises NoFaceError."""
        mesh = self._mesh.track(frames)
        fields = {
            "shape": np.zeros((len(frames), 100), np.float32),
            "expression": mesh.blendshapes[:, EXPRESSION],
            "pose": axis_angles(nearest(mesh.poses[:, :3, :3])),
            "jaw": jaw(mesh.blendshapes),
            "camera": np.zeros((len(frames), 3), np.float32),
        }
        return FlameTrack(self.layout.join(fields), eyelids(mesh.blendshapes), mesh.seen)

    def __call__(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T 159"]:
        """`track`'s parameters alone."""
        return self.track(frames).parameters


def jaw(blendshapes: Float[np.ndarray, "T 52"]) -> Float32[np.ndarray, "T 3"]:
    """A jaw as FLAME turns it, axis-angle: x opens, y moves the chin to the face's own left."""
    opened, left, right = (
        blendshapes[:, BLENDSHAPES.index(name)].astype(np.float32) for name in ("jawOpen", "jawLeft", "jawRight")
    )
    sideways = JAW_SIDEWAYS_RADIANS * (left - right)
    return np.stack([JAW_OPEN_RADIANS * opened, sideways, np.zeros_like(opened)], axis=1).astype(np.float32)


def eyelids(blendshapes: Float[np.ndarray, "T 52"]) -> Float32[np.ndarray, "T 2"]:
    """How far the face's own left and right eye are shut."""
    return blendshapes[:, [BLENDSHAPES.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]].astype(np.float32)
