"""The structure extractor: rows, key points at rest where the encoder tells them, and its table."""

import numpy as np
import pytest

from dualforce_model.encoders import ENCODERS, EncoderChoice, FaceDctStructure
from dualforce_model.encoders.structure import Measured
from dualforce_model.layout import Layout, Part
from dualforce_model.schema import check_feature, check_shapes
from tasks.extract import ExtractConfig, make_extractors
from tasks.extractors import CropMedia, Structure, StructureConfig
from tasks.extractors.structure import layouts_of

FRAMES = 5
LAYOUT = Layout(name="all", version=3, parts=(Part(name="row", start=0, stop=32, unit="any", source="test"),))


class Resting(FaceDctStructure):
    """As an encoder that tells who a face is from what it does, with a table of its own."""

    layout = LAYOUT  # type: ignore[assignment]

    def measure(self, frames: np.ndarray) -> Measured:
        return Measured(self(frames), frames.mean(axis=(1, 2)))


def crop() -> CropMedia:
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 48, 48, 3), np.uint8)
    return CropMedia(frames, np.zeros(0, np.float32))


def test_an_encoder_of_rows_alone_gives_what_it_gave() -> None:
    extractor = Structure(StructureConfig())
    feature = extractor(crop())
    assert feature.keys() == {"motion"}
    assert np.array_equal(feature["motion"], FaceDctStructure()(crop().frames))
    assert extractor.layout is None
    assert extractor.fingerprint() == "80d79042e360556c5821722c3ae998aa"  # of before there was more: nothing is stale
    assert layouts_of(make_extractors(ExtractConfig())) == {}


def test_key_points_at_rest_are_stored_beside_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "resting", Resting)
    config = StructureConfig(encoder=EncoderChoice(name="resting"))
    extractor = Structure(config)
    feature = extractor(crop())
    check_feature("structure", "c", feature)
    check_shapes("structure", "c", FRAMES, {name: array.shape for name, array in feature.items()})
    np.testing.assert_allclose(feature["canonical"], crop().frames.mean(axis=(1, 2)), rtol=1e-6)
    assert layouts_of(make_extractors(ExtractConfig(structure=config))) == {"structure": LAYOUT}
