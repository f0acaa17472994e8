"""Every extractor obeys its Protocol and the on-disk contract of its modality."""

import re

import numpy as np
import pytest

from dualforce_model.encoders import NO_WEIGHTS
from dualforce_model.schema import MODALITIES, check_feature, check_shapes
from tasks.extract import ExtractConfig, feature_key, make_extractors
from tasks.extractors import EXTRACTORS, CropMedia, Extractor

FRAMES = 13


def _crop() -> CropMedia:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (FRAMES, 32, 32, 3), np.uint8)
    return CropMedia(frames, (0.1 * rng.standard_normal(640 * FRAMES)).astype(np.float32))


def _extractor(name: str) -> Extractor:
    (extractor,) = [item for item in make_extractors(ExtractConfig()).values() if item.name == name]
    return extractor


@pytest.mark.parametrize("name", EXTRACTORS)
def test_extractor(name: str) -> None:
    extractor = _extractor(name)
    assert extractor.modality in MODALITIES
    assert extractor.needs <= {"frames", "samples"}
    assert extractor.weights_digest == NO_WEIGHTS or re.fullmatch("[0-9a-f]{64}", extractor.weights_digest)
    assert re.fullmatch("[0-9a-f]{32}", extractor.fingerprint())
    extractor.load()
    feature = extractor(_crop())
    check_feature(extractor.modality, "clip", feature)
    check_shapes(extractor.modality, "clip", FRAMES, {key: array.shape for key, array in feature.items()})
    again = _extractor(name)(_crop())
    assert all(np.array_equal(feature[key], again[key]) for key in feature)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_an_extractor_reads_only_what_it_says_it_needs(name: str) -> None:
    extractor, crop = _extractor(name), _crop()
    starved = CropMedia(
        crop.frames if "frames" in extractor.needs else crop.frames[:0],
        crop.samples if "samples" in extractor.needs else crop.samples[:0],
    )
    whole, part = extractor(crop), extractor(starved)
    assert all(np.array_equal(whole[key], part[key]) for key in whole)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_the_key_follows_extractor_crop_and_upstream(name: str) -> None:
    extractor = _extractor(name)
    keys = [
        feature_key(extractor, "a" * 64),
        feature_key(extractor, "b" * 64),
        feature_key(extractor, "a" * 64, ["k1", "k2"]),
        *[feature_key(_extractor(other), "a" * 64) for other in EXTRACTORS if other != name],
    ]
    assert len(set(keys)) == len(keys)
    assert feature_key(extractor, "a" * 64, ["k2", "k1"]) == keys[2]
