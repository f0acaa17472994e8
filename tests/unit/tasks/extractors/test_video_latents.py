"""Video latents and the frames that may stand as references."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.encoders import DctVideoCodec
from tasks.extractors import CropMedia, VideoLatents, VideoLatentsConfig
from tasks.extractors.video_latents import reference_frames


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
