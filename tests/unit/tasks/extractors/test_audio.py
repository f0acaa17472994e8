"""Audio tokens: of one crop's sound, and of several at once where the encoder gains from that."""

from pathlib import Path

import numpy as np

from dualforce_model import clock
from dualforce_model.encoders import EncoderChoice, LogMel
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.schema import check_feature, check_shapes
from tasks.extractors import Audio, AudioConfig, CropMedia
from tests.unit.dualforce_model.encoders.tiny import make_scarce, save_hubert


def crop(frames: int, seed: int = 0) -> CropMedia:
    sound = 0.1 * np.random.default_rng(seed).standard_normal(clock.num_samples(frames))
    return CropMedia(np.zeros((0, 0, 0, 3), np.uint8), sound.astype(np.float32))


def test_tokens_are_the_encoder_s_in_sixteen_bits() -> None:
    extractor = Audio(AudioConfig())
    feature = extractor(crop(5))
    check_feature("audio", "c", feature)
    check_shapes("audio", "c", 5, {name: array.shape for name, array in feature.items()})
    assert np.array_equal(feature["tokens"], LogMel()(crop(5).samples).astype(np.float16))
    assert not extractor.gains


def test_windows_of_several_crops_share_passes(tmp_path: Path) -> None:
    choice = EncoderChoice(name="hubert", config={"weights": save_hubert(tmp_path)})
    extractor = Audio(AudioConfig(encoder=choice))
    extractor.load()
    assert extractor.gains
    crops = [crop(5), crop(1, 1), crop(9, 2)]
    alone = [extractor(each) for each in crops]
    sizes = make_scarce(extractor._encoder.net, 16)
    together = extractor.many(crops)
    assert sizes == [3, 2, 1], "three windows of 6 frames, two of 7, one of 11"
    for found, expected in zip(together, alone, strict=True):
        assert not isinstance(found, NoFaceError)
        np.testing.assert_allclose(found["tokens"], expected["tokens"], atol=2e-3)
