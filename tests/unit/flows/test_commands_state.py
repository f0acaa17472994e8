"""Looking at a run: the folder that was named, and nothing that is not there."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from dualforce_model.config import ConfigError, validate
from flows.acquire import AcquireRun
from flows.cli import _failure, _register, cli
from flows.curate import CurateRun
from flows.pipeline import PipelineRun, save_config
from flows.single import keep, kept_stages, load_chain, load_kept
from flows.terminal import USAGE
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.records import Clip, FailureClass, Stage

_register()
PLACE = {"dataset": "mine", "home": "runs/mine"}


def one_failed(home: Path) -> Path:
    """A folder in which one clip could not be downloaded."""
    row = Row(clip_id="a", stage=Stage.ACQUIRE, state="failed", failure=FailureClass.NETWORK, key="k", detail="gone")
    with Ledger(f"sqlite:///{home / 'ledger.db'}") as ledger, ledger.lease("mine", Stage.ACQUIRE, "run") as lease:
        ledger.add_clips("mine", [Clip(clip_id="a", source="folder", video_id="a", location="a.mp4")])
        ledger.record(lease, [row])
    return home


def acquire_settings(folder: Path) -> dict[str, object]:
    (folder / "videos").mkdir(exist_ok=True)
    return {"place": PLACE, "acquire": {"source": {"name": "folder", "folder": str(folder / "videos")}}}


def configs(folder: Path) -> dict[str, Path]:
    """A YAML of every flow whose clips can be looked at."""
    acquire = acquire_settings(folder)
    settings = {
        "acquire": acquire,
        "curate": {"place": PLACE, "curate": {"crop_px": 96}},
        "extract": {"place": PLACE, "policy": "configs/policy/folder.yaml", "snapshot": {"tag": "mine"}},
        "pipeline": acquire | {"gate": {"min_clips": 2}},
    }
    for name, values in settings.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return {name: folder / f"{name}.yaml" for name in settings}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def refusal(result: Result) -> str:
    assert result.exception is not None, result.output
    finish = _failure(result.exception)
    assert finish is not None, result.exception
    assert finish.code == USAGE
    return finish.message


@pytest.mark.parametrize("flow", ["acquire", "curate", "extract", "pipeline"])
def test_a_named_folder_is_the_one_that_is_looked_at(tmp_path: Path, flow: str) -> None:
    home, config = one_failed(tmp_path / "run"), configs(tmp_path)[flow]
    found = call("failures", "--config", config, "--out", home, "--json")
    assert [fate["clip_id"] for fate in json.loads(found.stdout)["fates"]] == ["a"]
    assert json.loads(call("status", "--config", config, "--out", home, "--json").stdout)["clips"]["listed"] == 1


@pytest.mark.parametrize("command", ["status", "failures"])
@pytest.mark.parametrize("flow", ["acquire", "curate", "extract", "pipeline"])
def test_a_run_that_does_not_exist_is_not_healthy(tmp_path: Path, command: str, flow: str) -> None:
    config = configs(tmp_path)[flow]
    said = refusal(call(command, "--config", config, "--out", tmp_path / "none"))
    assert f"{tmp_path / 'none'}: nothing to look at there, it has no ledger.db" in said
    assert "--out" in said
    assert not (tmp_path / "none").exists()


def test_a_plan_is_of_the_named_folder_and_needs_no_run(tmp_path: Path) -> None:
    config = configs(tmp_path)["pipeline"]
    assert call("plan", "--config", config, "--out", tmp_path / "none").exit_code == 0
    home = one_failed(tmp_path / "run")
    assert "1 clip left it" in call("plan", "--config", config, "--out", home).stdout


def test_a_plan_counts_captions_where_texts_are_made(tmp_path: Path, tiny_umt5: Path) -> None:
    config, home = configs(tmp_path)["pipeline"], one_failed(tmp_path / "run")
    assert "text" not in json.loads(call("plan", "--config", config, "--out", home, "--json").stdout)
    umt5 = {"name": "umt5", "config": {"weights": str(tiny_umt5), "precision": "fp32"}}
    values = yaml.safe_load(config.read_text()) | {"extract": {"text": {"encoder": umt5}}}
    config.write_text(yaml.safe_dump(values))
    found = json.loads(call("plan", "--config", config, "--out", home, "--json").stdout)
    assert (found["text"]["distinct"], found["text"]["new"]) == (0, 0)
    said = call("plan", "--config", config, "--out", home).stdout
    assert "text     nothing to do, no clip has come this far" in said


@pytest.mark.parametrize("command", ["status", "failures"])
def test_a_misspelt_setting_of_a_single_stage_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"place": PLACE, "curate": {"crop_pxx": 96}}))
    assert "did you mean 'crop_px'" in refusal(call(command, "--config", tmp_path / "x.yaml"))


def test_single_stages_are_looked_at_by_their_folder(tmp_path: Path) -> None:
    home = one_failed(tmp_path / "run")
    keep("acquire", validate(AcquireRun, acquire_settings(tmp_path), "test"), home)
    keep("curate", validate(CurateRun, {"place": PLACE}, "test"), home)
    assert kept_stages(home) == ("acquire", "curate")
    moved = home.rename(tmp_path / "moved")
    assert load_kept(moved).place.home == str(moved)
    (fate,) = json.loads(call("failures", "--out", moved, "--json").stdout)["fates"]
    assert (fate["clip_id"], fate["reason"]) == ("a", "network")
    assert json.loads(call("status", "--out", moved, "--json").stdout)["clips"]["failed"] == {"network": 1}


def test_single_stages_have_no_plan_and_that_says_what_can_be_done(tmp_path: Path) -> None:
    home = one_failed(tmp_path / "run")
    keep("acquire", validate(AcquireRun, acquire_settings(tmp_path), "test"), home)
    said = refusal(call("plan", "--out", home))
    assert f"To try failed clips again: `dualforce rerun --out {home}`." in said
    assert f"`dualforce run pipeline --config FILE place.home={home}` first" in said


@pytest.mark.parametrize("command", ["plan", "rerun"])
def test_a_chain_without_its_beginning_cannot_be_rerun(tmp_path: Path, command: str) -> None:
    home = one_failed(tmp_path / "run")
    keep("curate", validate(CurateRun, {"place": PLACE}, "test"), home)
    said = refusal(call(command, "--out", home))
    assert f"`dualforce run curate --config FILE place.home={home}`, with stage.attempts above" in said


def test_the_yaml_of_a_single_stage_is_not_taken_for_what_the_folder_keeps(tmp_path: Path) -> None:
    home = one_failed(tmp_path / "run")
    keep("acquire", validate(AcquireRun, acquire_settings(tmp_path), "test"), home)
    said = refusal(call("rerun", "--out", home, "--config", configs(tmp_path)["curate"]))
    assert f"of a single stage, curate, and {home} keeps those that it ran" in said
    assert f"leave --config out: `dualforce rerun --out {home}`" in said


def test_kept_stages_are_parts_of_one_pipeline(tmp_path: Path) -> None:
    home = tmp_path / "run"
    videos = home / "videos"
    videos.mkdir(parents=True)
    settings = {"place": PLACE | {"home": str(home)}, "pool": {"workers": 3}}
    source = {"name": "folder", "folder": str(videos)}
    keep("acquire", validate(AcquireRun, settings | {"acquire": {"source": source}}, "test"), home)
    curate = settings | {"pool": {"workers": 2}, "curate": {"crop_px": 96}}
    keep("curate", validate(CurateRun, curate, "test"), home)
    moved = home.rename(tmp_path / "moved")
    run = load_chain(moved)
    assert run.place.home == str(moved)
    assert run.acquire.source.model_dump()["folder"] == moved / "videos"
    assert (run.curate.crop_px, run.pool.workers) == (96, 2)


def test_stages_of_two_data_sets_are_not_one_chain(tmp_path: Path) -> None:
    home = one_failed(tmp_path / "run")
    keep("acquire", validate(AcquireRun, acquire_settings(tmp_path), "test"), home)
    keep("curate", validate(CurateRun, {"place": PLACE | {"dataset": "other"}}, "test"), home)
    said = refusal(call("rerun", "--out", home))
    assert "acquire ran on mine in ledger.db, curate ran on other in ledger.db" in said


def test_a_list_that_a_kept_stage_names_and_that_is_gone_is_said_before_the_rerun(tmp_path: Path) -> None:
    home = one_failed(tmp_path / "run")
    keep("acquire", validate(AcquireRun, acquire_settings(tmp_path), "test"), home)
    (tmp_path / "videos").rmdir()
    assert "acquire.source.folder: " in refusal(call("rerun", "--out", home))
    assert sorted(path.name for path in home.iterdir()) == ["last_acquire.yaml", "ledger.db"]


def test_a_pipeline_in_the_folder_goes_first(tmp_path: Path) -> None:
    home = one_failed(tmp_path / "run")
    run = validate(PipelineRun, acquire_settings(tmp_path) | {"place": PLACE | {"home": str(home)}}, "test")
    keep("acquire", validate(AcquireRun, acquire_settings(tmp_path), "test"), home)
    save_config(run)
    assert kept_stages(home) == ()
    assert call("plan", "--out", home).exit_code == 0


def test_a_damaged_record_of_a_stage_is_named(tmp_path: Path) -> None:
    home = one_failed(tmp_path / "run")
    (home / "last_curate.yaml").write_text("place: 3\n")
    with pytest.raises(ConfigError, match=r"last_curate\.yaml: place"):
        load_kept(home)
