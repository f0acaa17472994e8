"""LivePortrait's motion as structure: what the face does in every frame, and where its key points are at rest.

The square that the net sees stands still for a clip, so that what the head does stays in the numbers. It is that of the
clip's first frame: row t depends on frames 0 .. t alone, and the first row is what that picture alone gives, as at
generation. `box: clip`, upstream's form for videos, looks ahead: it is the mean of the frames' squares, which knows the
whole clip, so that where the head is on the average, now and to come, is taken out of every row's place and size.

Legend: T frames, m entries of a row.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from pydantic import Field, model_validator

from dualforce_model.batching import BatchSize, in_batches
from dualforce_model.config import Frozen, canonical_json, digest
from dualforce_model.encoders.base import Modality, NoFaceError, or_no_face, sure
from dualforce_model.encoders.exact import exact_arithmetic
from dualforce_model.encoders.face_mesh import FaceMesh, FaceMeshConfig, MeshTrack
from dualforce_model.encoders.liveportrait.crops import DRIVING, Square, face_square, mean_square, picture_in
from dualforce_model.encoders.liveportrait.landmarks import openness
from dualforce_model.encoders.liveportrait.layouts import LAYOUTS, LP70, LP128, lp70_fields, lp128_fields
from dualforce_model.encoders.liveportrait.motion import HEADS, Motion, assemble
from dualforce_model.encoders.liveportrait.net import LOOKALIKES, MotionExtractor, load_motion_extractor
from dualforce_model.encoders.liveportrait.points import (
    DenseLandmarks,
    FirstLandmarks,
    LandmarkWeights,
    follow,
    gapless,
    mesh_landmarks,
)
from dualforce_model.encoders.structure import FaceSquare, Measured
from dualforce_model.layout import Layout
from dualforce_model.pretrained import PRETRAINED, Weights, check_vouched, weights_digest
from dualforce_model.weight_files import WeightsError

WEIGHTS = PRETRAINED["liveportrait"]
NOT_NUMBERS = {"weights", "landmark_weights", "batch_frames"}  # settings that change no number


class LivePortraitConfig(Frozen):
    """Settings of LivePortrait's motion."""

    weights: Path | None = Field(None, description="motion_extractor.pth or its folder; null: the default folder")
    landmark_weights: LandmarkWeights = Field(LandmarkWeights(), description="where the nets of the landmarks lie")
    layout: Literal["lp70", "lp128"] = Field(
        "lp70", description="table of a row's entries; lp128 adds eyes, lips and MediaPipe's blend shapes"
    )
    landmarks: Literal["insightface", "mediapipe"] = Field(
        "insightface", description="what finds the face; InsightFace's nets are for non-commercial research only"
    )
    refine: bool = Field(True, description="whether LivePortrait's own landmarks refine those; they set the square")
    box: Literal["clip", "first"] = Field(
        "first",
        description="a clip's square: its first frame's, or the mean of all frames' (upstream's form; it looks ahead)",
    )
    every: int = Field(25, ge=1, le=250, description="frames between two searches by InsightFace, if refined between")
    min_seen: float = Field(0.5, ge=0.0, le=1.0, description="share of frames that must show a face")
    precision: Literal["fp32", "fp16"] = Field(
        "fp32", description="of the motion extractor; fp16 is for GPUs and moves entries by up to 0.006, 0.03 degrees"
    )
    batch_frames: int = Field(
        8, ge=1, le=1024, description="frames that the motion extractor is given at once; fewer where memory runs out"
    )

    @model_validator(mode="after")
    def _measurable(self) -> Self:
        if self.layout == "lp128" and not self.refine:
            raise ValueError("layout lp128 measures eyes and lips on LivePortrait's own landmarks: set refine to true")
        return self


class Face(NamedTuple):
    """What is known of a clip before the motion extractor sees it."""

    frames: UInt8[np.ndarray, "T H W 3"]
    square: Square
    points: Float32[np.ndarray, "T n 2"]
    track: MeshTrack | None  # where the mesh is looked for


class LivePortraitStructure:
    """Frames of a face crop to rows of `lp70` or `lp128` and to 63 numbers of key points at rest. One picture too."""

    name: ClassVar[str] = "liveportrait"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "structure"
    config_type: ClassVar[type[Frozen]] = LivePortraitConfig
    weights: ClassVar[Weights | None] = WEIGHTS

    def __init__(self, config: LivePortraitConfig | None = None) -> None:
        self._config = config = config or LivePortraitConfig()
        self._path = WEIGHTS.find(config.weights)
        by_mesh = config.landmarks == "mediapipe"
        self._first = None if by_mesh else FirstLandmarks(config.landmark_weights)
        self._dense = DenseLandmarks(config.landmark_weights) if config.refine else None
        self._mesh = FaceMesh(_mesh_config(config)) if by_mesh or config.layout == "lp128" else None
        self._net: MotionExtractor | None = None
        self._batch = BatchSize(config.batch_frames)

    @property
    def config(self) -> LivePortraitConfig:
        """What this encoder was built with."""
        return self._config

    @property
    def layout(self) -> Layout:
        """What each entry of a row is."""
        return LAYOUTS[self._config.layout]

    @property
    def num_features(self) -> int:
        """m, the width of a row."""
        return self.layout.num_entries

    @property
    def weights_digest(self) -> str:
        """Over the files of all nets that are used. Raises UntrustedWeightsError as `load` would."""
        check_vouched([self._path], LOOKALIKES)
        paths = {"motion_extractor": self._path}
        paths |= {} if self._first is None else self._first.paths
        paths |= {} if self._dense is None else {"landmark": self._dense.path}
        digests = {name: weights_digest(self.name, path) for name, path in paths.items()}
        digests |= {} if self._mesh is None else {"mesh": self._mesh.weights_digest}
        return hashlib.sha256(canonical_json(digests).encode()).hexdigest()

    def fingerprint(self) -> str:
        """32 hex digits over name, version, table, what is chosen that changes a number, and what is in the weights."""
        settings = self._config.model_dump(mode="json", exclude=NOT_NUMBERS)
        mesh = 0 if self._mesh is None else self._mesh.version
        return digest(self.name, self.version, mesh, self.layout, settings, self.weights_digest)

    def load(self, device: str = "cpu") -> None:
        """Read all nets; all but the motion extractor stay on the CPU. Raises DamagedWeightsError."""
        for each in (self._first, self._dense, self._mesh):
            if each is not None:
                each.load()
        try:
            self._net = load_motion_extractor(self._path).to(device)
        except WeightsError as error:
            raise WEIGHTS.damaged(self._path, error) from error

    def __call__(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T m"]:
        """Rows of every frame."""
        return self.measure(frames).motion

    def measure(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Measured:
        """Rows and key points at rest of every frame. Raises NoFaceError."""
        return sure(self.many([frames])[0])

    def many(self, clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"]]) -> list[Measured | NoFaceError]:
        """What `measure` says of each clip but for rounding, or why there is nothing; frames of all share passes of the
        motion extractor. Faces are looked for clip by clip.
        """
        faces = [or_no_face(self._face, frames) for frames in clips]
        found = [face for face in faces if not isinstance(face, NoFaceError)]
        measured = iter([self._measured(*each) for each in zip(found, self._motions(found), strict=True)])
        return [face if isinstance(face, NoFaceError) else next(measured) for face in faces]

    def _face(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Face:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise ValueError(f"frames are {frames.dtype} {frames.shape}: expected uint8 [T, H, W, 3] with T >= 1")
        track = self._mesh.track(frames) if self._mesh is not None else None
        points = self._points(frames, None if track is None else track.points)
        return Face(frames, self._square(points), points, track)

    def _measured(self, face: Face, motion: Motion) -> Measured:
        canonical, square = motion.kp.reshape(len(face.frames), -1), FaceSquare(*face.square[:3])
        if self._config.layout == "lp70":
            return Measured(LP70.join(lp70_fields(motion)), canonical, square)
        assert face.track is not None, "lp128 has a mesh"
        fields = lp128_fields(motion, openness(face.points), face.track.blendshapes)
        return Measured(LP128.join(fields), canonical, square)

    def in_square(
        self, motion: Float32[np.ndarray, "T m"], told_in: FaceSquare, wanted: FaceSquare
    ) -> Float32[np.ndarray, "T m"]:
        """The same rows, told in another square of the same frames: the net's unit is half a square's side."""
        fields = dict(self.layout.split(motion))
        smaller = told_in.side / wanted.side
        apart = 2 * np.array([told_in.x - wanted.x, told_in.y - wanted.y, 0.0]) / wanted.side
        fields["scale"] = fields["scale"] * smaller
        fields["t"] = fields["t"] * smaller + apart
        return self.layout.join(fields)

    def landmarks(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T n 2"]:
        """What sets the square, as shares of the frames' width and height. Raises NoFaceError."""
        track = self._mesh.track(frames) if self._mesh is not None else None
        points = self._points(frames, None if track is None else track.points)
        return np.asarray(points / np.array(frames.shape[2:0:-1], np.float32), np.float32)

    def _points(
        self, frames: UInt8[np.ndarray, "T H W 3"], mesh: Float32[np.ndarray, "T 478 3"] | None
    ) -> Float32[np.ndarray, "T n 2"]:
        """Landmarks of every frame, refined where that is chosen."""
        if self._first is not None:
            return gapless(*follow(frames, self._first, self._dense, self._config.every), self._config.min_seen)
        assert mesh is not None, "without InsightFace there is a mesh"
        coarse = mesh_landmarks(mesh)
        if self._dense is None:
            return coarse
        return np.stack([self._dense.refine(frame, points) for frame, points in zip(frames, coarse, strict=True)])

    def _square(self, points: Float32[np.ndarray, "T n 2"]) -> Square:
        return mean_square(points) if self._config.box == "clip" else face_square(points[0], DRIVING)

    def _motions(self, faces: Sequence[Face]) -> list[Motion]:
        """Motion in each clip. Pictures are cut out batch by batch."""
        if not faces:
            return []
        shown = [(frame, face.square) for face in faces for frame in face.frames]
        said = in_batches(self._batch, self._raw, shown)
        motion = assemble({name: np.concatenate([each[name] for each in said]) for name in HEADS})
        ends = np.cumsum([len(face.frames) for face in faces])[:-1]
        return [Motion(*each) for each in zip(*(np.split(part, ends) for part in motion), strict=True)]

    @exact_arithmetic()
    def _raw(self, shown: Sequence[tuple[UInt8[np.ndarray, "H W 3"], Square]]) -> dict[str, Float32[np.ndarray, "b n"]]:
        assert self._net is not None, "load() comes first"
        kind = next(self._net.parameters()).device.type
        pictures = np.stack([picture_in(frame, square) for frame, square in shown])
        with torch.autocast(kind, torch.float16, enabled=self._config.precision == "fp16"):
            return self._net.raw(pictures, len(pictures))


def _mesh_config(config: LivePortraitConfig) -> FaceMeshConfig:
    return FaceMeshConfig.model_validate({"weights": config.landmark_weights.mesh, "min_seen": config.min_seen})
