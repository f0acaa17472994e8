"""Video latents and the frames that may stand as references."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.encoders import DctVideoCodec, EncoderChoice
from dualforce_model.encoders.base import NoFaceError
from tasks.extractors import CropMedia, VideoLatents, VideoLatentsConfig
from tasks.extractors.video_latents import reference_frames
from tests.unit.dualforce_model.encoders.tiny import make_scarce, save_wan_vae


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wan_vae(tmp_path_factory.mktemp("vae"))


def made(codec: Path, num_references: int = 4) -> VideoLatents:
    choice = EncoderChoice(name="wan_vae", config={"weights": codec})
    extractor = VideoLatents(VideoLatentsConfig(encoder=choice, num_references=num_references))
    extractor.load()
    return extractor


@given(steps=st.integers(1, 400), count=st.integers(0, 16))
def test_references_are_frame_0_and_others_spread_over_the_clip(steps: int, count: int) -> None:
    frames = 4 * (steps - 1) + 1
    chosen = reference_frames(frames, count)
    assert chosen.dtype == np.int32
    assert len(chosen) == count + 1
    assert chosen[0] == 0
    assert chosen.min() >= 0
    assert chosen.max() < frames
    if frames > 2 * count:
        assert len(set(chosen.tolist())) == count + 1
        assert np.ptp(np.diff(chosen[1:])) <= 1 if count > 1 else True


def test_references_are_those_frames_encoded_alone() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (41, 16, 16, 3), np.uint8)
    feature = VideoLatents(VideoLatentsConfig())(CropMedia(frames, np.zeros(0, np.float32)))
    assert feature["reference_frames"].tolist() == [0, 6, 16, 26, 36]
    alone = DctVideoCodec().encode_image(frames[16]).astype(np.float16)
    assert np.array_equal(feature["references"][2], alone)
    assert np.array_equal(feature["references"][0], feature["latents"][0])


def test_the_fingerprint_follows_codec_and_number_of_references() -> None:
    plain = VideoLatents(VideoLatentsConfig()).fingerprint()
    assert plain == VideoLatents(VideoLatentsConfig()).fingerprint()
    assert plain != VideoLatents(VideoLatentsConfig(num_references=2)).fingerprint()


def test_references_go_through_the_net_in_one_pass(codec: Path) -> None:
    extractor, frames = made(codec), noise(9)
    sizes = make_scarce(extractor._encoder.net.encoder, 8)
    feature = extractor(CropMedia(frames, np.zeros(0, np.float32)))
    assert sizes == [1, 1, 1, 4], "three steps of the clip; frame 0 as a reference is the first"
    assert np.array_equal(feature["references"][0], feature["latents"][0])
    for frame, reference in zip(feature["reference_frames"], feature["references"], strict=True):
        np.testing.assert_allclose(reference, extractor._encoder.encode_image(frames[frame]), atol=2e-3)  # 16 bits


def test_crops_of_several_lengths_share_passes(codec: Path) -> None:
    extractor = made(codec, num_references=2)
    crops = [CropMedia(noise(frames, seed), np.zeros(0, np.float32)) for seed, frames in enumerate((9, 1, 5))]
    alone = [extractor(crop) for crop in crops]
    sizes = make_scarce(extractor._encoder.net.encoder, 8)
    together = extractor.many(crops)
    assert sizes == [2, 2, 1, 1, 6], "clips of 9 and 5 frames, the clip of one, two references of each"
    for found, expected in zip(together, alone, strict=True):
        assert not isinstance(found, NoFaceError)
        assert np.array_equal(found["reference_frames"], expected["reference_frames"])
        for name in ("latents", "references"):
            np.testing.assert_allclose(found[name], expected[name], atol=2e-3)
    assert extractor.gains


def test_a_codec_that_gains_nothing_goes_crop_by_crop() -> None:
    extractor = VideoLatents(VideoLatentsConfig(num_references=0))
    assert not extractor.gains
    crops = [CropMedia(noise(frames), np.zeros(0, np.float32)) for frames in (5, 1)]
    for found, crop in zip(extractor.many(crops), crops, strict=True):
        assert not isinstance(found, NoFaceError)
        assert np.array_equal(found["latents"], extractor(crop)["latents"])
        assert np.array_equal(found["references"], found["latents"][:1])


def noise(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 16, 16, 3), np.uint8)
