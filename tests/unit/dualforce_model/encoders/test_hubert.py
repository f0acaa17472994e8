"""HuBERT in windows: two tokens per frame, nothing heard too early, a stream equals the whole."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualforce_model.config import ConfigError
from dualforce_model.encoders import Hubert, HubertConfig
from dualforce_model.pretrained import DamagedWeightsError
from tests.unit.dualforce_model.encoders.tiny import make_scarce, save_hubert


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_hubert(tmp_path_factory.mktemp("hubert"))


@pytest.fixture(scope="module")
def net(folder: Path) -> Any:
    return made(folder).net


def made(folder: Path, net: Any = None, **settings: Any) -> Hubert:
    """The encoder, with a net that was read before where there is one."""
    encoder = Hubert(HubertConfig(weights=folder, **settings))
    encoder._net = net
    encoder.load()
    return encoder


def sound(frames: int, seed: int = 0) -> np.ndarray:
    """Noise that changes its loudness, so that windows have different spreads."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(640 * frames) * np.repeat(rng.uniform(0, 0.3, frames), 640)).astype(np.float32)


@st.composite
def windowings(draw: st.DrawFn) -> dict[str, Any]:
    ahead = draw(st.integers(0, 8))
    window = draw(st.integers(max(ahead + 1, 3), 20))
    return {
        "look_ahead_frames": ahead,
        "hop_frames": draw(st.integers(1, ahead + 1)),
        "window_s": window / 25,
        "batch_windows": draw(st.integers(1, 5)),
    }


@settings(max_examples=15)
@given(frames=st.integers(1, 40), windowing=windowings())
def test_two_tokens_per_frame_for_every_length(folder: Path, net: Any, frames: int, windowing: dict[str, Any]) -> None:
    tokens = made(folder, net, **windowing)(sound(frames))
    assert tokens.shape == (2 * frames, 32)
    assert np.isfinite(tokens).all()


@settings(max_examples=20)
@given(frames=st.integers(2, 40), data=st.data(), windowing=windowings())
def test_no_token_hears_beyond_its_look_ahead(
    folder: Path, net: Any, frames: int, data: st.DataObject, windowing: dict[str, Any]
) -> None:
    encoder, heard = made(folder, net, **windowing), data.draw(st.integers(1, frames - 1))
    one, other = sound(frames), sound(frames)
    other[640 * heard :] = sound(frames, seed=1)[640 * heard :]
    certain = max(heard - windowing["look_ahead_frames"], 0)
    same = encoder(one)[: 2 * certain] == encoder(other)[: 2 * certain]
    assert same.all(), f"frame {np.nonzero(~same.all(axis=1))[0][0] // 2} of {frames} heard frame {heard}"


@settings(max_examples=20)
@given(frames=st.integers(1, 30), more=st.integers(1, 12), windowing=windowings())
def test_silence_after_the_end_changes_nothing(
    folder: Path, net: Any, frames: int, more: int, windowing: dict[str, Any]
) -> None:
    """Hence a clip in a batch, padded to the longest, sounds as it does alone."""
    encoder = made(folder, net, **windowing | {"batch_windows": 1})
    padded = np.pad(sound(frames), (0, 640 * more))
    assert np.array_equal(encoder(padded)[: 2 * frames], encoder(sound(frames)))


def test_the_look_ahead_is_used_to_its_end(folder: Path, net: Any) -> None:
    encoder, other = made(folder, net, look_ahead_frames=5), sound(20)
    other[640 * 14 :] += 0.1
    differs = (encoder(sound(20)) != encoder(other)).any(axis=1)
    assert not differs[:18].any()
    assert differs[18], "frame 9 is the first of its window, which ends with frame 14"
    assert encoder.look_ahead_ms == 200


@settings(max_examples=20)
@given(frames=st.integers(1, 40), cuts=st.lists(st.integers(0, 640 * 40), max_size=6), windowing=windowings())
def test_a_growing_sound_gives_what_the_whole_gives(
    folder: Path, net: Any, frames: int, cuts: list[int], windowing: dict[str, Any]
) -> None:
    encoder = made(folder, net, **windowing | {"batch_windows": 1})
    whole, samples, edges = encoder(sound(frames)), sound(frames), [0, *sorted(cuts), 640 * frames]
    stream, parts = encoder.stream(), []
    for start, stop in pairwise(edges):
        parts.append(stream.push(samples[start : max(stop, start)]))
        complete = min(stop, 640 * frames) // 640 - windowing["look_ahead_frames"]
        assert sum(map(len, parts)) >= 2 * (complete - windowing["hop_frames"] + 1), "tokens come as soon as they can"
    assert np.array_equal(np.concatenate([*parts, stream.finish()]), whole)
    batched = made(folder, net, **windowing)(samples)
    np.testing.assert_allclose(batched, whole, atol=2e-5)  # another batch, another order of sums


def test_a_stream_keeps_no_more_than_its_windows_hear(folder: Path, net: Any) -> None:
    stream = made(folder, net, window_s=0.4).stream()
    for _ in range(40):
        stream.push(sound(3))
        assert len(stream._kept) <= 640 * 14


def test_a_window_is_what_the_published_extractor_and_net_make_of_it(folder: Path, net: Any) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    encoder, samples = made(folder, net, window_s=0.4, look_ahead_frames=5, hop_frames=4), sound(30)
    window = encoder.window(17)
    assert window == (13, 23, 17, 21)
    heard = samples[640 * 13 : 640 * 23]
    prepared = Wav2Vec2FeatureExtractor(do_normalize=True)(heard, sampling_rate=16_000).input_values[0]
    with torch.inference_mode():
        hidden = net(torch.from_numpy(np.pad(prepared, 40))[None]).last_hidden_state[0].numpy()
    assert hidden.shape == (20, 32)
    np.testing.assert_allclose(encoder(samples)[34:42], hidden[8:16], atol=1e-5)


def test_loudness_counts_within_a_window_alone(folder: Path, net: Any) -> None:
    encoder = made(folder, net)
    np.testing.assert_allclose(encoder(sound(12) * 2), encoder(sound(12)), atol=1e-3)
    assert np.isfinite(encoder(np.zeros(6400, np.float32))).all()


def test_the_extractor_may_leave_the_sound_as_it_is(tmp_path: Path) -> None:
    folder = save_hubert(tmp_path)
    assert made(folder)._normalize
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 16000}')
    plain = made(folder)
    assert not np.allclose(plain(sound(12) * 2), plain(sound(12)), atol=1e-3)
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    with pytest.raises(DamagedWeightsError, match="8000 Hz"):
        made(folder)


def test_layers_are_those_of_the_net(folder: Path, net: Any) -> None:
    one_window = {"look_ahead_frames": 0, "hop_frames": 1}
    found = [made(folder, net, layer=layer, **one_window)(sound(1)) for layer in (None, 0, 1, 2)]
    scaled = (sound(1) - sound(1).mean()) / np.sqrt(sound(1).var() + 1e-7)
    with torch.inference_mode():
        said = net(torch.from_numpy(np.pad(scaled, 40))[None], output_hidden_states=True)
    for tokens, hidden in zip(found, (said.last_hidden_state, *said.hidden_states), strict=True):
        np.testing.assert_allclose(tokens, hidden[0].numpy(), atol=1e-5)
    assert not np.allclose(found[0], found[3], atol=0.1), "between the last layer and the output is a normalisation"
    with pytest.raises(DamagedWeightsError, match="2 layers; layer 3"):
        made(folder, layer=3)


def test_batches_are_no_part_of_the_fingerprint_and_windows_are(folder: Path) -> None:
    plain = Hubert(HubertConfig(weights=folder)).fingerprint()
    assert Hubert(HubertConfig(weights=folder, batch_windows=3)).fingerprint() == plain
    assert Hubert(HubertConfig(weights=folder, window_s=1.0)).fingerprint() != plain


def test_windows_that_do_not_fit_are_halved(folder: Path) -> None:
    whole = made(folder)(sound(60))
    encoder = made(folder, batch_windows=8)
    sizes = make_scarce(encoder.net, 3)
    np.testing.assert_allclose(encoder(sound(60)), whole, atol=2e-5)
    assert max(sizes) <= 3 < 8
    make_scarce(encoder.net, 0)
    with pytest.raises(torch.OutOfMemoryError, match="no room for 1"):
        encoder(sound(1))


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 30), max_size=4), windowing=windowings())
def test_several_sounds_at_once_give_what_each_gives(
    folder: Path, net: Any, lengths: list[int], windowing: dict[str, Any]
) -> None:
    encoder = made(folder, net, **windowing)
    sounds = [sound(frames, seed) for seed, frames in enumerate(lengths)]
    together = encoder.many(sounds)
    assert [len(tokens) for tokens in together] == [2 * frames for frames in lengths]
    for found, samples in zip(together, sounds, strict=True):
        np.testing.assert_allclose(found, encoder(samples), atol=2e-5)


def test_windows_of_several_sounds_share_passes(folder: Path) -> None:
    encoder = made(folder, window_s=0.4, batch_windows=4)
    sizes = make_scarce(encoder.net, 4)
    encoder.many([sound(9), sound(13, 1), sound(1, 2)])
    assert sizes == [3, 2, 3], "three windows of 6 frames, two of 7, three of 10"


def test_another_front_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedWeightsError, match="one token of 400 samples every 320"):
        Hubert(HubertConfig(weights=save_hubert(tmp_path, conv_stride=(5, 2, 2, 2, 2, 2, 1))))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"hop_frames": 7}, "hop_frames 7 must not exceed look_ahead_frames 5"),
        ({"window_s": 0.2}, "shorter than 5 frames ahead"),
        ({"window_s": 1.01}, "no whole number of frames"),
        ({"layer": -1}, "layer"),
    ],
)
def test_windows_that_cannot_be_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=complaint):
        HubertConfig(**settings)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(641), np.zeros((2, 640)), np.full(640, np.nan)])
def test_other_sound_is_refused(folder: Path, net: Any, samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"samples per frame|no numbers"):
        made(folder, net)(samples)


def test_a_stream_ends_with_a_frame(folder: Path, net: Any) -> None:
    stream = made(folder, net).stream()
    stream.push(np.zeros(700, np.float32))
    with pytest.raises(ValueError, match="does not end with a frame"):
        stream.finish()
    with pytest.raises(ValueError, match="no numbers"):
        stream.push(np.full(3, np.inf))
    with pytest.raises(ValueError, match="one channel"):
        stream.push(np.zeros((2, 640)))
