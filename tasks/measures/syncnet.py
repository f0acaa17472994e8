"""SyncNet: do the lips belong to the sound, and how far apart are the two? The net that most papers judge lips with.

It sees what it was trained on, the face's own square of `dualforce_model.encoders.syncnet.faces`, cut out of the held
pictures and not out of the crop: the crop stands still while the square follows the face, and reaches lower.
"""

from typing import Any, ClassVar

import numpy as np

from dualforce_model import clock, storage
from dualforce_model.pretrained import PRETRAINED, Weights, fingerprint
from tasks import faces
from tasks.evidence import Evidence, People
from tasks.measures.base import MeasureConfig
from tasks.quality import no_face_sought
from tasks.records import Score

WEIGHTS = PRETRAINED["syncnet"]
PUBLISHED = WEIGHTS.files[0].sha256  # scores of papers are made with it


class SyncNetMeasure:
    """Offset and confidence over all windows of a clip. Takes about 0.1 s of one core per frame."""

    name: ClassVar[str] = "syncnet"
    version: ClassVar[int] = 1
    weights: ClassVar[Weights] = WEIGHTS
    scores: ClassVar[tuple[str, ...]] = ("sound_offset_ms", "sync_confidence")
    needs_face: ClassVar[bool] = True
    needs_landmarks: ClassVar[bool] = False

    def __init__(self, config: MeasureConfig) -> None:
        self.config = config
        self.path = WEIGHTS.find(config.weights)
        self._net: Any = None
        self.method = "SyncNet"

    def fingerprint(self) -> str:
        return fingerprint(self.name, self.version, self.path, self.config)

    def load(self) -> None:
        # Torch takes seconds to import, and the driver only asks for fingerprints.
        from dualforce_model.encoders.syncnet import FACE_PX, WINDOW_FRAMES, load_syncnet
        from dualforce_model.weight_files import WeightsError

        WEIGHTS.read(self.path)  # what is empty, a pointer, or too large
        try:
            net = load_syncnet(self.path)
        except WeightsError as error:
            raise WEIGHTS.damaged(self.path, error) from error
        blank = np.zeros((WINDOW_FRAMES + 1, FACE_PX, FACE_PX, 3), np.uint8)
        answers = net.paired_features(blank, np.zeros(clock.num_samples(len(blank)), np.float32))
        if not all(np.isfinite(answer).all() for answer in answers):
            raise WEIGHTS.damaged(self.path, "its answers are not numbers")
        digest = storage.file_digest(self.path)
        # Scores are those of papers with one file alone; with others they say whose they are.
        self.method = "SyncNet v2" if digest == PUBLISHED else f"SyncNet, weights {digest[:8]}"
        self._net = net

    def __call__(self, clip: Evidence) -> dict[str, Score]:
        if clip.people is None:
            return dict.fromkeys(self.scores, no_face_sought())
        assert self._net is not None, "load() comes first"
        from dualforce_model.encoders.syncnet import REACH, WINDOW_FRAMES, num_windows

        num_lags = 2 * REACH + 1
        if not len(clip.sound) or float(np.ptp(clip.sound)) == 0.0:
            return self._unmeasured("needs sound")
        if num_windows(len(clip.crops), len(clip.sound)) < num_lags:  # at the outer lags nothing would be compared
            return self._unmeasured(f"needs {(num_lags + WINDOW_FRAMES) / clock.FPS:.2f} s of picture and sound")
        return self._scores(self._distances(clip, clip.people))

    def _distances(self, clip: Evidence, people: People) -> np.ndarray:
        from dualforce_model.encoders.syncnet import face_pictures, mean_distances

        held, num_frames = clip.footage.frames, len(clip.crops)
        boxes = faces.per_frame(people.main, num_frames) * held.scale
        pictures = face_pictures((held[index] for index in range(num_frames)), boxes)
        return mean_distances(*self._net.paired_features(pictures, clip.sound))

    def _scores(self, curve: np.ndarray) -> dict[str, Score]:
        from dualforce_model.encoders.syncnet import agree

        agreement = agree(curve)
        confidence = Score(method=self.method, value=agreement.confidence)
        best = np.flatnonzero(curve == curve.min())
        if len(best) > 1:
            offset = Score(method=f"{self.method}: several lags fit alike")
        elif int(best[0]) in (0, len(curve) - 1):
            offset = Score(method=f"{self.method}: the best lag is the furthest that is looked at")
        else:
            offset = Score(method=self.method, value=agreement.sound_late_ms)
        return {"sound_offset_ms": offset, "sync_confidence": confidence}

    def _unmeasured(self, why: str) -> dict[str, Score]:
        return dict.fromkeys(self.scores, Score(method=f"{self.method}: {why}"))
