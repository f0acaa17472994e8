"""The extractor of FLAME parameters: what it stores, by the stand-in that needs no licence."""

from pathlib import Path

import numpy as np
import pytest
from skimage import data

from dualforce_model.config import ConfigError
from dualforce_model.encoders import EncoderChoice
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.schema import check_feature, check_shapes
from tasks.extractors import EXTRACTORS, CropMedia, Flame, FlameConfig

FRAMES = 5


@pytest.fixture(scope="module")
def extractor(shared: Path) -> Flame:
    pytest.importorskip("mediapipe")
    choice = EncoderChoice(name="mediapipe_flame", config={"weights": str(shared / "models")})
    made = Flame(FlameConfig(encoder=choice))
    try:
        made.load()
    except ConfigError as error:  # a system library is missing
        pytest.skip(str(error))
    return made


def test_a_feature_is_what_the_schema_says(extractor: Flame) -> None:
    frames = np.ascontiguousarray(data.astronaut())[None].repeat(FRAMES, axis=0)
    feature = extractor(CropMedia(frames, np.zeros(0, np.float32)))
    check_feature("flame", "clip", feature)
    check_shapes("flame", "clip", FRAMES, {name: array.shape for name, array in feature.items()})
    assert {name: array.shape for name, array in feature.items()} == {
        "parameters": (FRAMES, 159),
        "eyelids": (FRAMES, 2),
    }
    assert EXTRACTORS["flame"] is Flame
    assert extractor.layout.name == "blendshapes159"
    assert len(extractor.fingerprint()) == 32
    assert extractor.needs == {"frames"}


def test_a_crop_without_a_face_is_told(extractor: Flame) -> None:
    with pytest.raises(NoFaceError):
        extractor(CropMedia(np.zeros((FRAMES, 32, 32, 3), np.uint8), np.zeros(0, np.float32)))


def test_several_crops_are_told_one_by_one(extractor: Flame) -> None:
    """MediaPipe follows one clip at a time: nothing is gained, and a crop without a face costs the others nothing."""
    assert not extractor.gains
    frames = np.ascontiguousarray(data.astronaut())[None]
    crops = [CropMedia(each, np.zeros(0, np.float32)) for each in (frames, np.zeros_like(frames))]
    found, lacking = extractor.many(crops)
    assert isinstance(lacking, NoFaceError)
    assert not isinstance(found, NoFaceError)
    assert np.array_equal(found["parameters"], extractor(crops[0])["parameters"])


def test_smirk_is_what_is_taken_where_nothing_is_said() -> None:
    assert FlameConfig().encoder.name == "smirk"
