"""Every encoder and every metric obeys its Protocol, whatever it computes."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from dualforce_model import clock
from dualforce_model.config import ConfigError, Frozen
from dualforce_model.encoders import ENCODERS, NO_WEIGHTS, Encoder, EncoderChoice, VideoCodec, make_encoder
from dualforce_model.encoders.base import Batching, NoFaceError, said_of_each
from dualforce_model.encoders.structure import measure
from dualforce_model.metrics import METRICS, JudgedClip, Metric
from dualforce_model.pretrained import MissingWeightsError
from tests.equipped import equipment

FRAMES = 5
Equip = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def equip(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Equip:
    """Settings of an encoder by its name, with weights where it needs some."""
    folder = tmp_path_factory.mktemp("weights")
    return lambda name: equipment(name, folder, lambda: request.getfixturevalue("shared") / "models")


def _frames(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (FRAMES, 48, 64, 3), np.uint8)


def _portrait() -> np.ndarray:
    picture = cv2.resize(data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    return np.stack([np.roll(picture, 2 * index, axis=1) for index in range(FRAMES)])


def _sound(seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(clock.num_samples(FRAMES))).astype(np.float32)


def _encoded(encoder: Encoder) -> np.ndarray:
    """Rows of a clip; of a picture those of its features, of a caption those of its pieces."""
    if isinstance(encoder, VideoCodec):
        return encoder.encode(_frames())
    assert callable(encoder)
    if encoder.modality == "text":
        return np.asarray(encoder(["a man is talking to the camera"])[0])
    given = {"audio": _sound, "reference": lambda: _frames()[0]}.get(encoder.modality, _portrait)()
    return np.asarray(encoder(given))


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder(name: str, equip: Equip) -> None:
    settings = equip(name)
    encoder = make_encoder(name, settings)
    assert isinstance(encoder, Encoder)
    assert (encoder.name, type(encoder)) == (name, ENCODERS[name])
    assert isinstance(encoder.config, Frozen)
    assert type(encoder.config) is encoder.config_type
    again = make_encoder(name, settings)
    for each in (encoder, again):
        try:
            each.load()
        except ConfigError as error:  # a system library is missing
            pytest.skip(str(error))
    first, second = _encoded(encoder), _encoded(again)
    assert np.array_equal(first, second), "equal input, other numbers"
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert first.shape[1] == encoder.num_features
    rows = {"video": clock.num_steps(FRAMES), "audio": clock.num_audio_tokens(FRAMES)}
    if encoder.modality not in ("reference", "text"):
        assert first.shape[0] == rows.get(encoder.modality, FRAMES)


def _one(encoder: Any) -> Callable[[Any], Any]:
    """What asks an encoder of one clip, or of one picture."""
    ways = {"video": "encode", "structure": partial(measure, encoder), "flame": "track", "audio": encoder}
    way = ways.get(encoder.modality, encoder)
    found: Callable[[Any], Any] = getattr(encoder, way) if isinstance(way, str) else way
    return found


def _arrays(said: Any) -> list[np.ndarray]:
    return [each for each in said if isinstance(each, np.ndarray)] if isinstance(said, tuple) else [said]


@pytest.mark.parametrize("name", [name for name, kind in ENCODERS.items() if kind.modality != "text"])
def test_several_clips_are_answered_in_their_order(name: str, equip: Equip) -> None:
    encoder = make_encoder(name, equip(name))
    try:
        encoder.load()
    except ConfigError as error:  # a system library is missing
        pytest.skip(str(error))
    assert isinstance(encoder, Batching) <= (encoder.weights is not None), "without a net there is nothing to gain"
    clips = {
        "video": [_frames(), _frames(1)[:1], _frames(2)],
        "audio": [_sound(), _sound(1)[: clock.num_samples(1)], _sound(2)],
        "reference": [_frames()[0], _frames(1)[0, :32], _frames(2)[0]],
    }.get(encoder.modality, [_portrait(), np.zeros_like(_portrait()), _portrait()[2:3]])
    one = _one(encoder)
    found = said_of_each(encoder, one, clips)
    assert len(found) == len(clips)
    for clip, said in zip(clips, found, strict=True):
        if isinstance(said, NoFaceError):
            with pytest.raises(NoFaceError, match=str(said).partition(";")[0]):
                one(clip)
            continue
        for some, alone in zip(_arrays(said), _arrays(one(clip)), strict=True):
            assert some.dtype == alone.dtype
            np.testing.assert_allclose(some, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_fingerprint_is_name_version_config_and_weights(name: str, equip: Equip) -> None:
    encoder = make_encoder(name, equip(name))
    assert re.fullmatch("[0-9a-f]{32}", encoder.fingerprint())
    assert encoder.weights_digest == NO_WEIGHTS or re.fullmatch("[0-9a-f]{32,64}", encoder.weights_digest)
    assert (encoder.weights is None) == (encoder.weights_digest == NO_WEIGHTS)
    assert make_encoder(name, encoder.config).fingerprint() == encoder.fingerprint()
    assert make_encoder(name, encoder.config.model_dump()).fingerprint() == encoder.fingerprint()


@pytest.mark.parametrize("name", [name for name, kind in ENCODERS.items() if kind.weights is not None])
def test_an_encoder_whose_weights_are_missing_says_which_and_how_to_get_them(name: str, tmp_path: Path) -> None:
    for package in ("mediapipe", "transformers"):
        pytest.importorskip(package)
    with pytest.raises(MissingWeightsError, match=r"dualforce weights pull \w+"):
        make_encoder(name, {"weights": tmp_path / "nowhere"})


def test_fingerprints_differ(equip: Equip) -> None:
    free = [name for name, kind in ENCODERS.items() if kind.weights is None]
    prints = [make_encoder(name, equip(name)).fingerprint() for name in [*free, "hubert", "dinov2", "clip", "wan_vae"]]
    prints.append(make_encoder("log_mel", {"num_mels": 20}).fingerprint())
    prints.append(make_encoder("face_dct", {"num_mouth": 10}).fingerprint())
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("name", [name for name, kind in ENCODERS.items() if kind.modality == "video"])
def test_every_video_encoder_streams(name: str, equip: Equip) -> None:
    encoder = make_encoder(name, equip(name))
    assert isinstance(encoder, VideoCodec)
    encoder.load()
    latents = encoder.encode(_frames())
    decoder = encoder.decoder()
    streamed = [decoder(latents[step : step + 1]) for step in range(len(latents))]
    assert np.array_equal(np.concatenate(streamed), encoder.decode(latents))
    assert encoder.encode_image(_frames()[0]) == pytest.approx(latents[0], abs=1e-5)


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
