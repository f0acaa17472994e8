"""The audio encoder: clock, causality, scale, pitch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualforce_model.encoders import LogMel, LogMelConfig
from dualforce_model.encoders.log_mel import mel_filters


def _noise(frames: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(640 * frames)).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(1, 60), look_ahead_ms=st.sampled_from([0, 10, 20, 35]))
def test_two_tokens_per_frame(frames: int, look_ahead_ms: int) -> None:
    encoder = LogMel(LogMelConfig(look_ahead_ms=look_ahead_ms))
    tokens = encoder(_noise(frames))
    assert tokens.shape == (2 * frames, encoder.num_features)
    assert tokens.dtype == np.float32
    assert np.isfinite(tokens).all()


@settings(max_examples=25, deadline=None)
@given(
    token=st.integers(0, 19),
    window_ms=st.sampled_from([20, 40, 100]),
    look_ahead_ms=st.sampled_from([0, 5, 15]),
)
def test_no_token_hears_beyond_its_look_ahead(token: int, window_ms: int, look_ahead_ms: int) -> None:
    encoder = LogMel(LogMelConfig(window_ms=window_ms, look_ahead_ms=look_ahead_ms))
    sound = _noise(10)
    end = 320 * (token + 1) + 16 * look_ahead_ms
    changed = sound.copy()
    changed[end:] = 0.9
    before, after = encoder(sound), encoder(changed)
    assert np.array_equal(before[: token + 1], after[: token + 1])
    if end < len(sound):  # and it does hear up to there
        just_before = sound.copy()
        just_before[end - 40 : end] += 0.5
        assert not np.array_equal(before[token], encoder(just_before)[token])


def test_equal_sound_gives_equal_tokens_wherever_it_stands() -> None:
    piece = _noise(4)
    silence = np.zeros(640 * 3, np.float32)
    encoder = LogMel()
    early, late = encoder(np.concatenate([silence, piece])), encoder(np.concatenate([silence, silence, piece]))
    np.testing.assert_allclose(early[6:], late[12:], atol=1e-5)


@pytest.mark.parametrize("hz", [150.0, 700.0, 2500.0, 6000.0])
def test_a_tone_lights_its_band(hz: float) -> None:
    config = LogMelConfig()
    sound = (0.5 * np.sin(2 * np.pi * hz * np.arange(6400) / 16000)).astype(np.float32)
    tokens = LogMel(config)(sound)
    filters = mel_filters(config.num_mels, 1024, config.low_hz, config.high_hz)
    expected = int(filters[:, round(hz * 1024 / 16000)].argmax())
    assert abs(int(tokens[10, : config.num_mels].argmax()) - expected) <= 1


def test_louder_sound_has_larger_loudness_and_envelope() -> None:
    sound = _noise(5)
    quiet, loud = LogMel()(sound * 0.25)[4], LogMel()(sound)[4]
    assert loud[-2] - quiet[-2] == pytest.approx(20 * np.log10(4) / 15, rel=1e-4)
    assert loud[-1] > quiet[-1]


def test_silence_is_the_floor_and_finite() -> None:
    tokens = LogMel()(np.zeros(640 * 5, np.float32))
    assert np.isfinite(tokens).all()
    assert np.ptp(tokens, axis=0).max() == 0
    assert np.abs(tokens).max() < 6


def test_every_band_of_the_filters_sums_to_one() -> None:
    for num_mels in (4, 38, 128):
        filters = mel_filters(num_mels, 1024, 60.0, 7600.0)
        np.testing.assert_allclose(filters.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(639), np.zeros((640, 2)), np.zeros(641)])
def test_other_lengths_are_refused(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match="640 samples per frame"):
        LogMel()(samples)


def test_sound_that_is_no_number_is_refused() -> None:
    sound = _noise(2)
    sound[100] = np.nan
    with pytest.raises(ValueError, match="no numbers"):
        LogMel()(sound)


def test_a_look_ahead_beyond_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="below window_ms"):
        LogMelConfig(window_ms=40, look_ahead_ms=40)
