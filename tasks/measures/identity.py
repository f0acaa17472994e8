"""Whether the main face stays one person's: how alike a face-embedding net finds it to itself over the clip.

A track goes from one face to another where two people's faces follow each other in one place: a cut that was not seen,
a dissolve, a face swapped in. Looks are compared in pairs, not with their mean: of two people with half a clip each,
the mean is as near to both.
"""

from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from dualforce_model.onnx_session import open_session, tried
from dualforce_model.pretrained import PRETRAINED, Weights, fingerprint
from tasks.evidence import Evidence, People
from tasks.measures.base import MeasureConfig
from tasks.quality import no_face_sought
from tasks.records import Score

METHOD = "face embeddings"
FACE_PX = 112  # side of the aligned face
# Where eyes, nose and mouth corners lie in it, in the order of `Face.landmarks`: as ArcFace nets were trained.
TEMPLATE: Float64[np.ndarray, "5 2"] = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
MAX_LOOKS = 16  # spread over the track
MIN_LOOKS = 2
# Percentile of all pairs' cosines: one look of 16 is in an eighth of the pairs, so that another's face in it shows.
PERCENTILE = 10.0
FEWEST_NUMBERS = 64  # that a net describes a face with
SMALLEST_PX = 4.0  # extent of landmarks below which rounding decides where the face lies
WEIGHTS = PRETRAINED["identity"]


class Identity:
    """Any net in ArcFace's form: one aligned face [1, 3, 112, 112], RGB in [-1, 1], becomes one vector."""

    name: ClassVar[str] = "identity"
    version: ClassVar[int] = 1
    weights: ClassVar[Weights] = WEIGHTS
    scores: ClassVar[tuple[str, ...]] = ("identity",)
    needs_face: ClassVar[bool] = True
    needs_landmarks: ClassVar[bool] = True

    def __init__(self, config: MeasureConfig) -> None:
        self.config = config
        self.path = WEIGHTS.find(config.weights)
        self._net: Any = None
        self._input = ""

    def fingerprint(self) -> str:
        return fingerprint(self.name, self.version, self.path, self.config)

    def load(self) -> None:
        net = open_session(WEIGHTS, self.path)
        taken = net.get_inputs()[0].name
        answers = tried(WEIGHTS, self.path, net, {taken: _question(np.zeros((FACE_PX, FACE_PX, 3), np.uint8))})
        shapes = [answer.shape for answer in answers]
        if len(answers) != 1 or answers[0].ndim != 2 or len(answers[0]) != 1 or answers[0].shape[1] < FEWEST_NUMBERS:
            raise WEIGHTS.damaged(self.path, f"it answers {shapes}, expected one vector [1, {FEWEST_NUMBERS} or more]")
        self._net, self._input = net, taken

    def __call__(self, clip: Evidence) -> dict[str, Score]:
        return {"identity": no_face_sought() if clip.people is None else self._score(clip, clip.people)}

    def _score(self, clip: Evidence, people: People) -> Score:
        main, frames = people.main, clip.footage.frames
        if main.landmarks is None:
            return Score(method=f"{METHOD}: need landmarks, and this detector gives none")
        usable = [look for look, points in enumerate(main.landmarks) if _has_place(points)]
        if len(usable) < MIN_LOOKS:
            return Score(method=f"{METHOD}: need {MIN_LOOKS} looks with landmarks, found {len(usable)}")
        chosen = np.linspace(0, len(usable) - 1, min(len(usable), MAX_LOOKS)).round().astype(int)
        vectors = []
        for look in (usable[place] for place in chosen):
            face = aligned(frames[int(main.frames[look])], main.landmarks[look] * frames.scale)
            vectors.append(self.embedding(face))
        return Score(method=METHOD, value=likeness(np.stack(vectors)))

    def embedding(self, face: UInt8[np.ndarray, "112 112 3"]) -> Float32[np.ndarray, " d"]:
        """The net's vector of one aligned face, of length 1."""
        assert self._net is not None, "load() comes first"
        (answer,) = self._net.run(None, {self._input: _question(face)})
        length = float(np.linalg.norm(answer))
        if not 0.0 < length < np.inf:
            raise WEIGHTS.damaged(self.path, "its vector of a face has no direction")
        return np.asarray(answer[0] / length, np.float32)


def likeness(vectors: Float32[np.ndarray, "n d"]) -> float:
    """How alike the looks are, from their vectors of length 1: a low percentile of the cosines of all pairs."""
    first, second = np.triu_indices(len(vectors), 1)
    cosines = (vectors @ vectors.T)[first, second]
    return float(np.clip(np.percentile(cosines, PERCENTILE), -1.0, 1.0))


def aligned(frame: UInt8[np.ndarray, "H W 3"], landmarks: Float64[np.ndarray, "5 2"]) -> UInt8[np.ndarray, "112 112 3"]:
    """The face turned, moved and scaled so that its landmarks lie nearest to the template's; black beyond the picture.

    As complex numbers a similarity is z -> turn * z + shift, and least squares has a closed form.
    """
    points, places = landmarks @ (1, 1j), TEMPLATE @ (1, 1j)
    from_centre = points - points.mean()
    turn = np.vdot(from_centre, places - places.mean()) / np.vdot(from_centre, from_centre)
    shift = places.mean() - turn * points.mean()
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    return np.asarray(cv2.warpAffine(frame, matrix, (FACE_PX, FACE_PX), flags=cv2.INTER_LINEAR))


def _has_place(landmarks: Float64[np.ndarray, "5 2"]) -> bool:
    """Whether a face can be aligned by these: a look may have given none, or all of them in one point."""
    return bool(np.isfinite(landmarks).all()) and float(np.ptp(landmarks, axis=0).max()) >= SMALLEST_PX


def _question(face: UInt8[np.ndarray, "112 112 3"]) -> Float32[np.ndarray, "1 3 112 112"]:
    return ((face.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
