"""What storage as float16 costs: the closed form, for numbers of every size, and what it comes to in real features.

float16 keeps 11 bits of a number. Between 2^e and 2^(e+1), from 2^-14 on, its numbers lie 2^(e-10) apart, and the
nearest is at most u 2^e away, with u = 2^-11. Hence of x at most u/(1+u) of its size is lost, less than u, and so much
only of x = (1+u) 2^e, which lies in the middle. Below 2^-14 they lie 2^-24 apart: at most 2^-25 is lost. The largest is
65504; what is less than 65520, the middle between it and the next that there is not, is stored as that. Whatever is as
large as 65520 becomes infinite, and such a feature is refused.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dualforce_model.encoders import DctVideoCodec, EncoderChoice, LogMel, WanVae, WanVaeConfig
from dualforce_model.schema import Feature, SchemaError, check_feature
from tasks.extractors import Audio, AudioConfig, CropMedia, VideoLatents, VideoLatentsConfig
from tests.unit.dualforce_model.encoders.tiny import save_hubert, save_wan_vae

UNIT = 2.0**-11
SMALLEST_NORMAL, SMALLEST_ERROR = 2.0**-14, 2.0**-25
INFINITE = 65520.0  # from here on
SILENCE, BLANK = np.zeros(640, np.float32), np.zeros((1, 8, 8, 3), np.uint8)


class GivenLatents(DctVideoCodec):
    """A codec that says of every clip what it was given."""

    def __init__(self, latents: np.ndarray) -> None:
        super().__init__()
        self.latents = latents

    def encode(self, frames: np.ndarray) -> np.ndarray:
        return self.latents


class GivenTokens(LogMel):
    """The same of sound."""

    def __init__(self, tokens: np.ndarray) -> None:
        super().__init__()
        self.tokens = tokens

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        return self.tokens


def latents_of(x: np.ndarray) -> Feature:
    """What is stored of these numbers, if a video codec says them."""
    extractor = VideoLatents(VideoLatentsConfig())
    extractor._encoder = GivenLatents(x.reshape(1, -1, 1, 1))
    return extractor(CropMedia(BLANK, SILENCE))


def tokens_of(x: np.ndarray) -> Feature:
    """The same, if an audio encoder does."""
    extractor = Audio(AudioConfig())
    extractor._encoder = GivenTokens(x.reshape(1, -1))
    return extractor(CropMedia(BLANK, SILENCE))


STORED = {"video": latents_of, "audio": tokens_of}
HALVES = [("video", "latents"), ("video", "references"), ("audio", "tokens")]


def lost(stored: np.ndarray, x: np.ndarray) -> np.ndarray:
    """By how much they differ, exactly: float64 holds the differences. What is stored may be the numbers repeated."""
    return np.abs(stored.astype(np.float64).reshape(-1, x.size) - x.astype(np.float64).ravel())


def most_lost(x: np.ndarray) -> np.ndarray:
    """The closed form. Times 1 + u, so that no rounding of the bound itself decides."""
    size = np.abs(x.astype(np.float64)).ravel()
    return np.where(size < SMALLEST_NORMAL, SMALLEST_ERROR * (1 + UNIT), size * UNIT)


def bfloat16(x: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = torch.from_numpy(x).bfloat16().double().numpy()
    return rounded


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


below = float(np.nextafter(np.float32(INFINITE), np.float32(0)))
numbers = st.one_of(
    st.floats(-below, below, width=32),
    st.floats(-8, 8, width=32),  # of the size that normalised latents have
    st.floats(-(2.0**-13), 2.0**-13, width=32),  # about the smallest normal number
)


@pytest.mark.parametrize(("modality", "name"), HALVES)
@given(x=arrays(np.float32, st.integers(1, 12), elements=numbers))
def test_no_more_is_lost_than_the_closed_form_says(modality: str, name: str, x: np.ndarray) -> None:
    feature = STORED[modality](x)
    check_feature(modality, "clip", feature)
    assert (lost(feature[name], x) * (1 + UNIT) <= most_lost(x)).all()


@given(exponent=st.integers(-14, 15), sign=st.sampled_from([-1, 1]))
def test_so_much_is_lost_of_the_worst_number(exponent: int, sign: int) -> None:
    x = np.array([sign * (1 + UNIT) * 2.0**exponent], np.float32)
    assert lost(tokens_of(x)["tokens"], x) * (1 + UNIT) == most_lost(x)


@pytest.mark.parametrize(("modality", "name"), HALVES)
@given(
    x=arrays(np.float32, st.integers(1, 12), elements=numbers),
    beyond=st.floats(INFINITE, float(np.finfo(np.float32).max), width=32),
    sign=st.sampled_from([-1, 1]),
    place=st.integers(0, 11),
)
def test_what_float16_does_not_hold_is_refused(
    modality: str, name: str, x: np.ndarray, beyond: float, sign: int, place: int
) -> None:
    x[place % len(x)] = sign * beyond
    with pytest.warns(RuntimeWarning, match="overflow encountered in cast"):
        feature = STORED[modality](x)
    assert np.isinf(feature[name].ravel()[place % len(x)])
    with pytest.raises(SchemaError, match=f"{modality}/.* holds NaN or infinity"):
        check_feature(modality, "clip", feature)


@pytest.mark.parametrize("modality", STORED)
def test_the_last_that_is_held_and_the_first_that_is_not(modality: str) -> None:
    last = STORED[modality](np.array([below], np.float32))
    check_feature(modality, "clip", last)
    assert all((last[name] == np.finfo(np.float16).max).all() for kind, name in HALVES if kind == modality)
    for refused in (np.inf, -np.inf, np.nan):
        with pytest.raises(SchemaError, match="holds NaN or infinity"):
            check_feature(modality, "clip", STORED[modality](np.array([refused], np.float32)))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> VideoLatents:
    choice = EncoderChoice(name="wan_vae", config={"weights": save_wan_vae(tmp_path_factory.mktemp("vae"))})
    extractor = VideoLatents(VideoLatentsConfig(encoder=choice))
    extractor.load()
    return extractor


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Audio:
    choice = EncoderChoice(name="hubert", config={"weights": save_hubert(tmp_path_factory.mktemp("hubert"))})
    extractor = Audio(AudioConfig(encoder=choice))
    extractor.load()
    return extractor


def crop(seed: int) -> CropMedia:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (9, 64, 64, 3), np.uint8)
    return CropMedia(frames, (0.1 * rng.standard_normal(640 * 9)).astype(np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_latents_of_a_small_random_vae(video: VideoLatents, seed: int) -> None:
    seen = crop(seed)
    x, stored = video._encoder.encode(seen.frames), video(seen)["latents"]
    assert stored.dtype == np.float16
    away = lost(stored, x)
    assert (away * (1 + UNIT) <= most_lost(x)).all()
    assert np.abs(x).max() < 2, "so that numbers lie at most 2^-10 apart"
    assert 4.5e-4 < away.max() <= UNIT
    assert rms(away) == pytest.approx(7.7e-5, rel=0.05)
    shown, exact = (video._encoder.decode(each.astype(np.float32)).astype(int) for each in (stored, x))
    assert np.abs(shown - exact).max() <= 1, "grey levels of 256"


@pytest.mark.parametrize("seed", range(3))
def test_tokens_of_a_small_random_hubert(audio: Audio, seed: int) -> None:
    x, stored = audio._encoder(crop(seed).samples), audio(crop(seed))["tokens"]
    assert stored.dtype == np.float16
    away = lost(stored, x)
    assert (away * (1 + UNIT) <= most_lost(x)).all()
    assert np.abs(x).max() < 4, "they come out of a normalisation"
    assert rms(away) / rms(x) == pytest.approx(2.05e-4, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_bfloat16_would_lose_eight_times_as_much(video: VideoLatents, audio: Audio, seed: int) -> None:
    """It keeps 8 bits of a number, and the sizes that it reaches beyond float16's are not needed."""
    seen = crop(seed)
    for x in (video._encoder.encode(seen.frames), audio._encoder(seen.samples)):
        assert rms(bfloat16(x) - x) == pytest.approx(8 * rms(x.astype(np.float16) - x.astype(np.float64)), rel=0.1)
    worst = np.array([1 + 8 * UNIT], np.float32)
    assert lost(bfloat16(worst), worst) == 8 * UNIT
    assert lost(tokens_of(worst)["tokens"], worst) == 0


def test_computing_in_half_precision_costs_more_than_storing_in_it(video: VideoLatents) -> None:
    folder: Path = video._encoder.folder
    frames = crop(0).frames
    exact = video._encoder.encode(frames)
    away = {}
    for precision in ("bf16", "fp16"):
        encoder = WanVae(WanVaeConfig(weights=folder, precision=precision))
        encoder.load()
        away[precision] = rms(encoder.encode(frames) - exact) / float(exact.std())
    assert rms(exact.astype(np.float16) - exact) / float(exact.std()) < away["fp16"] < 5e-4
    assert 4 * away["fp16"] < away["bf16"] < 4e-3
