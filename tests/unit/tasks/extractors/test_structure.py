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


class Smoothing(Resting):
    """Rows that know all frames before their own."""

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        rows = super().__call__(frames)
        return np.asarray(np.cumsum(rows, axis=0) / np.arange(1, len(rows) + 1)[:, None], np.float32)


def crop() -> CropMedia:
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 48, 48, 3), np.uint8)
    return CropMedia(frames, np.zeros(0, np.float32))


def test_an_encoder_of_rows_alone_gives_what_it_gave() -> None:
    extractor = Structure(StructureConfig())
    feature = extractor(crop())
    assert feature.keys() == {"motion", "reference_motion", "reference_frames"}
    assert np.array_equal(feature["motion"], FaceDctStructure()(crop().frames))
    assert extractor.layout is None
    assert layouts_of(make_extractors(ExtractConfig())) == {}


def test_key_points_at_rest_are_stored_beside_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "resting", Resting)
    config = StructureConfig(encoder=EncoderChoice(name="resting"))
    extractor = Structure(config)
    feature = extractor(crop())
    check_feature("structure", "c", feature)
    check_shapes("structure", "c", FRAMES, {name: array.shape for name, array in feature.items()})
    np.testing.assert_allclose(feature["canonical"], crop().frames.mean(axis=(1, 2)), rtol=1e-6)
    frames = feature["reference_frames"]
    np.testing.assert_allclose(feature["reference_canonical"], feature["canonical"][frames], rtol=1e-6)
    assert layouts_of(make_extractors(ExtractConfig(structure=config))) == {"structure": LAYOUT}


def test_references_are_what_the_encoder_says_of_each_picture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "smoothing", Smoothing)
    choice = EncoderChoice(name="smoothing")
    feature = Structure(StructureConfig(encoder=choice, num_references=2))(crop())
    assert feature["reference_frames"].tolist() == [0, 2, 4]
    alone = [Smoothing()(crop().frames[i : i + 1])[0] for i in (0, 2, 4)]
    np.testing.assert_array_equal(feature["reference_motion"], alone)
    assert not np.allclose(feature["reference_motion"][2], feature["motion"][4])  # which knows frames 0 to 3
    check_feature("structure", "c", feature)
    assert Structure(StructureConfig(num_references=2)).fingerprint() != Structure(StructureConfig()).fingerprint()


def test_a_picture_that_shows_no_face_by_itself_has_the_clip_s_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shy(Smoothing):
        def measure(self, frames: np.ndarray) -> Measured:
            if len(frames) == 1 and np.array_equal(frames[0], crop().frames[2]):
                raise NoFaceError("no face in any of 1 frames")
            return super().measure(frames)

    monkeypatch.setitem(ENCODERS, "shy", Shy)
    feature = Structure(StructureConfig(encoder=EncoderChoice(name="shy"), num_references=2))(crop())
    for name in ("motion", "canonical"):
        np.testing.assert_array_equal(feature[f"reference_{name}"][1], feature[name][2])
    assert not np.allclose(feature["reference_motion"][2], feature["motion"][4])


def test_references_are_told_in_the_clip_s_square(tmp_path: Path) -> None:
    """The small nets see the same in every square around the same face: places differ by what the head has moved."""
    config = {**liveportrait(tmp_path), "every": 1}
    choice = EncoderChoice(name="liveportrait", config=config)
    extractor = Structure(StructureConfig(encoder=choice, num_references=1))
    extractor.load()
    frames = faces(5)
    feature = extractor(CropMedia(frames, np.zeros(0, np.float32)))
    _, late = feature["reference_frames"]
    encoder = extractor._encoder
    whole, alone = encoder.measure(frames), encoder.measure(frames[late : late + 1])
    moved = alone.square.x - whole.square.x
    assert moved > 8
    wanted = alone.motion[0].copy()
    wanted[66] += 2 * moved / whole.square.side  # t, x
    np.testing.assert_allclose(feature["reference_motion"][1], wanted, atol=1e-5)
    np.testing.assert_allclose(feature["reference_motion"][0], feature["motion"][0], atol=1e-5)
    np.testing.assert_allclose(feature["reference_canonical"][1], alone.canonical[0], atol=1e-5)


def test_frames_of_several_crops_share_passes_and_one_without_a_face_is_told(tmp_path: Path) -> None:
    choice = EncoderChoice(name="liveportrait", config=liveportrait(tmp_path))
    extractor = Structure(StructureConfig(encoder=choice, num_references=0))
    extractor.load()
    assert extractor.gains
    crops = [CropMedia(faces(count), np.zeros(0, np.float32)) for count in (2, 0, 1)]
    sizes = make_scarce(extractor._encoder._net, 3)
    first, lacking, third = extractor.many(crops)
    assert sizes == [3, 2]  # frames of both clips, then their references
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
