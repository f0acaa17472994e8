"""What a run is told before it makes anything."""

from pathlib import Path

import pytest

from dualforce_model.config import ConfigError, validate
from dualforce_model.encoders import EncoderChoice
from dualforce_model.model import PRESETS
from dualforce_model.train_config import TrainSettings
from flows.pipeline import PipelineRun
from flows.preflight import check_begun, check_chain, check_curate, check_policy, check_source, faceless_features
from tasks.curation import CurateConfig
from tasks.detectors import DetectorConfig
from tasks.extract import ExtractConfig
from tasks.extractors import StructureConfig
from tasks.measures import MEASURES, MeasureConfig
from tasks.place import Place
from tasks.sources.folder import FolderConfig

FACE, GENERAL = CurateConfig(), CurateConfig(mode="general")
SHIPPED = sorted(path.stem for path in (Path(__file__).parents[3] / "configs" / "policy").glob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "pretrain"])
def test_shipped_policies_can_be_decided_here(name: str) -> None:
    assert check_policy(f"configs/policy/{name}.yaml", FACE) == ()


def test_a_policy_that_asks_for_no_face_is_told_that_curate_does() -> None:
    (note,) = check_policy("configs/policy/pretrain.yaml", FACE)
    assert "'pretrain' asks for no face" in note
    assert "no_face" in note
    assert "curate.mode: general takes them" in note
    assert check_policy("configs/policy/pretrain.yaml", GENERAL) == ()
    assert check_policy("configs/policy/pretrain.yaml") == (), "crops that are there were made in either mode"


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "pretrain"])
def test_a_policy_about_faces_is_refused_where_none_is_looked_for(name: str) -> None:
    said = r"people: when_not_measured: drop would drop every clip.*mode general looks for none.*policy/pretrain\.yaml"
    with pytest.raises(ConfigError, match=said):
        check_policy(f"configs/policy/{name}.yaml", GENERAL)


def test_a_rule_about_faces_that_passes_what_is_not_measured_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "kind.yaml"
    path.write_text("name: kind\ndrop:\n  people: {at_most: 1, when_not_measured: pass}\n")
    assert check_policy(str(path), GENERAL) == ()


def test_the_detector_is_looked_for_where_it_is_used(tmp_path: Path) -> None:
    unknown = DetectorConfig(name="none")
    with pytest.raises(ConfigError, match="detector 'none'"):
        check_curate(CurateConfig(detector=unknown))
    check_curate(CurateConfig(mode="general", detector=unknown))


def test_a_measure_is_refused_where_the_detector_or_the_mode_gives_nothing_to_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Pose:
        name, version, scores, needs_face, needs_landmarks = "pose", 1, ("identity",), True, True

        def __init__(self, config: MeasureConfig) -> None:
            self.config = config

    monkeypatch.setitem(MEASURES, "pose", Pose)
    asked = {"pose": MeasureConfig()}
    with pytest.raises(ConfigError, match=r"curate\.measures\.pose: it needs landmarks, and opencv_cascade gives none"):
        check_curate(CurateConfig(measures=asked))
    with pytest.raises(ConfigError, match=r"curate\.measures\.pose: it needs a face, and curate\.mode general"):
        check_curate(CurateConfig(mode="general", measures=asked))
    monkeypatch.setattr(Pose, "needs_landmarks", False)
    check_curate(CurateConfig(measures=asked))
    with pytest.raises(ConfigError, match=r"curate\.measures\.none: no such measure; there are: .*silero"):
        check_curate(CurateConfig(measures={"none": MeasureConfig()}))


def test_reference_features_that_nothing_makes_are_refused_before_the_run() -> None:
    model = PRESETS["tiny"]
    looking = model.model_copy(update={"video": model.video.model_copy(update={"feature_dim": 7})})
    with pytest.raises(ConfigError, match="no extractor of this run makes reference"):
        check_chain(ExtractConfig(), TrainSettings(model=looking))
    check_chain(ExtractConfig(), TrainSettings(model=model))


def test_features_of_faces_are_noted_where_there_may_be_none() -> None:
    (note,) = faceless_features(GENERAL, ExtractConfig())
    assert "has structure, audio" in note
    assert faceless_features(GENERAL, ExtractConfig(modalities=("video",))) == ()
    assert faceless_features(FACE, ExtractConfig()) == ()


def test_a_pipeline_without_faces_knows_its_policy_and_features(tmp_path: Path) -> None:
    def asked(policy: str, modalities: tuple[str, ...]) -> PipelineRun:
        values = {
            "acquire": {"source": {"name": "folder", "folder": str(tmp_path)}},
            "curate": {"mode": "general"},
            "policy": policy,
            "extract": {"modalities": list(modalities)},
        }
        return validate(PipelineRun, values, "test")

    assert asked("configs/policy/pretrain.yaml", ("video",)).check() == ()
    (note,) = asked("configs/policy/pretrain.yaml", ("video", "audio")).check()
    assert "has audio" in note
    with pytest.raises(ConfigError, match="mode general looks for none"):
        asked("configs/policy/folder.yaml", ("video",)).check()


@pytest.mark.parametrize("group", ["drop", "weigh"])
def test_a_rule_that_nobody_can_decide_is_named_with_what_it_would_take(tmp_path: Path, group: str) -> None:
    rule = "{at_most: 30.0, when_not_measured: WHAT" + (", weight: 0.5}" if group == "weigh" else "}")
    path = tmp_path / "strict.yaml"
    path.write_text(f"name: strict\n{group}:\n  yaw_deg: {rule.replace('WHAT', 'drop')}\n")
    with pytest.raises(ConfigError, match=r"strict\.yaml: yaw_deg: .*every clip.*landmarks"):
        check_policy(str(path), FACE)
    path.write_text(f"name: kind\n{group}:\n  yaw_deg: {rule.replace('WHAT', 'pass')}\n")
    check_policy(str(path), FACE)


def test_a_source_must_be_of_its_kind(tmp_path: Path) -> None:
    (tmp_path / "list.txt").touch()
    check_source(FolderConfig(folder=tmp_path))
    with pytest.raises(ConfigError, match=r"acquire\.source\.folder: .*list\.txt: not a folder"):
        check_source(FolderConfig(folder=tmp_path / "list.txt"))
    with pytest.raises(ConfigError, match=r"acquire\.source\.folder: .*: no such folder"):
        check_source(FolderConfig(folder=tmp_path / "nowhere"))


def test_a_later_stage_names_the_one_that_comes_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing to curate there.*run acquire first"):
        check_begun(Place(home=str(tmp_path)), "curate", "acquire")


def test_features_that_training_alone_reads_have_no_encoder_in_a_checkpoint(shared: Path) -> None:
    pytest.importorskip("mediapipe")
    weights = {"weights": shared / "models/face_landmarker.task"}
    flame = {"encoder": {"name": "mediapipe_flame", "config": weights}}
    made = ExtractConfig.model_validate({"modalities": ["video", "structure", "audio", "flame"], "flame": flame})
    check_chain(made, TrainSettings())
    other = StructureConfig(encoder=EncoderChoice(name="mediapipe_structure", config=weights))
    with pytest.raises(ConfigError, match=r"train\.encoders\.structure: face_dct .* is not the encoder of extract"):
        check_chain(made.model_copy(update={"structure": other}), TrainSettings())
