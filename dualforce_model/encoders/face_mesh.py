"""The mesh of a face in every frame: MediaPipe's Face Landmarker, followed through a clip.

mesh = FaceMesh(FaceMeshConfig())
mesh.load()
track = mesh.track(frames)          # 478 points, 52 blend shapes and the head's pose of every frame

Its library (1.2.2) reports usage statistics to Google while it runs, as its privacy notice says, and offers no switch:
where that may not be, close the way out of the machine. No picture is in what it sends, says the same notice.
"""

import importlib.util
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import google_crc32c
import numpy as np
from jaxtyping import Bool, Float32, UInt8
from pydantic import Field

from dualforce_model.clock import FPS
from dualforce_model.config import ConfigError, Frozen, digest
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.pretrained import PRETRAINED, Weights, weights_digest

NUM_POINTS = 478  # the last ten are the irises
WEIGHTS = replace(PRETRAINED["mediapipe"], name="face mesh", model="mediapipe", setting="the face mesh's weights")
# fmt: off
BLENDSHAPES = (  # in MediaPipe's order: ARKit's names without tongueOut, after a neutral one that says nothing
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)
# fmt: on
NUM_BLENDSHAPES = len(BLENDSHAPES)


class FaceMeshConfig(Frozen):
    """How the mesh is found."""

    weights: Path | None = Field(None, description="face_landmarker.task or its folder; empty: the default folder")
    min_score: float = Field(0.5, gt=0.0, le=1.0, description="of the landmarker: below it there is no face")
    min_seen: float = Field(0.5, ge=0.0, le=1.0, description="share of frames that must show a face")


class MeshTrack(NamedTuple):
    """The face of every frame. Where it is not seen its values are those of the last frame that showed it."""

    points: Float32[np.ndarray, "T 478 3"]  # x, y in pixels of the frame; z in pixels too, smaller is nearer
    blendshapes: Float32[np.ndarray, "T 52"]  # 0 to 1, as in BLENDSHAPES
    poses: Float32[np.ndarray, "T 4 4"]  # of MediaPipe's own head (columns), in cm; the camera looks along -z, y is up
    seen: Bool[np.ndarray, " T"]


class FaceMesh:
    """Frames to meshes. Causal but for frames before the first that shows a face, which are given that one's."""

    version: ClassVar[int] = 1  # rises whenever equal frames would give another track

    def __init__(self, config: FaceMeshConfig | None = None) -> None:
        if importlib.util.find_spec("mediapipe") is None:
            raise ConfigError("face mesh: the package mediapipe is not installed; pip install 'dualforce[encoders]'")
        self.config = config or FaceMeshConfig()
        self.path = WEIGHTS.find(self.config.weights)
        self._content: bytes | None = None
        self._content_digest = ""

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the landmarker's file."""
        return weights_digest(WEIGHTS.name, self.path)

    def load(self) -> None:
        """Read the model and see that it opens. Raises DamagedWeightsError, or ConfigError where the library fails."""
        content = WEIGHTS.read(self.path)
        _open(content, self.path, self.config.min_score).close()
        self._content, self._content_digest = content, sha256(content).hexdigest()

    def track(self, frames: UInt8[np.ndarray, "T H W 3"]) -> MeshTrack:
        """The mesh of every RGB frame, at 25 a second; one picture is a clip of one frame.

        Raises NoFaceError where less than `min_seen` of the frames, or none, show a face.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise ValueError(f"frames are {frames.dtype} {frames.shape}: expected uint8 [T, H, W, 3] with T >= 1")
        assert self._content is not None, "load() comes first"
        how = f"{self._content_digest} {self.config.min_score}"
        return followed(_LOOKS(frames, how, partial(self._look, frames)), self.config.min_seen)

    def _look(self, frames: UInt8[np.ndarray, "T H W 3"]) -> list["Look | None"]:
        assert self._content is not None, "load() comes first"
        net = _open(self._content, self.path, self.config.min_score)  # what it followed before is another clip's
        try:
            return [_looked(net, frame, round(1000 * index / FPS)) for index, frame in enumerate(frames)]
        finally:
            net.close()


class Look(NamedTuple):
    """The face of one frame."""

    points: Float32[np.ndarray, "478 3"]
    blendshapes: Float32[np.ndarray, " 52"]
    pose: Float32[np.ndarray, "4 4"]


class LooksAtHand:
    """What was seen in frames, for as long as somebody holds them: several encoders of a worker ask for the same mesh.

    Frames are known by the very array and by a checksum of their pixels: what is written over is looked at anew.
    """

    def __init__(self) -> None:
        self._known: dict[int, dict[tuple[int, str], list[Look | None]]] = {}  # by the array's id

    def __call__(
        self, frames: UInt8[np.ndarray, "T H W 3"], how: str, look: Callable[[], list[Look | None]]
    ) -> list[Look | None]:
        place = id(frames)
        if place not in self._known:
            self._known[place] = {}
            weakref.finalize(frames, self._known.pop, place, None).atexit = False
        seen = self._known[place]
        key = _checksum(frames), how
        if key not in seen:
            seen[key] = look()
        return seen[key]

    def __len__(self) -> int:
        return len(self._known)


def _checksum(frames: UInt8[np.ndarray, "T H W 3"]) -> int:
    pixels = np.ascontiguousarray(frames).reshape(-1).view()
    pixels.flags.writeable = False  # the library takes nothing else
    return int(google_crc32c.value(pixels))


_LOOKS = LooksAtHand()


def followed(looks: list[Look | None], min_seen: float) -> MeshTrack:
    """A track of what single frames show: gaps are filled from before, the first one from after."""
    seen = np.array([look is not None for look in looks])
    if not seen.any():
        raise NoFaceError(f"no face in any of {len(looks)} frames; expected one in {min_seen:.0%} or more")
    if seen.mean() < min_seen:
        share = f"{seen.sum()} of {len(looks)} frames ({seen.mean():.0%})"
        raise NoFaceError(f"a face in {share} only; expected one in {min_seen:.0%} or more")
    last = np.maximum.accumulate(np.where(seen, np.arange(len(looks)), -1))
    last[last < 0] = int(seen.argmax())
    filled = [look for index in last if (look := looks[index]) is not None]
    return MeshTrack(
        points=np.stack([look.points for look in filled]),
        blendshapes=np.stack([look.blendshapes for look in filled]),
        poses=np.stack([look.pose for look in filled]),
        seen=seen,
    )


def _looked(net: Any, frame: UInt8[np.ndarray, "H W 3"], time_ms: int) -> Look | None:
    import mediapipe

    picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
    said = net.detect_for_video(picture, time_ms)
    if not said.face_landmarks:
        return None
    height, width = frame.shape[:2]
    points = np.array([(point.x, point.y, point.z) for point in said.face_landmarks[0]]) * (width, height, width)
    shapes = [shape.score for shape in said.face_blendshapes[0]]
    pose = said.facial_transformation_matrixes[0]
    return Look(points.astype(np.float32), np.array(shapes, np.float32), np.array(pose, np.float32))


def _open(content: bytes, path: Path, min_score: float) -> Any:
    """A landmarker for one clip."""
    try:
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=content),
            running_mode=vision.RunningMode.VIDEO,
            num_faces=1,
            min_face_detection_confidence=min_score,
            min_face_presence_confidence=min_score,
            min_tracking_confidence=min_score,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        return vision.FaceLandmarker.create_from_options(options)
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"face mesh: its library does not load: {error}; it needs libEGL.so.1 and libGLESv2.so.2 "
            "(Debian and Ubuntu: apt install libegl1 libgles2)"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise WEIGHTS.damaged(path, error) from error


class MeshEncoder:
    """What encoders have in common that read the mesh and nothing else. They run on the CPU whatever the device."""

    name: ClassVar[str]
    version: ClassVar[int]
    config_type: ClassVar[type[Frozen]] = FaceMeshConfig
    weights: ClassVar[Weights | None] = WEIGHTS

    def __init__(self, config: FaceMeshConfig | None = None) -> None:
        self._mesh = FaceMesh(config)

    @property
    def config(self) -> FaceMeshConfig:
        """What this encoder was built with."""
        return self._mesh.config

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the landmarker's file."""
        return self._mesh.weights_digest

    def fingerprint(self) -> str:
        """32 hex digits over name, version, config and what is in the weights."""
        settings = self.config.model_dump(mode="json", exclude={"weights"})
        return digest(self.name, self.version, self._mesh.version, settings, self.weights_digest)

    def load(self, device: str = "cpu") -> None:
        """Read the landmarker. Raises DamagedWeightsError."""
        self._mesh.load()
