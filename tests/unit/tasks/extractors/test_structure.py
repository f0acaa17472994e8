"""The structure extractor: rows, key points at rest where the encoder tells them, and its table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualforce_model.encoders import ENCODERS, EncoderChoice, FaceDctStructure
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.encoders.structure import Measured
from dualforce_model.layout import Layout, Part
from dualforce_model.schema import check_feature, check_shapes
from tasks.extract import ExtractConfig, make_extractors
from tasks.extractors import CropMedia, Structure, StructureConfig
from tasks.extractors.structure import layouts_of
from tests.unit.dualforce_model.encoders.landmark_nets import save_detector, save_first, save_motion_extractor
from tests.unit.dualforce_model.encoders.tiny import make_scarce

FRAMES = 5
LAYOUT = Layout(name="all", version=3, parts=(Part(name="row", start=0, stop=32, unit="any", source="test"),))


class Resting(FaceDctStructure):
    """As an encoder that tells who a face is from what it does, with a table of its own."""

    layout = LAYOUT  # type: ignore[assignment]

    def measure(self, frames: np.ndarray) -> Measured:
        return Measured(self(frames), frames.mean(axis=(1, 2)))


def crop() -> CropMedia:
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 48, 48, 3), np.uint8)
    return CropMedia(frames, np.zeros(0, np.float32))


def test_an_encoder_of_rows_alone_gives_what_it_gave() -> None:
    extractor = Structure(StructureConfig())
    feature = extractor(crop())
    assert feature.keys() == {"motion"}
    assert np.array_equal(feature["motion"], FaceDctStructure()(crop().frames))
    assert extractor.layout is None
    assert extractor.fingerprint() == "80d79042e360556c5821722c3ae998aa"  # of before there was more: nothing is stale
    assert layouts_of(make_extractors(ExtractConfig())) == {}


def test_key_points_at_rest_are_stored_beside_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "resting", Resting)
    config = StructureConfig(encoder=EncoderChoice(name="resting"))
    extractor = Structure(config)
    feature = extractor(crop())
    check_feature("structure", "c", feature)
    check_shapes("structure", "c", FRAMES, {name: array.shape for name, array in feature.items()})
    np.testing.assert_allclose(feature["canonical"], crop().frames.mean(axis=(1, 2)), rtol=1e-6)
    assert layouts_of(make_extractors(ExtractConfig(structure=config))) == {"structure": LAYOUT}


def test_frames_of_several_crops_share_passes_and_one_without_a_face_is_told(tmp_path: Path) -> None:
    extractor = Structure(StructureConfig(encoder=EncoderChoice(name="liveportrait", config=liveportrait(tmp_path))))
    extractor.load()
    assert extractor.gains
    crops = [CropMedia(faces(count), np.zeros(0, np.float32)) for count in (2, 0, 1)]
    sizes = make_scarce(extractor._encoder._net, 3)
    first, lacking, third = extractor.many(crops)
    assert sizes == [3]
    assert isinstance(lacking, NoFaceError)
    for found, crop in ((first, crops[0]), (third, crops[2])):
        assert not isinstance(found, NoFaceError)
        for name, array in extractor(crop).items():
            np.testing.assert_allclose(found[name], array, atol=1e-4)
    assert not Structure(StructureConfig()).gains
    with pytest.raises(NoFaceError, match="a face in 0 of 1 frames"):
        extractor(crops[1])


def liveportrait(folder: Path) -> dict[str, Any]:
    save_detector(folder / "det_10g.onnx")
    save_first(folder / "2d106det.onnx")
    weights = save_motion_extractor(folder / "motion_extractor.safetensors")
    return {"weights": weights, "landmark_weights": {"detector": folder, "first": folder}, "refine": False}


def faces(count: int) -> np.ndarray:
    """So many frames with a face (a red cell, for the small detector); for none one frame without."""
    frames = np.full((max(count, 1), 256, 256, 3), 100, np.uint8)
    for t in range(count):
        frames[t, 96:128, 96 + 8 * t : 128 + 8 * t] = (255, 0, 0)
    return frames
