"""Speech-like sound from nothing: pulses and hiss through formants, in syllables, phrases and pauses.

Nobody understands it, but it has what lips follow: voiced syllables at 3 to 5 a second with changing stress,
closures between them, pauses between phrases, and every speaker's own pitch and vocal tract.
"""

import numpy as np
from jaxtyping import Float
from pydantic import Field

from dualforce_model import clock
from dualforce_model.config import Frozen

RATE_HZ = clock.SAMPLE_RATE_HZ
HOP = 80  # samples between control points: 5 ms
WINDOW = 320  # samples of one filtered piece: 20 ms
FFT = 512
FULL_RMS = 0.2  # RMS of a fully stressed vowel
FLOOR_RMS = 0.0008  # room tone: a recording is never digitally silent
LEAD_S = 0.32  # closed mouth before the first word: frame 0 is a picture at rest
TAIL_S = 0.24
FORMANT_WIDTHS_HZ = np.array([70.0, 100.0, 150.0, 250.0])
FOURTH_FORMANT_HZ = 3600.0

# First three formants of an adult man's vowels, Hz (textbook averages).
VOWELS_HZ = np.array(
    [
        (730, 1090, 2440),
        (660, 1720, 2410),
        (530, 1840, 2480),
        (390, 1990, 2550),
        (270, 2290, 3010),
        (570, 840, 2410),
        (440, 1020, 2240),
        (300, 870, 2240),
        (490, 1350, 1690),
    ],
    float,
)


class Voice(Frozen):
    """What makes a speaker sound like one person."""

    pitch_hz: float = Field(ge=70, le=300, description="mean pitch")
    tract: float = Field(ge=0.8, le=1.3, description="formants relative to an adult man's: shorter tract, higher")
    syllables_per_s: float = Field(4.0, ge=3.0, le=5.0, description="mean rate within a phrase")


class _Score:
    """Control tracks of an utterance, one value per 5 ms: what a conductor would see."""

    def __init__(self, seconds: float) -> None:
        self.count = round(seconds * RATE_HZ) // HOP + 1
        self.voiced = np.zeros(self.count)
        self.hiss = np.zeros(self.count)
        self.hiss_hz = np.full(self.count, 4500.0)
        self.formants_hz = np.tile(VOWELS_HZ[8], (self.count, 1))
        self.pitch = np.ones(self.count)


def synthesise(voice: Voice, seconds: float, seed: int) -> Float[np.ndarray, " n"]:
    """One utterance, float32 [16000 * seconds] in [-1, 1]. Equal arguments give equal samples."""
    if seconds < 1.0:
        raise ValueError(f"{seconds} s of speech: at least 1 s is needed for one phrase and the rests around it")
    rng = np.random.default_rng([seed, 0x5EEC])
    samples = round(seconds * RATE_HZ)
    score = _compose(voice, seconds, rng)
    pulses = _pulses(voice, score, samples, rng)
    noise = rng.standard_normal(samples)
    voiced = _filter(pulses, _tract_response(voice, score), score.voiced, samples)
    hiss = _filter(noise, _hiss_response(score), score.hiss, samples)
    sound = FULL_RMS * (voiced + hiss) + FLOOR_RMS * rng.standard_normal(samples)
    return np.asarray(0.95 * np.tanh(sound / 0.95), np.float32)


def envelope(sound: Float[np.ndarray, " n"]) -> Float[np.ndarray, " t"]:
    """Loudness at 25 Hz: RMS of each video frame's 640 samples, 1 for a fully stressed vowel. float32 [n // 640].

    The scale is fixed, not the clip's own: the same sound always means the same opening of the mouth.
    """
    frames = len(sound) // clock.SAMPLES_PER_FRAME
    blocks = sound[: frames * clock.SAMPLES_PER_FRAME].astype(np.float64).reshape(frames, clock.SAMPLES_PER_FRAME)
    rms = np.sqrt(np.mean(blocks**2, axis=1))
    return np.asarray(np.clip((rms - 2 * FLOOR_RMS) / FULL_RMS, 0.0, 1.25), np.float32)


def _compose(voice: Voice, seconds: float, rng: np.random.Generator) -> _Score:
    """Place phrases of syllables between the rests."""
    score = _Score(seconds)
    now, end = LEAD_S, seconds - TAIL_S
    while now < end - 0.15:
        begin = now
        for _ in range(int(rng.integers(3, 9))):
            length = rng.uniform(0.8, 1.25) / voice.syllables_per_s
            if now + length > end:
                break
            _syllable(score, now, length, rng)
            now += length
        _intone(score, begin, now, rng)
        now += rng.uniform(0.25, 0.75)
    return score


def _syllable(score: _Score, start_s: float, length_s: float, rng: np.random.Generator) -> None:
    """A consonant, then a vowel whose loudness rises and falls with the stress it got."""
    stress = float(rng.choice([0.35, 0.55, 0.8, 1.0], p=[0.25, 0.3, 0.25, 0.2])) * rng.uniform(0.9, 1.05)
    first, last = (round(t * RATE_HZ / HOP) for t in (start_s, start_s + length_s))
    onset = first + round((last - first) * rng.uniform(0.2, 0.35))
    _consonant(score, first, onset, stress, rng)
    phase = np.linspace(0.0, 1.0, last - onset)
    rise, fall = rng.uniform(0.2, 0.35), rng.uniform(0.35, 0.5)
    score.voiced[onset:last] = stress * np.minimum(_ease(phase / rise), _ease((1 - phase) / fall))
    here, there = VOWELS_HZ[rng.integers(len(VOWELS_HZ), size=2)]
    glide = _ease(phase)[:, None] * rng.choice([0.0, 0.0, 0.7])
    score.formants_hz[onset:last] = here + glide * (there - here)
    score.formants_hz[first:onset] = here


def _consonant(score: _Score, first: int, onset: int, stress: float, rng: np.random.Generator) -> None:
    """Fricative (hiss), plosive (closure and burst) or nasal (a quiet hum)."""
    kind = rng.choice(["fricative", "plosive", "nasal"])
    count = onset - first
    score.hiss_hz[first:onset] = rng.uniform(2500, 6500)
    if kind == "fricative":
        score.hiss[first:onset] = 0.22 * stress * np.sin(np.pi * np.linspace(0, 1, count)) ** 0.5
    elif kind == "plosive":
        burst = min(4, count)
        score.hiss[onset - burst : onset] = 0.3 * stress * np.linspace(1, 0.3, burst)
    else:
        score.voiced[first:onset] = 0.14 * stress


def _intone(score: _Score, start_s: float, end_s: float, rng: np.random.Generator) -> None:
    """Pitch of one phrase: it falls, with one bend of its own."""
    first, last = (round(t * RATE_HZ / HOP) for t in (start_s, end_s))
    phase = np.linspace(0.0, 1.0, max(last - first, 1))
    bend = rng.uniform(-0.12, 0.18) * np.sin(np.pi * phase * rng.uniform(1.0, 2.5))
    score.pitch[first : first + len(phase)] = rng.uniform(1.02, 1.16) - 0.18 * phase + bend


def _pulses(voice: Voice, score: _Score, samples: int, rng: np.random.Generator) -> np.ndarray:
    """One impulse per closing of the vocal folds, at a pitch that trembles a little."""
    tremble = 1 + 0.012 * np.convolve(rng.standard_normal(score.count), np.hanning(9) / 3, mode="same")
    pitch_hz = voice.pitch_hz * score.pitch * tremble
    times = np.arange(samples) / HOP
    turns = np.cumsum(np.interp(times, np.arange(score.count), pitch_hz) / RATE_HZ)
    pulses = np.zeros(samples)
    pulses[1:] = np.diff(np.floor(turns)) * np.sqrt(RATE_HZ / voice.pitch_hz)
    return pulses


def _tract_response(voice: Voice, score: _Score) -> np.ndarray:
    """Complex response [count, FFT // 2 + 1] of four resonances after a falling glottal spectrum, unit mean power."""
    hz = np.fft.rfftfreq(FFT, 1 / RATE_HZ)
    fourth = np.full((score.count, 1), FOURTH_FORMANT_HZ)
    centres = np.concatenate([score.formants_hz, fourth], axis=1) * voice.tract
    response = np.tile(1 / (1 + 1j * hz / 400.0), (score.count, 1)).astype(np.complex128)
    delay = np.exp(-2j * np.pi * hz / RATE_HZ)
    for column, width in enumerate(FORMANT_WIDTHS_HZ):
        radius = np.exp(-np.pi * width / RATE_HZ)
        angle = 2 * np.pi * centres[:, column : column + 1] / RATE_HZ
        response /= 1 - 2 * radius * np.cos(angle) * delay + radius**2 * delay**2
    return _unit_power(response)


def _hiss_response(score: _Score) -> np.ndarray:
    """Real band around each moment's hiss frequency, unit mean power."""
    hz = np.fft.rfftfreq(FFT, 1 / RATE_HZ)
    return _unit_power(np.exp(-0.5 * ((hz - score.hiss_hz[:, None]) / 1100.0) ** 2))


def _unit_power(response: np.ndarray) -> np.ndarray:
    power = np.mean(np.abs(response) ** 2, axis=1, keepdims=True)
    return np.asarray(response / np.sqrt(power))


def _filter(source: np.ndarray, response: np.ndarray, gain: np.ndarray, samples: int) -> np.ndarray:
    """Pass a sound through a response that changes every 5 ms: windowed pieces, overlapped and added."""
    count = len(response)
    padded = np.pad(source, (WINDOW // 2, WINDOW))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]
    window = np.hanning(WINDOW + 1)[:-1] * (2 * HOP / WINDOW)
    shaped = np.fft.irfft(np.fft.rfft(pieces * window, FFT) * response * gain[:, None], FFT)
    out = np.zeros((count - 1) * HOP + FFT)
    for piece in range(0, FFT, HOP):  # pieces of one column never overlap: add column by column, not piece by piece
        part = shaped[:, piece : piece + HOP]
        target = out[piece : piece + count * HOP]
        rows = min(count, len(target) // HOP)
        width = part.shape[1]
        target[: rows * HOP].reshape(rows, HOP)[:, :width] += part[:rows]
    return out[WINDOW // 2 : WINDOW // 2 + samples]


def _ease(x: np.ndarray) -> np.ndarray:
    """0 to 1 with flat ends."""
    x = np.clip(x, 0.0, 1.0)
    return np.asarray(x * x * (3 - 2 * x))
