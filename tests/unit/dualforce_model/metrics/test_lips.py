"""Mouth opening, speech envelope and their correlation on pictures and sounds whose truth is plain."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dualforce_model.metrics import JudgedClip, LipCorrelation, lip_correlation, mouth_opening, speech_envelope


def _drawn_face(gap_px: float) -> np.ndarray:
    """Skin, eyes, red lips and a dark gap of the given height, where the default box expects a mouth. 96 x 96."""
    face = np.full((384, 384, 3), (205, 160, 135), np.uint8)
    for x in (136, 248):
        cv2.circle(face, (x, 160), 16, (70, 50, 40), -1)
    half = round(2 * gap_px)
    cv2.ellipse(face, (192, 280), (52, 16 + half), 0, 0, 360, (200, 130, 115), -1)
    if half:
        cv2.ellipse(face, (192, 280), (40, half), 0, 0, 360, (45, 15, 15), -1)
    return cv2.resize(face, (96, 96), interpolation=cv2.INTER_AREA)


def test_the_opening_rises_with_the_gap() -> None:
    gaps = np.array([0, 2, 4, 6, 8, 6, 4, 2, 0, 0, 4, 8], float)
    opening = mouth_opening(np.stack([_drawn_face(gap) for gap in gaps]))
    assert opening.dtype == np.float32
    assert np.corrcoef(opening, gaps)[0, 1] > 0.93
    assert np.all(np.diff(opening[:5]) > 0)


def test_a_still_mouth_and_a_blank_picture_do_not_vary() -> None:
    for frame in (_drawn_face(4), np.full((64, 64, 3), 80, np.uint8)):
        assert np.ptp(mouth_opening(np.repeat(frame[None], 5, axis=0))) == 0


def test_brightness_hardly_matters() -> None:
    gaps = [0, 3, 8, 3, 0, 6, 2, 7]
    frames = np.stack([_drawn_face(gap) for gap in gaps])
    darker = (frames * np.linspace(0.8, 1.0, len(gaps))[:, None, None, None]).astype(np.uint8)
    assert np.corrcoef(mouth_opening(frames), mouth_opening(darker))[0, 1] > 0.97


@pytest.mark.parametrize(
    "frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)]
)
def test_other_frames_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        mouth_opening(frames)


def test_the_envelope_of_a_tone_is_its_rms_and_hum_is_left_out() -> None:
    t = np.arange(640 * 20) / 16000
    tone, hum = np.sin(2 * np.pi * 1000 * t), np.sin(2 * np.pi * 50 * t)
    envelope = speech_envelope(0.5 * tone + 0.5 * hum, 20)
    assert envelope.shape == (20,)
    np.testing.assert_allclose(envelope[1:-1], 0.5 / np.sqrt(2), rtol=1e-3)


def test_the_envelope_is_in_time_with_the_frames() -> None:
    sound = np.zeros(640 * 15)
    sound[640 * 7 : 640 * 8] = np.sin(2 * np.pi * 800 * np.arange(640) / 16000)
    assert int(speech_envelope(sound, 15).argmax()) == 7


def test_short_sound_is_silence_and_long_sound_is_cut() -> None:
    sound = np.sin(2 * np.pi * 500 * np.arange(640 * 10) / 16000)
    assert speech_envelope(sound, 20)[12:].max() < 1e-3
    np.testing.assert_allclose(speech_envelope(np.tile(sound, 2), 10), speech_envelope(sound, 10), atol=1e-6)
    assert speech_envelope(np.zeros(0), 3).tolist() == [0, 0, 0]


def test_the_envelope_asks_for_one_channel_and_a_frame() -> None:
    with pytest.raises(ValueError, match="expected"):
        speech_envelope(np.zeros((640, 2)), 1)
    with pytest.raises(ValueError, match="expected"):
        speech_envelope(np.zeros(640), 0)


def test_the_correlation_leaves_frame_0_out() -> None:
    opening, envelope = np.array([9.0, 1, 2, 3, 4]), np.array([0.0, 2, 4, 6, 8])
    assert lip_correlation(opening, envelope) == pytest.approx(1.0)
    assert lip_correlation(opening, -envelope) == pytest.approx(-1.0)


def test_what_stands_still_follows_nothing() -> None:
    assert lip_correlation(np.ones(9), np.arange(9.0)) == 0.0
    assert lip_correlation(np.arange(9.0), np.zeros(9)) == 0.0


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(np.float64, (2, 30), elements=st.floats(-10, 10)),
    scale=st.floats(0.1, 50),
    shift=st.floats(-5, 5),
)
def test_the_correlation_is_numpys_and_blind_to_scale(values: np.ndarray, scale: float, shift: float) -> None:
    x, y = values
    r = lip_correlation(x, y)
    assert -1 <= r <= 1
    if min(x[1:].std(), y[1:].std()) > 1e-3:
        assert r == pytest.approx(np.corrcoef(x[1:], y[1:])[0, 1], abs=1e-9)
        assert lip_correlation(scale * x + shift, y) == pytest.approx(r, abs=1e-6)


@pytest.mark.parametrize("lengths", [(5, 6), (2, 2)])
def test_unequal_or_short_curves_are_refused(lengths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        lip_correlation(np.zeros(lengths[0]), np.zeros(lengths[1]))


def test_the_metric_is_the_function() -> None:
    rng = np.random.default_rng(0)
    gaps = np.repeat(rng.uniform(0, 8, 9), 5)
    frames = np.stack([_drawn_face(gap) for gap in gaps])
    sound = np.repeat(gaps / 20, 640) * np.sin(2 * np.pi * 700 * np.arange(640 * 45) / 16000)
    metric = LipCorrelation()
    metric.load()
    r = metric(JudgedClip(frames, sound))
    assert r == lip_correlation(mouth_opening(frames), speech_envelope(sound, 45))
    assert r > 0.8
