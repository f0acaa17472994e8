"""How sure the cascade is, and what it is asked to be."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dualforce_model import media
from dualforce_model.encoders.cascade import detect_faces, weigh_faces
from tasks.curation import CurateConfig, crop_picture
from tasks.detectors import Detector, DetectorConfig, Face, make_detector


def cascade(min_score: float) -> Detector:
    detector = make_detector(DetectorConfig(min_score=min_score))
    detector.load()
    return detector


def test_weighed_boxes_are_the_boxes(portrait: np.ndarray) -> None:
    gray = cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY)
    boxes, weights = weigh_faces(gray, 60)
    assert len(boxes) == len(weights) > 0
    overlaps = [box for box in boxes.tolist() if any(abs(box[0] - other[0]) < 12 for other in detect_faces(gray, 60))]
    assert overlaps, "the two searches group candidates alike"
    with pytest.raises(ValueError, match="expected uint8"):
        weigh_faces(portrait, 60)


def test_a_face_is_believed_at_the_score_asked_for_and_at_half_of_it_once_known(portrait: np.ndarray) -> None:
    (face,) = cascade(0.0)(portrait)
    assert 0.5 < face.score < 0.95
    between = face.score + 0.02
    assert cascade(face.score - 0.02)(portrait) == [face]
    assert cascade(between)(portrait) == []
    known = Face(face.box, face.score)
    assert cascade(between)(portrait, [known]), "it was there a moment ago"


def test_who_gives_one_picture_is_believed_to_show_a_face(portrait: np.ndarray) -> None:
    sure = crop_picture(portrait, CurateConfig(crop_px=64), "p.png")
    strict = CurateConfig(crop_px=64, detector=DetectorConfig(min_score=1.0))
    assert np.array_equal(crop_picture(portrait, strict, "p.png"), sure)


@pytest.mark.parametrize(
    ("clip", "seconds"), [("LatentSync/demo1_video.mp4", 10), ("MARLIN/video02.mp4", 6), ("LivePortrait/s13.mp4", 4)]
)
def test_cloth_and_hands_beside_a_real_face_are_no_second_person(shared: Path, clip: str, seconds: int) -> None:
    frames = media.read_frames(shared / "realdata/video" / clip, 0, seconds, 25)
    looked_at = [frame for index, frame in enumerate(frames) if index % 20 == 0]
    lax, strict = cascade(0.0), cascade(0.5)
    assert max(len(lax(frame)) for frame in looked_at) > 1, "the cascade alone takes something else for a face"
    assert max(len(strict(frame)) for frame in looked_at) == 1
