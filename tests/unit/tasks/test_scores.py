"""One set of scores in every mode."""

import numpy as np
import pytest

from dualforce_model.media import Picture
from tasks import quality
from tasks.detectors import Face
from tasks.evidence import Evidence, People
from tasks.faces import centre_box, link
from tasks.footage import Footage, HeldFrames
from tasks.policy import ACROSS_CLIPS, DropRules, WeightRules
from tasks.records import Score
from tasks.scores import FACE_SCORES, scores_of_clip

NUM_FRAMES = 25


@pytest.fixture(scope="module")
def footage() -> Footage:
    rng = np.random.default_rng(0)
    frames, sightings = HeldFrames(), []
    scene = Picture.of(rng.integers(0, 255, (90, 120, 3), np.uint8))
    for index in range(NUM_FRAMES):
        frames.add(scene)
        if index % 5 == 0:
            sightings.append((index, [Face((30.0, 20.0, 80.0, 75.0), 1.0)]))
    return Footage(frames, [quality.glance(scene)] * NUM_FRAMES, sightings, 120, 90)


def test_both_modes_give_scores_of_the_same_names(footage: Footage) -> None:
    (track,) = link(footage.sightings, 10)
    crops = [Picture.of(np.zeros((64, 64, 3), np.uint8))] * NUM_FRAMES
    sound = np.random.default_rng(1).normal(0, 0.1, 16000).astype(np.float32)
    square = centre_box(footage.width, footage.height)
    with_face = scores_of_clip(Evidence(footage, People(track, (track,)), square, crops, sound))
    general = scores_of_clip(Evidence(footage, None, square, crops, sound))
    assert set(with_face) == set(general) == set(DropRules.model_fields) - ACROSS_CLIPS
    assert set(WeightRules.model_fields) <= set(with_face)
    for name, score in general.items():
        if name in FACE_SCORES:
            assert score == Score(method="mode general: no face is looked for")
        else:
            assert score == with_face[name]
    assert (with_face["face_px"].value, with_face["people_share"].value) == (55.0, 0.0)


def test_without_sound_the_sound_scores_say_so(footage: Footage) -> None:
    square = centre_box(footage.width, footage.height)
    crops = [Picture.of(np.zeros((64, 64, 3), np.uint8))] * NUM_FRAMES
    scores = scores_of_clip(Evidence(footage, None, square, crops, np.zeros(0, np.float32)))
    assert scores["loudness_db"].value == quality.SILENCE_DB
    assert scores["speech_share"].value == 0
    assert scores["snr_db"].value is None
