"""What all measures promise, and how they are asked for by name."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dualforce_model.config import ConfigError
from dualforce_model.errors import InputError
from dualforce_model.pretrained import DamagedWeightsError, MissingWeightsError
from flows.preflight import check_curate
from tasks.curation import CurateConfig, crop_key, unmeasured
from tasks.detectors import DetectorConfig
from tasks.evidence import Evidence
from tasks.measures import MEASURES, Measure, MeasureConfig, make_measures
from tasks.policy import DropRules
from tasks.records import Score, Span
from tasks.scores import scores_of_clip
from tests.pickled import vouched

ModelOf = Callable[[str], Path]
MeasureOf = Callable[[str], Measure]
EvidenceOf = Callable[..., Evidence]

HOSTILE = {
    "empty": lambda whole: b"",
    "pointer": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:8f23\nsize 232589\n",
    "page": lambda whole: b"<!DOCTYPE html><html><body>Not Found</body></html>",
    "start": lambda whole: whole[:4000],
    "cut": lambda whole: whole[: len(whole) * 9 // 10],
    "zeros": lambda whole: bytes(len(whole)),
}
OTHERS = (
    "det_500m.onnx",
    "face_detection_yunet_2023mar.onnx",
    "dnsmos_sig_bak_ovr.onnx",
    "silero_vad.onnx",
    "mobilefacenet.onnx",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_unknown_measure_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"curate.measures.whisper: no such measure; there are: .*silero.*identity"):
        make_measures({"whisper": MeasureConfig()})


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_says_what_it_is(name: str) -> None:
    kind = MEASURES[name]
    assert kind.name == name == kind.weights.name
    assert kind.version >= 1
    assert kind.weights.setting == f"curate.measures.{name}.weights"
    assert kind.scores
    assert set(kind.scores) <= set(DropRules.model_fields), "a score that no policy can ask for"
    assert isinstance(kind.needs_face, bool)


@pytest.mark.parametrize("name", MEASURES)
def test_missing_weights_refuse_a_run_with_origin_licence_and_the_command(name: str, home: Path) -> None:
    kind = MEASURES[name]
    with pytest.raises(MissingWeightsError) as caught:
        check_curate(CurateConfig(measures={name: MeasureConfig()}))
    assert isinstance(caught.value, InputError)
    expected = (str(home), kind.weights.pattern, kind.weights.origin, kind.weights.licence, kind.weights.setting)
    for part in (*expected, "Nothing is downloaded", f"dualforce weights pull {kind.weights.model}", "https://"):
        assert part in str(caught.value)
    assert not home.exists()  # nothing was made either


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_keeps_the_contract(
    name: str, measure_of: MeasureOf, model_of: ModelOf, evidence_of: EvidenceOf
) -> None:
    measure = measure_of(name)
    assert len(measure.fingerprint()) == 32
    (again,) = make_measures({name: MeasureConfig(weights=model_of(name))})
    assert measure.fingerprint() == again.fingerprint()
    sound = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    for clip in (evidence_of(), evidence_of(sound=sound), evidence_of(landmarks=None), evidence_of(face=False)):
        scores = measure(clip)
        assert set(scores) == set(measure.scores), "every name is in every answer"
        assert scores == measure(clip), "equal clips get equal scores"
        for score in scores.values():
            assert score.method
            assert score.value is None or np.isfinite(score.value)
        if measure.needs_face and clip.people is None:
            assert {score.method for score in scores.values()} == {"mode general: no face is looked for"}
            assert {score.value for score in scores.values()} == {None}


@pytest.mark.parametrize("name", MEASURES)
def test_scores_of_measures_go_before_those_that_take_no_weights(
    name: str, measure_of: MeasureOf, evidence_of: EvidenceOf
) -> None:
    measure, clip = measure_of(name), evidence_of(sound=np.zeros(8000, np.float32))
    plain, measured = scores_of_clip(clip), scores_of_clip(clip, [measure])
    assert set(measured) == set(plain), "one set of names however clips are measured"
    assert {key: measured[key] for key in measure.scores} == measure(clip)
    assert all(measured[key] == plain[key] for key in plain if key not in measure.scores)


@pytest.mark.parametrize("name", MEASURES)
def test_weights_are_a_file_a_folder_or_the_default_folder(name: str, home: Path, model_of: ModelOf) -> None:
    model, weights = model_of(name), MEASURES[name].weights
    default = home / ".cache/dualforce/weights" / weights.folder
    default.mkdir(parents=True)
    file = default / weights.pattern.replace("*", "any")
    shutil.copy(model, file)
    vouched(file)
    assert {weights.find(chosen) for chosen in (None, default, file, Path(weights.default))} == {file}
    prints = {
        make_measures({name: MeasureConfig(weights=chosen)})[0].fingerprint() for chosen in (None, model, default)
    }
    assert len(prints) == 1, "the content counts, not the place"


@pytest.mark.parametrize("name", MEASURES)
def test_the_fingerprint_and_the_crop_key_hold_the_weights(name: str, tmp_path: Path, model_of: ModelOf) -> None:
    copy = tmp_path / "copy.bin"
    shutil.copy(model_of(name), copy)
    vouched(copy)
    config = CurateConfig(measures={name: MeasureConfig(weights=copy)})
    (measure,) = make_measures(config.measures)
    before, key = measure.fingerprint(), crop_key(config, "a" * 64, Span())
    assert key != crop_key(CurateConfig(), "a" * 64, Span())
    copy.write_bytes(copy.read_bytes() + b"\0")
    vouched(copy)
    assert measure.fingerprint() != before
    assert crop_key(config, "a" * 64, Span()) != key
    copy.unlink()
    with pytest.raises(MissingWeightsError, match=f"the weights of {name} were there a moment ago"):
        measure.fingerprint()
    with pytest.raises(MissingWeightsError):
        measure.load()


@pytest.mark.parametrize("damage", HOSTILE)
@pytest.mark.parametrize("name", MEASURES)
def test_damaged_weights_are_an_input_error_naming_the_file(
    name: str, damage: str, tmp_path: Path, model_of: ModelOf
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(HOSTILE[damage](model_of(name).read_bytes()))
    vouched(broken)
    (measure,) = make_measures({name: MeasureConfig(weights=broken)})
    with pytest.raises(DamagedWeightsError) as caught:
        measure.load()
    assert str(caught.value).startswith(f"{broken}: not a model that {name} can use")
    assert f"get it anew with: dualforce weights pull {MEASURES[name].weights.model} --again" in str(caught.value)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", MEASURES)
def test_another_net_than_the_measures_own_is_refused(name: str, other: str, model_of: ModelOf, shared: Path) -> None:
    mine, model = model_of(name), shared / "models" / other
    if not model.is_file():
        pytest.skip(f"needs {other} in the folder of shared models")
    (measure,) = make_measures({name: MeasureConfig(weights=model)})
    if model == mine:
        measure.load()
        return
    with pytest.raises(DamagedWeightsError, match=f"not a model that {name} can use"):
        measure.load()


@pytest.mark.parametrize("name", MEASURES)
def test_what_needs_a_face_is_refused_where_none_is_looked_for(name: str, model_of: ModelOf) -> None:
    config = CurateConfig(mode="general", measures={name: MeasureConfig(weights=model_of(name))})
    if not MEASURES[name].needs_face:
        check_curate(config)
        return
    with pytest.raises(ConfigError, match=f"curate.measures.{name}: it needs a face"):
        check_curate(config)


@pytest.mark.parametrize("name", MEASURES)
def test_what_is_measured_is_not_unmeasured(name: str, model_of: ModelOf) -> None:
    config = CurateConfig(detector=DetectorConfig(), measures={name: MeasureConfig(weights=model_of(name))})
    assert not set(unmeasured(config)) & set(MEASURES[name].scores)


def test_without_measures_what_needs_one_says_so(evidence_of: EvidenceOf) -> None:
    assert scores_of_clip(evidence_of())["identity"] == Score(method="none: needs curate.measures.identity")


def test_measures_import_no_runtime_before_it_is_needed() -> None:
    code = (
        "import sys; import tasks.measures; "
        "print([name for name in ('onnxruntime', 'onnx', 'insightface', 'mediapipe') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"
