"""Reference features: of the frames that the video's references are, each as the encoder sees it alone."""

from pathlib import Path

import numpy as np
import pytest

from dualforce_model.encoders import EncoderChoice, make_encoder
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.pretrained import MissingWeightsError
from dualforce_model.schema import check_feature, check_shapes
from tasks.extractors import EXTRACTORS, CropMedia, Reference, ReferenceConfig, VideoLatents, VideoLatentsConfig
from tests.unit.dualforce_model.encoders.tiny import make_scarce, save_dinov2

FRAMES = 41


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dinov2(tmp_path_factory.mktemp("dinov2"))


def made(folder: Path, num_references: int = 4, **settings: str) -> Reference:
    choice = EncoderChoice(name="dinov2", config={"weights": str(folder), **settings})
    extractor = Reference(ReferenceConfig(encoder=choice, num_references=num_references))
    extractor.load()
    return extractor


def crop() -> CropMedia:
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 32, 32, 3), np.uint8)
    return CropMedia(frames, np.zeros(0, np.float32))


def test_features_are_those_of_the_video_s_references(folder: Path) -> None:
    feature = made(folder)(crop())
    check_feature("reference", "clip", feature)
    check_shapes("reference", "clip", FRAMES, {name: array.shape for name, array in feature.items()})
    video = VideoLatents(VideoLatentsConfig())(crop())
    assert np.array_equal(feature["frames"], video["reference_frames"])
    assert feature["features"].shape == (5, 17, 32)
    encoder = make_encoder("dinov2", {"weights": folder})
    encoder.load()
    for frame, features in zip(feature["frames"], feature["features"], strict=True):
        np.testing.assert_allclose(features, encoder(crop().frames[frame]), atol=2e-3)  # 16 bits
    assert made(folder).encoder_fingerprint == encoder.fingerprint()


def test_several_crops_at_once_give_what_each_gives(folder: Path) -> None:
    extractor, longer = made(folder), crop()
    shorter = CropMedia(np.ascontiguousarray(longer.frames[20:33, :, :24]), longer.samples)
    assert extractor.gains
    expected = [extractor(longer), extractor(shorter)]
    sizes = make_scarce(extractor._encoder.net, 10)
    together = extractor.many([longer, shorter])
    assert sizes == [10], "pictures of both in one pass"
    for found, alone in zip(together, expected, strict=True):
        assert not isinstance(found, NoFaceError)
        assert np.array_equal(found["frames"], alone["frames"])
        np.testing.assert_allclose(found["features"], alone["features"], atol=2e-3)


def test_the_number_and_the_tokens_are_chosen(folder: Path) -> None:
    assert made(folder, num_references=0, tokens="cls")(crop())["features"].shape == (1, 1, 32)
    prints = {made(folder).fingerprint(), made(folder, 2).fingerprint(), made(folder, tokens="cls").fingerprint()}
    assert len(prints) == 3


def test_it_is_listed_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert EXTRACTORS["reference"] is Reference
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="dualforce weights pull dinov2"):
        Reference(ReferenceConfig())
