"""Bad input is refused before anything is made: the folder it would have gone to is not there afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from dualforce_model.config import shipped
from flows.cli import _failure, _register, cli
from flows.terminal import USAGE

_register()
FLOWS = {
    "acquire": "configs/acquire/folder.yaml",
    "curate": "configs/curate/folder.yaml",
    "extract": "configs/extract/folder.yaml",
    "train": "configs/train/folder.yaml",
    "pipeline": "configs/pipeline/folder.yaml",
}


def refused(folder: Path, *arguments: str) -> str:
    """What a command says that is refused and leaves the folder, where it was given, empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(cli, arguments)
    assert result.exception is not None
    finish = _failure(result.exception)
    assert finish is not None, result.exception
    assert finish.code == USAGE
    assert list(folder.iterdir()) == []
    return finish.message


@pytest.mark.parametrize(
    ("flow", "override", "said"),
    [
        ("acquire", "fetchh=1", "fetchh: unknown setting"),
        ("acquire", "acquire.source.folder=nowhere", "acquire.source.folder: nowhere: no such folder"),
        ("curate", "curate.crop_px=97", "curate.crop_px"),
        ("curate", "curate.detector.name=cascade", "detector 'cascade': no such detector"),
        ("extract", "policy=configs/policy/none.yaml", "configs/policy/none.yaml: no such file"),
        ("extract", "extract.audio.encoder.name=log", "encoder 'log': no such encoder; did you mean 'log_mel'"),
        ("train", "snapshot=newest", "runs/mine/store"),
        ("train", "launch.accelerate=none.yaml", "launch.accelerate: none.yaml: no such file"),
        ("train", "train.stepps=1", "did you mean 'steps'"),
        ("pipeline", "trainn.steps=1", "did you mean 'train'"),
        ("pipeline", "place.home", "expected KEY=VALUE"),
        (
            "pipeline",
            "train.encoders.audio={name: log_mel, config: {num_mels: 20}}",
            "is not the encoder of extract.audio",
        ),
        ("pipeline", "policy=none.yaml", "none.yaml: no such file"),
        ("pipeline", "acquire.source.folder=nowhere", "acquire.source.folder: nowhere"),
    ],
)
def test_a_run_that_cannot_be_leaves_nothing(tmp_path: Path, flow: str, override: str, said: str) -> None:
    overrides = ["acquire.source.folder=/tmp"] if flow == "pipeline" else []
    assert said in refused(tmp_path, "run", flow, "--config", FLOWS[flow], *overrides, override)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "pipeline", "--config", "none.yaml"], "none.yaml: no such file"),
        (["demo", "--config", "none.yaml"], "none.yaml: no such file"),
        (["demo", "pipelin.train.steps=1"], "did you mean 'pipeline'"),
        (["demo", "pipeline.policy=none.yaml"], "none.yaml: no such file"),
        (["demo", "corpus.num_good=-1"], "corpus.num_good"),
        (["demo", "--rerun"], "holds no demo to heal"),
        (["plan"], "is not the folder of a run"),
        (["status"], "is not the folder of a run"),
        (["failures"], "is not the folder of a run"),
        (["rerun"], "is not the folder of a run"),
        (["rerun", "--config", "configs/pipeline/folder.yaml"], "runs/mine is not the folder of a run"),
        (["up"], "is not the folder of a run"),
        (["snapshots", "build"], "is not the folder of a run"),
        (["plan", "--config", "none.yaml"], "none.yaml: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_that_cannot_be_leaves_nothing(tmp_path: Path, arguments: list[str], said: str) -> None:
    assert said in refused(tmp_path, *arguments)


@pytest.mark.parametrize("command", ["plan", "status", "failures"])
def test_looking_at_what_never_ran_makes_nothing(tmp_path: Path, command: str) -> None:
    """Given a configuration everything is still to do, and nothing stands anywhere."""
    settings = yaml.safe_load(shipped("configs/pipeline/folder.yaml").read_text())
    home, videos, config = tmp_path / "empty", tmp_path / "videos", tmp_path / "x.yaml"
    home.mkdir()
    videos.mkdir()
    settings["acquire"]["source"]["folder"] = str(videos)
    config.write_text(yaml.safe_dump(settings))
    if command != "plan":
        assert "runs/mine: nothing to look at there" in refused(home, command, "--config", str(config))
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        result = CliRunner().invoke(cli, [command, "--config", str(config), "--json"])
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)
    assert list(home.iterdir()) == []


def test_a_policy_that_cannot_be_decided_here_is_refused(tmp_path: Path) -> None:
    policy, home = tmp_path / "strict.yaml", tmp_path / "home"
    policy.write_text("name: strict\ndrop:\n  occlusion: {at_most: 0.3, when_not_measured: drop}\n")
    home.mkdir()
    chosen = (f"acquire.source.folder={tmp_path}", f"policy={policy}")
    said = refused(home, "run", "pipeline", "--config", FLOWS["pipeline"], *chosen)
    assert "would drop every clip" in said
    assert "it takes curate.measures.mesh" in said


@pytest.mark.parametrize(
    ("override", "said"), [("policy=POLICY", "opencv_cascade gives none"), ("curate.mode=general", "looks for none")]
)
def test_a_policy_that_the_chosen_curate_cannot_serve_is_refused(tmp_path: Path, override: str, said: str) -> None:
    policy, home = tmp_path / "strict.yaml", tmp_path / "home"
    policy.write_text("name: strict\ndrop:\n  yaw_deg: {at_most: 30.0, when_not_measured: drop}\n")
    home.mkdir()
    chosen = override.replace("POLICY", str(policy))
    message = refused(
        home, "run", "pipeline", "--config", FLOWS["pipeline"], f"acquire.source.folder={tmp_path}", chosen
    )
    assert "would drop every clip" in message
    assert said in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "pipeline", "--config", FLOWS["pipeline"], "trainn.steps=1"],
        ["demo", "pipeline.policy=none.yaml"],
    ],
    ids=" ".join,
)
def test_neither_does_a_server_of_its_own(tmp_path: Path, arguments: list[str]) -> None:
    """As a user calls it: a private Prefect server is on its way when the input turns out to be bad."""
    here, temporary = tmp_path / "here", tmp_path / "tmp"
    here.mkdir()
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment |= {"HOME": str(here), "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, env=environment, timeout=120)
    assert done.returncode == USAGE, done.stderr
    assert "Traceback" not in done.stderr
    assert (list(here.iterdir()), list(temporary.iterdir())) == ([], [])
