"""Speech-like sound: loud and quiet as speech is, and equal for equal seeds."""

import numpy as np
import pytest

from dualforce_model import clock
from tasks.synthetic import speech
from tasks.synthetic.portraits import PORTRAITS

LOW = speech.Voice(pitch_hz=100, tract=1.0)
HIGH = speech.Voice(pitch_hz=220, tract=1.15)


def pitch_hz(sound: np.ndarray) -> float:
    """Median pitch of the loudest tenths of a second, by autocorrelation."""
    blocks = sound[: len(sound) // 1600 * 1600].reshape(-1, 1600)
    loud = blocks[np.argsort((blocks**2).mean(axis=1))[-8:]]
    lags = np.arange(50, 230)
    found = []
    for block in loud:
        power = np.abs(np.fft.rfft(block, 4096)) ** 2
        found.append(16_000 / lags[np.argmax(np.fft.irfft(power)[lags])])
    return float(np.median(found))


def test_equal_seeds_give_equal_samples_and_others_do_not() -> None:
    one = speech.synthesise(LOW, 3.0, 7)
    assert one.dtype == np.float32
    assert one.shape == (48_000,)
    assert np.array_equal(one, speech.synthesise(LOW, 3.0, 7))
    assert np.abs(one - speech.synthesise(LOW, 3.0, 8)).max() > 0.1
    assert np.abs(one - speech.synthesise(HIGH, 3.0, 7)).max() > 0.1


@pytest.mark.parametrize("name", sorted(PORTRAITS))
def test_every_voice_swings_between_near_silence_and_loud(name: str) -> None:
    sound = speech.synthesise(PORTRAITS[name].voice, 12.0, 3)
    loudness = speech.envelope(sound)
    assert np.abs(sound).max() < 1.0
    assert loudness.shape == (300,)
    assert 0.7 < loudness.max() <= 1.25
    assert (loudness < 0.05).mean() > 0.1, "no rests"
    assert (loudness > 0.3).mean() > 0.15, "hardly any speech"
    assert sound.std() > 0.02


def test_it_starts_and_ends_with_a_rest() -> None:
    loudness = speech.envelope(speech.synthesise(LOW, 5.0, 1))
    assert loudness[:7].max() < 0.02
    assert loudness[-4:].max() < 0.05


def test_syllables_come_at_three_to_five_a_second() -> None:
    fine = speech.synthesise(HIGH, 20.0, 2).reshape(-1, 160)
    level = np.convolve(np.sqrt((fine**2).mean(axis=1)), np.hanning(9) / np.hanning(9).sum(), mode="same")
    peaks = (level[1:-1] > level[:-2]) & (level[1:-1] >= level[2:]) & (level[1:-1] > 0.03)
    speaking = (np.convolve(level, np.ones(25) / 25, mode="same") > 0.02).mean() * 20.0
    assert 3.0 < peaks.sum() / speaking < 6.0


def test_a_voice_keeps_its_pitch() -> None:
    low, high = (pitch_hz(speech.synthesise(voice, 8.0, 4)) for voice in (LOW, HIGH))
    assert 80 < low < 125
    assert 180 < high < 270


def test_the_envelope_has_a_fixed_scale() -> None:
    tone = np.full(10 * clock.SAMPLES_PER_FRAME, speech.FULL_RMS, np.float32)
    assert speech.envelope(tone) == pytest.approx(np.ones(10), abs=0.02)
    assert speech.envelope(tone / 2) == pytest.approx(np.full(10, 0.5), abs=0.02)
    assert speech.envelope(np.zeros(1000, np.float32)).tolist() == [0.0]


def test_too_short_an_utterance_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 s"):
        speech.synthesise(LOW, 0.5, 0)
