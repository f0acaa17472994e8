"""Every encoder and every metric obeys its Protocol, whatever it computes."""

import re

import numpy as np
import pytest

from dualforce_model import clock
from dualforce_model.config import ConfigError, Frozen
from dualforce_model.encoders import ENCODERS, Encoder, EncoderChoice, VideoCodec, make_encoder
from dualforce_model.metrics import METRICS, JudgedClip, Metric

FRAMES = 9


def _frames(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (FRAMES, 48, 64, 3), np.uint8)


def _sound(seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(clock.num_samples(FRAMES))).astype(np.float32)


def _encoded(encoder: Encoder) -> np.ndarray:
    if isinstance(encoder, VideoCodec):
        return encoder.encode(_frames())
    assert callable(encoder)
    return np.asarray(encoder(_sound() if encoder.modality == "audio" else _frames()))


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder(name: str) -> None:
    encoder = make_encoder(name)
    assert isinstance(encoder, Encoder)
    assert (encoder.name, type(encoder)) == (name, ENCODERS[name])
    assert isinstance(encoder.config, Frozen)
    assert type(encoder.config) is encoder.config_type
    first, second = _encoded(encoder), _encoded(make_encoder(name))
    assert np.array_equal(first, second), "equal input, other numbers"
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert first.shape[1] == encoder.num_features
    rows = {"video": clock.num_steps(FRAMES), "structure": FRAMES, "audio": clock.num_audio_tokens(FRAMES)}
    assert first.shape[0] == rows[encoder.modality]


@pytest.mark.parametrize("name", ENCODERS)
def test_the_fingerprint_is_name_version_and_config(name: str) -> None:
    encoder = make_encoder(name)
    assert re.fullmatch("[0-9a-f]{32}", encoder.fingerprint())
    assert make_encoder(name, encoder.config).fingerprint() == encoder.fingerprint()
    assert make_encoder(name, encoder.config.model_dump()).fingerprint() == encoder.fingerprint()


def test_fingerprints_differ() -> None:
    prints = [make_encoder(name).fingerprint() for name in ENCODERS]
    prints.append(make_encoder("log_mel", {"num_mels": 20}).fingerprint())
    prints.append(make_encoder("face_dct", {"num_mouth": 10}).fingerprint())
    assert len(set(prints)) == len(prints)


def test_every_video_encoder_streams() -> None:
    for name in ENCODERS:
        encoder = make_encoder(name)
        if isinstance(encoder, VideoCodec):
            latents = encoder.encode(_frames())
            streamed = [encoder.decode(latents[step : step + 1], first_step=step) for step in range(len(latents))]
            assert np.array_equal(np.concatenate(streamed), encoder.decode(latents))
            assert np.array_equal(encoder.encode_image(_frames()[0]), latents[0])


def test_unknown_encoders_and_settings_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'log_mel'"):
        make_encoder("log-mel")
    with pytest.raises(ConfigError, match="num_mels"):
        make_encoder("log_mel", {"num_mel": 20})


def test_a_choice_is_what_make_encoder_takes() -> None:
    choice = EncoderChoice(name="log_mel", config={"num_mels": 10})
    assert make_encoder(choice.name, choice.config).num_features == 12


@pytest.mark.parametrize("name", METRICS)
def test_metric(name: str) -> None:
    metric = METRICS[name]()
    assert isinstance(metric, Metric)
    assert metric.name == name
    assert metric.unit
    assert isinstance(metric.higher_is_better, bool)
    metric.load()
    clip = JudgedClip(_frames(), _sound())
    value = metric(clip)
    assert isinstance(value, float)
    assert np.isfinite(value)
    assert METRICS[name]()(clip) == value
