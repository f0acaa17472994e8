"""Measures with the small public weights that lie beside the project, and a short clip for them to look at."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from dualforce_model.media import Picture
from tasks import quality
from tasks.detectors import Face
from tasks.evidence import Evidence, People
from tasks.faces import SquareBox, link
from tasks.footage import Footage, HeldFrames
from tasks.measures import MEASURES, Measure, MeasureConfig, make_measures
from tests.pickled import save_pickled

# Weights below ../shared/models; a measure that is not here has none that small, and its contract is skipped by name.
MODELS = {"silero": "silero_vad.onnx", "identity": "mobilefacenet.onnx", "mesh": "face_landmarker.task"}
# Eyes, nose and mouth corners of the astronaut, by eye.
LANDMARKS = np.array([(204.0, 102.0), (247.0, 104.0), (225.0, 128.0), (203.0, 141.0), (246.0, 143.0)])
EVERY = 5

EvidenceOf = Callable[..., Evidence]


@pytest.fixture(scope="session")
def made_syncnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SyncNet with weights drawn at random, in the form in which its own are published."""
    import torch

    from dualforce_model.encoders.syncnet import SyncNet

    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.model"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_pickled(SyncNet().state_dict(), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def model_of(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """The weights of a measure by name; skips by name where they are not here."""

    def model(name: str) -> Path:
        if name == "syncnet":
            made: Path = request.getfixturevalue("made_syncnet")
            return made
        if name not in MODELS:
            pytest.skip(f"{name}: no {MEASURES[name].weights.pattern} is small enough for tests")
        path: Path = request.getfixturevalue("shared") / "models" / MODELS[name]
        if not path.is_file():
            pytest.skip(f"{name} needs {path.name} in the folder of shared models")
        return path

    return model


@pytest.fixture
def measure_of(model_of: Callable[[str], Path]) -> Callable[[str], Measure]:
    """A loaded measure by name."""

    def loaded(name: str) -> Measure:
        (measure,) = make_measures({name: MeasureConfig(weights=model_of(name))})
        measure.load()
        return measure

    return loaded


def evidence(
    faces: list[np.ndarray] | None = None,
    sound: np.ndarray | None = None,
    landmarks: np.ndarray | None = LANDMARKS,
    *,
    face: bool = True,
) -> Evidence:
    """A clip of 512 x 512 pictures, looked at in every fifth frame, with one face from (150, 40) to (290, 190)."""
    pictures = faces or [np.ascontiguousarray(data.astronaut())] * 11
    frames, sightings = HeldFrames(), []
    points = None if landmarks is None else tuple((float(x), float(y)) for x, y in landmarks)
    for index, picture in enumerate(pictures):
        frames.add(Picture.of(picture))
        if index % EVERY == 0:
            sightings.append((index, [Face((150.0, 40.0, 290.0, 190.0), 1.0, points)]))
    height, width = pictures[0].shape[:2]
    footage = Footage(frames, [quality.glance(Picture.of(picture)) for picture in pictures], sightings, width, height)
    people = None
    if face:
        (track,) = link(sightings, 2 * EVERY)
        people = People(track, (track,))
    box = SquareBox(100, 0, 240)
    crops = [Picture.of(cv2.resize(picture[0:240, 100:340], (96, 96))) for picture in pictures]
    return Evidence(footage, people, box, crops, np.zeros(0, np.float32) if sound is None else sound)


@pytest.fixture
def evidence_of() -> EvidenceOf:
    """`evidence` for tests, which cannot import this file."""
    return evidence
