"""The Wan VAE: equal to diffusers' own, causal, the same in parts as at once, in 16 bits nearly the same."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualforce_model.encoders import WanVae, WanVaeConfig
from dualforce_model.pretrained import DamagedWeightsError
from tests.unit.dualforce_model.encoders.tiny import make_scarce, save_wan22_vae, save_wan_vae

SIZES = {"2.1": (16, 8), "2.2": (48, 16)}  # channels, stride


@pytest.fixture(scope="module", params=SIZES)
def sized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[WanVae, str]:
    save = save_wan_vae if request.param == "2.1" else save_wan22_vae
    return made(save(tmp_path_factory.mktemp("vae"))), request.param


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> WanVae:
    return made(save_wan_vae(tmp_path_factory.mktemp("vae")))


def made(folder: Path, **settings: Any) -> WanVae:
    encoder = WanVae(WanVaeConfig(weights=folder, **settings))
    encoder.load()
    return encoder


def clip(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 48, 3), np.uint8)


def latents(codec: WanVae, steps: int, seed: int = 0) -> np.ndarray:
    side, channels = 32 // codec.spatial_stride, codec.num_features
    return np.random.default_rng(seed).standard_normal((steps, channels, side, side)).astype(np.float32)


def test_it_is_diffusers_own_encoder_and_decoder(sized: tuple[WanVae, str]) -> None:
    codec, (channels, stride) = sized[0], SIZES[sized[1]]
    frames, config = clip(9), codec.net.config
    mean, std = (torch.tensor(each).reshape(-1, 1, 1, 1) for each in (config.latents_mean, config.latents_std))
    with torch.inference_mode():
        x = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        mode = codec.net.encode(x).latent_dist.mode()[0]
        shown = codec.net.decode(mode[None]).sample[0]
    found = codec.encode(frames)
    assert found.dtype == np.float32
    assert found.shape == (3, channels, 32 // stride, 48 // stride)
    assert (codec.num_features, codec.spatial_stride) == (channels, stride)
    np.testing.assert_allclose(found, ((mode - mean) / std).permute(1, 0, 2, 3).numpy(), atol=1e-5)
    wanted = ((shown.permute(1, 2, 3, 0).numpy() + 1) * 127.5).round()
    assert np.abs(codec.decode(found) - wanted).max() <= 1


def test_a_step_knows_nothing_of_later_frames(sized: tuple[WanVae, str]) -> None:
    codec, one, other = sized[0], clip(13), clip(13)
    other[5:] = clip(13, seed=1)[5:]
    assert np.array_equal(codec.encode(one)[:2], codec.encode(other)[:2])
    assert not np.array_equal(codec.encode(one)[2], codec.encode(other)[2])


def test_a_beginning_is_encoded_as_in_the_whole(sized: tuple[WanVae, str]) -> None:
    whole = sized[0].encode(clip(13))
    assert np.array_equal(sized[0].encode(clip(13)[:5]), whole[:2])
    assert np.array_equal(sized[0].encode_image(clip(13)[0]), whole[0])


def test_clips_of_one_size_share_passes_until_each_is_at_its_end(sized: tuple[WanVae, str]) -> None:
    codec = sized[0]
    clips = [clip(5), clip(1, seed=1), clip(9, seed=2), clip(9, seed=3)[:, :, :32], clip(1, seed=4)]
    alone = [codec.encode(frames) for frames in clips]
    sizes = make_scarce(codec.net.encoder, len(clips))
    together = codec.many(clips)
    assert sizes == [2, 2, 1, 1, 1, 1, 2], "two clips, of which one goes on; one clip of another size; two pictures"
    for found, expected in zip(together, alone, strict=True):
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_clips_and_pictures_that_do_not_fit_are_halved(tmp_path: Path) -> None:
    codec = made(save_wan_vae(tmp_path))
    clips = [*(clip(5, seed) for seed in range(3)), *(clip(1, seed) for seed in range(3))]
    whole = codec.many(clips)
    sizes = make_scarce(codec.net.encoder, 2)
    for found, expected in zip(codec.many(clips), whole, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert sizes == [1] * 9, "three do not fit, and half of three is one: a picture alone, two passes of a clip"
    make_scarce(codec.net.encoder, 0)
    with pytest.raises(torch.OutOfMemoryError, match="no room for 1"):
        codec.many(clips)


def test_how_many_go_at_once_is_no_part_of_the_fingerprint(codec: WanVae) -> None:
    few = made(codec.folder, batch_clips=2)
    assert few.fingerprint() == codec.fingerprint()
    sizes = make_scarce(few.net.encoder, 2)
    few.many([clip(1, seed) for seed in range(5)])
    assert sizes == [2, 2, 1]


@settings(max_examples=6)
@given(cuts=st.lists(st.integers(1, 4), max_size=4, unique=True))
def test_decoding_in_parts_equals_decoding_at_once(codec: WanVae, cuts: list[int]) -> None:
    x = latents(codec, 5)
    decoder, whole = codec.decoder(), codec.decode(x)
    assert whole.shape == (17, 32, 32, 3)
    parts = [decoder(x[a:b]) for a, b in pairwise([0, *sorted(cuts), 5])]
    assert np.array_equal(np.concatenate(parts), whole)


def test_the_form_of_wan_22_decodes_in_parts_too(sized: tuple[WanVae, str]) -> None:
    codec, x = sized[0], latents(sized[0], 4)
    decoder = codec.decoder()
    assert np.array_equal(np.concatenate([decoder(x[:1]), decoder(x[1:2]), decoder(x[2:])]), codec.decode(x))


def test_clips_decode_side_by_side(codec: WanVae) -> None:
    one, other = latents(codec, 3), latents(codec, 3, seed=1)
    decoders = codec.decoder(), codec.decoder()
    parts = [
        [decoder(x[step : step + 1]) for decoder, x in zip(decoders, (one, other), strict=True)] for step in range(3)
    ]
    for found, wanted in zip(zip(*parts, strict=True), (one, other), strict=True):
        assert np.array_equal(np.concatenate(found), codec.decode(wanted))


def test_a_middle_decoded_without_its_past_is_another(codec: WanVae) -> None:
    x = latents(codec, 4)
    alone = codec.decode(x[2:])
    assert not np.array_equal(alone[-4:], codec.decode(x)[-4:]), "hence decoders that remember"


def test_what_is_kept_does_not_grow_with_the_clip(codec: WanVae) -> None:
    decoder, sizes = codec.decoder(), []
    for step in latents(codec, 6):
        decoder(step[None])
        sizes.append(sum(each.numel() for each in decoder._kept if isinstance(each, torch.Tensor)))
    assert sizes[2:] == [sizes[2]] * 4


def test_sixteen_bits_hold_the_latents(codec: WanVae) -> None:
    x = codec.encode(clip(9))
    stored = x.astype(np.float16).astype(np.float32)
    assert (np.abs(stored - x) <= np.maximum(np.abs(x) * 2.0**-11, 2.0**-25)).all()
    lost = codec.decode(stored).astype(int) - codec.decode(x)
    assert np.abs(lost).max() <= 1
    assert np.sqrt(np.mean(lost**2)) < 0.2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_moves_latents_a_little(codec: WanVae, precision: str) -> None:
    half, exact = made(codec.folder, precision=precision), codec.encode(clip(5))
    found = half.encode(clip(5))
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    assert np.abs(half.decode(exact).astype(int) - codec.decode(exact)).max() <= 16


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_cuda_parts_equal_the_whole(codec: WanVae, precision: str) -> None:
    there = WanVae(WanVaeConfig(weights=codec.folder, precision=precision))
    there.load("cuda")
    x = there.encode(clip(13))
    assert np.abs(x - codec.encode(clip(13))).max() < (0.01 if precision == "fp32" else 0.05)
    assert np.array_equal(there.encode(clip(13)[:5]), x[:2])
    decoder = there.decoder()
    parts = np.concatenate([decoder(x[:1]), decoder(x[1:3]), decoder(x[3:])])
    assert np.array_equal(parts, there.decode(x))
    assert np.abs(parts.astype(int) - codec.decode(x)).max() <= (2 if precision == "fp32" else 16)


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_other_lengths_are_refused(codec: WanVae, frames: int) -> None:
    with pytest.raises(ValueError, match="not 4k\\+1"):
        codec.encode(clip(frames))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((5, 12, 16, 3), np.uint8),
        np.zeros((5, 16, 16, 3), np.float32),
        np.zeros((5, 16, 16), np.uint8),
        np.zeros((1, 0, 16, 3), np.uint8),
    ],
)
def test_other_frames_are_refused(codec: WanVae, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"multiples of 8|expected uint8"):
        codec.encode(frames)


def test_other_latents_are_refused(codec: WanVae) -> None:
    for shape in ((0, 16, 2, 2), (3, 15, 2, 2), (16, 2, 2)):
        with pytest.raises(ValueError, match="expected \\[S, 16, h, w\\]"):
            codec.decode(np.zeros(shape, np.float32))
    decoder = codec.decoder()
    decoder(latents(codec, 1))
    with pytest.raises(ValueError, match="began with"):
        decoder(np.zeros((1, 16, 2, 2), np.float32))


def test_other_strides_are_refused(tmp_path: Path) -> None:
    save_wan_vae(tmp_path / "time", temperal_downsample=[False, False, True])
    with pytest.raises(DamagedWeightsError, match="no steps of 4 frames"):
        made(tmp_path / "time")
    save_wan_vae(tmp_path / "space", scale_factor_spatial=16)
    with pytest.raises(DamagedWeightsError, match="scale_factor_spatial 16, but its layers make 8"):
        made(tmp_path / "space")
