"""Every extractor obeys its Protocol and the on-disk contract of its modality."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import cv2
import numpy as np
import pytest
from skimage import data

from dualforce_model import clock
from dualforce_model.config import ConfigError
from dualforce_model.encoders import ENCODERS, NO_WEIGHTS, EncoderChoice
from dualforce_model.encoders.base import NoFaceError, or_no_face
from dualforce_model.schema import MODALITIES, Feature, check_feature, check_shapes
from tasks.extract import ExtractConfig, feature_key, make_extractors
from tasks.extractors import EXTRACTORS, CropMedia, Extractor
from tests.equipped import equipment

FRAMES = 5
APPLIED = [  # every encoder that an extractor can apply
    (kind.name, encoder)
    for kind in EXTRACTORS.values()
    for encoder, made in ENCODERS.items()
    if made.modality == kind.modality
]
every_pair = pytest.mark.parametrize(("name", "encoder"), APPLIED)
Make = Callable[[str, str], Extractor]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Make:
    """An extractor with an encoder, ready to extract."""
    folder = tmp_path_factory.mktemp("weights")

    @cache
    def make(name: str, encoder: str) -> Extractor:
        settings = equipment(encoder, folder, lambda: request.getfixturevalue("shared") / "models")
        kind = EXTRACTORS[name]
        config = getattr(ExtractConfig(), kind.modality)
        extractor = kind(config.model_copy(update={"encoder": EncoderChoice(name=encoder, config=settings)}))
        try:
            extractor.load()
        except ConfigError as error:  # a system library is missing
            pytest.skip(str(error))
        return extractor

    return make


def _crop(num_frames: int = FRAMES, side_px: int = 128) -> CropMedia:
    picture = cv2.resize(data.astronaut(), (side_px, side_px), interpolation=cv2.INTER_AREA)
    frames = np.stack([np.roll(picture, index, axis=1) for index in range(num_frames)])
    sound = 0.1 * np.random.default_rng(0).standard_normal(clock.num_samples(num_frames))
    return CropMedia(frames, sound.astype(np.float32))


def _crops() -> list[CropMedia]:
    """Of several sizes and of lengths that tell which is which; the third shows and says nothing."""
    nothing = _crop(1)
    nothing.frames[:], nothing.samples[:] = 0, 0
    return [_crop(), _crop(1, side_px=160), nothing, _crop(9)]


def _alike(one: Feature, other: Feature) -> bool:
    """Equal but for rounding: of 16 bits where they are stored in these, else of sums in another order."""
    return all(
        np.allclose(one[key], other[key], rtol=2e-3, atol=2e-3 if one[key].dtype == np.float16 else 1e-4) for key in one
    )


@contextmanager
def _work_of(extractor: Extractor) -> Iterator[list[int]]:
    """One entry for every part of the encoder's net that runs meanwhile: passes of all of it, times its parts."""
    net, ran = getattr(extractor._encoder, "_net", None), list[int]()  # type: ignore[attr-defined]  # all have one
    parts = [] if net is None else [part for part in net.modules() if not list(part.children())]
    hooks = [part.register_forward_hook(lambda *_: ran.append(1)) for part in parts]
    yield ran
    for hook in hooks:
        hook.remove()


def test_every_extractor_is_built_for_its_modality_and_has_its_settings() -> None:
    config = ExtractConfig()
    for kind in EXTRACTORS.values():
        assert kind.modality in ExtractConfig.model_fields, f"ExtractConfig lacks a line for {kind.name}"
    assert {each.modality for each in make_extractors(config).values()} == set(config.modalities)


@every_pair
def test_extractor(name: str, encoder: str, made: Make) -> None:
    extractor = made(name, encoder)
    assert extractor.modality in MODALITIES
    assert extractor.needs <= {"frames", "samples"}
    assert extractor.weights_digest == NO_WEIGHTS or re.fullmatch("[0-9a-f]{32,64}", extractor.weights_digest)
    assert re.fullmatch("[0-9a-f]{32}", extractor.fingerprint())
    feature = extractor(_crop())
    check_feature(extractor.modality, "clip", feature)
    check_shapes(extractor.modality, "clip", FRAMES, {key: array.shape for key, array in feature.items()})
    again = extractor(_crop())
    assert all(np.array_equal(feature[key], again[key]) for key in feature)


@every_pair
def test_several_crops_give_what_each_gives(name: str, encoder: str, made: Make) -> None:
    """In their order, whatever their lengths; where a face is not seen, that crop alone goes without."""
    extractor, crops = made(name, encoder), _crops()
    with _work_of(extractor) as one_by_one:
        alone = [or_no_face(extractor, crop) for crop in crops]
    with _work_of(extractor) as at_once:
        together = extractor.many(crops)
    assert len(together) == len(crops)
    for found, expected in zip(together, alone, strict=True):
        assert isinstance(found, NoFaceError) == isinstance(expected, NoFaceError)
        if isinstance(found, NoFaceError) or isinstance(expected, NoFaceError):
            assert str(found) == str(expected)
            continue
        assert {key: array.dtype for key, array in found.items()} == {key: each.dtype for key, each in expected.items()}
        assert (
            _alike(found, expected)
            if extractor.gains
            else all(np.array_equal(found[key], expected[key]) for key in found)
        )
    assert len(at_once) < len(one_by_one) if extractor.gains else not at_once, "gains what it says"
    assert extractor.many([]) == []


@every_pair
def test_an_extractor_reads_only_what_it_says_it_needs(name: str, encoder: str, made: Make) -> None:
    extractor, crop = made(name, encoder), _crop()
    starved = CropMedia(
        crop.frames if "frames" in extractor.needs else crop.frames[:0],
        crop.samples if "samples" in extractor.needs else crop.samples[:0],
    )
    whole, part = extractor(crop), extractor(starved)
    assert all(np.array_equal(whole[key], part[key]) for key in whole)


@every_pair
def test_the_key_follows_extractor_crop_and_upstream(name: str, encoder: str, made: Make) -> None:
    extractor = made(name, encoder)
    keys = [
        feature_key(extractor, "a" * 64),
        feature_key(extractor, "b" * 64),
        feature_key(extractor, "a" * 64, ["k1", "k2"]),
        *[feature_key(other, "a" * 64) for other in make_extractors(ExtractConfig()).values() if other.name != name],
    ]
    assert len(set(keys)) == len(keys)
    assert feature_key(extractor, "a" * 64, ["k2", "k1"]) == keys[2]
