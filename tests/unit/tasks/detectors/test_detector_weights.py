"""Weights: found where they are said to be, refused by name otherwise, and part of every fingerprint."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dualforce_model.config import ConfigError
from dualforce_model.errors import InputError
from dualforce_model.pretrained import MAX_BYTES, DamagedWeightsError, MissingWeightsError
from flows.preflight import check_curate
from tasks.curation import CurateConfig
from tasks.detectors import DETECTORS, DetectorConfig, make_detector

ConfigOf = Callable[..., DetectorConfig]

NEEDY = {name: kind.weights for name, kind in DETECTORS.items() if kind.weights is not None}
LICENCES = {"scrfd": "non-commercial research only", "yunet": "MIT", "mediapipe": "Apache-2.0"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", NEEDY)
def test_missing_weights_are_named_with_origin_licence_and_the_command(name: str, home: Path) -> None:
    with pytest.raises(MissingWeightsError) as caught:
        make_detector(DetectorConfig(name=name))
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, FileNotFoundError)
    message = str(caught.value)
    weights = NEEDY[name]
    for part in (
        str(home),
        weights.pattern,
        weights.origin,
        LICENCES[name],
        "Nothing is downloaded",
        f"dualforce weights pull {name}",
        weights.url,
    ):
        assert part in message
    assert not home.exists()  # nothing was made either


@pytest.mark.parametrize("name", NEEDY)
def test_a_run_is_refused_before_it_starts(name: str, home: Path) -> None:
    with pytest.raises(InputError, match="Nothing is downloaded for you"):
        check_curate(CurateConfig(detector=DetectorConfig(name=name)))


@pytest.mark.parametrize("name", NEEDY)
def test_weights_are_a_file_a_folder_or_the_default_folder(name: str, home: Path, config_of: ConfigOf) -> None:
    model = config_of(name).weights
    assert model is not None
    weights = NEEDY[name]
    default = home / ".cache/dualforce/weights" / weights.folder
    default.mkdir(parents=True)
    shutil.copy(model, default)
    found = [weights.find(chosen) for chosen in (None, default, default / model.name, Path(weights.default))]
    assert set(found) == {default / model.name}
    prints = {
        make_detector(DetectorConfig(name=name, weights=chosen)).fingerprint() for chosen in (None, model, default)
    }
    assert prints == {make_detector(config_of(name)).fingerprint()}  # the content counts, not the place


@pytest.mark.parametrize("name", NEEDY)
def test_the_fingerprint_holds_the_weights(name: str, tmp_path: Path, config_of: ConfigOf) -> None:
    model = config_of(name).weights
    assert model is not None
    copy = tmp_path / model.name
    shutil.copy(model, copy)
    detector = make_detector(DetectorConfig(name=name, weights=copy))
    before = detector.fingerprint()
    copy.write_bytes(copy.read_bytes() + b"\0")
    assert detector.fingerprint() != before
    copy.unlink()
    with pytest.raises(FileNotFoundError, match=f"the weights of {name} were there a moment ago"):
        detector.fingerprint()
    with pytest.raises(MissingWeightsError):
        detector.load()


def test_two_models_in_a_pack_are_not_chosen_from_by_us(tmp_path: Path) -> None:
    for file in ("det_10g.onnx", "det_500m.onnx", "w600k_r50.onnx"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(InputError, match=r"det_10g.onnx, det_500m.onnx; detector.weights for scrfd names one"):
        make_detector(DetectorConfig(name="scrfd", weights=tmp_path))
    (tmp_path / "det_500m.onnx").unlink()
    assert NEEDY["scrfd"].find(tmp_path) == tmp_path / "det_10g.onnx"


def test_a_folder_without_the_file_is_told_from_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"no det_\*.onnx in it"):
        make_detector(DetectorConfig(name="scrfd", weights=tmp_path))
    with pytest.raises(MissingWeightsError, match="nowhere: no such file or folder"):
        make_detector(DetectorConfig(name="scrfd", weights=tmp_path / "nowhere"))


HOSTILE = {
    "empty": lambda whole: b"",
    "pointer": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:8f23\nsize 232589\n",
    "page": lambda whole: b"<!DOCTYPE html><html><body>Not Found</body></html>",
    "start": lambda whole: whole[:4000],
    "cut": lambda whole: whole[: len(whole) * 9 // 10],
    "zeros": lambda whole: bytes(len(whole)),
}


@pytest.mark.parametrize("damage", HOSTILE)
@pytest.mark.parametrize("name", NEEDY)
def test_damaged_weights_are_an_input_error_naming_the_file(
    name: str, damage: str, tmp_path: Path, config_of: ConfigOf
) -> None:
    model = config_of(name).weights
    assert model is not None
    broken = tmp_path / model.name
    broken.write_bytes(HOSTILE[damage](model.read_bytes()))
    detector = make_detector(DetectorConfig(name=name, weights=broken))
    with pytest.raises(DamagedWeightsError) as caught:
        detector.load()
    message = str(caught.value)
    assert message.startswith(f"{broken}: not a model that {name} can use")
    assert f"get it anew with: dualforce weights pull {name} --again" in message
    assert ("git-lfs, not the file itself" in message) == (damage == "pointer")


@pytest.mark.parametrize("other", ["det_500m.onnx", "face_detection_yunet_2023mar.onnx", "mobilefacenet.onnx"])
@pytest.mark.parametrize("name", NEEDY)
def test_another_net_than_the_detectors_own_is_refused(name: str, other: str, config_of: ConfigOf) -> None:
    mine = config_of(name).weights
    assert mine is not None
    model = mine.parent / other
    if not model.is_file():
        pytest.skip(f"needs {other} in the folder of shared models")
    if model == mine:
        make_detector(DetectorConfig(name=name, weights=model)).load()
        return
    with pytest.raises(DamagedWeightsError, match=f"not a model that {name} can use"):
        make_detector(DetectorConfig(name=name, weights=model)).load()


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    huge = tmp_path / "det_huge.onnx"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse
    with pytest.raises(DamagedWeightsError, match="bytes, more than"):
        make_detector(DetectorConfig(name="scrfd", weights=huge)).load()


def test_nothing_but_a_file_is_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError):
        make_detector(DetectorConfig(name="yunet", weights="/dev/zero"))
    (tmp_path / "face_detection_yunet_2023mar.onnx").mkdir()
    with pytest.raises(MissingWeightsError):
        make_detector(DetectorConfig(name="yunet", weights=tmp_path))
    with pytest.raises(ConfigError, match="no such detector"):
        make_detector(DetectorConfig(name="yunet2", weights=tmp_path))
