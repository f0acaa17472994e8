"""The command line: complete help, exit codes that mean something, no pretending."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dualforce_model.errors import BusyError, InfrastructureError, InputError
from flows.cli import _failure, _register, cli
from flows.terminal import BROKEN, BUSY, INTERRUPTED, NOT_BUILT, USAGE, Finish

_register()
ROOT = Path(__file__).resolve().parents[3]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = list(commands(cli))


def test_the_commands_are_those_that_are_promised() -> None:
    top = {path[0] for path, _ in ALL}
    assert top == {
        "demo",
        "run",
        "plan",
        "status",
        "clips",
        "failures",
        "rerun",
        "snapshots",
        "sources",
        "generate",
        "evaluate",
        "verify",
        "estimate",
        "up",
        "weights",
    }
    inner = {path[1] for path, _ in ALL if len(path) == 2}
    assert inner == {
        "build",
        "list",
        "show",
        "diff",
        "tag",
        "verify",
        "gc",
        "check",
        "pull",
        "pin",
        "pack",
        "export",
        "agreement",
    }


@pytest.mark.parametrize(
    ("path", "command"), ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_and_option_explains_itself(path: tuple[str, ...], command: click.Command) -> None:
    assert len(command.help or "") > 20
    unexplained = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not unexplained
    assert CliRunner().invoke(cli, [*path, "--help"]).exit_code == 0


def test_what_is_not_built_says_so_and_fails() -> None:
    for arguments in (["run", "ablate", "--config", "x.yaml"],):
        result = CliRunner().invoke(cli, arguments)
        assert isinstance(result.exception, Finish)
        assert result.exception.code == NOT_BUILT
        assert "not built yet" in result.exception.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), USAGE),
        (BusyError("x"), BUSY),
        (InfrastructureError("x"), BROKEN),
        (OSError(28, "No space left on device"), BROKEN),
        (KeyboardInterrupt(), INTERRUPTED),
        (click.exceptions.Abort(), INTERRUPTED),
    ],
)
def test_errors_become_exit_codes(error: BaseException, code: int) -> None:
    finish = _failure(error)
    assert finish is not None
    assert finish.code == code


def test_a_bug_keeps_its_traceback() -> None:
    assert _failure(KeyError("x")) is None


def run(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True, cwd=folder, timeout=120
    )


def test_a_misspelt_setting_is_named_with_the_nearest_right_one(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("place: {home: here}\nfetchh: 1\nacquire: {source: {name: urls, list: x}}\n")
    result = run("run", "acquire", "--config", "x.yaml", folder=tmp_path)
    assert result.returncode == USAGE, result.stderr
    assert "fetchh: unknown setting" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_file_and_an_unreadable_store_are_named(tmp_path: Path) -> None:
    missing = run("run", "curate", "--config", "nowhere.yaml", folder=tmp_path)
    assert missing.returncode == USAGE
    assert "nowhere.yaml: no such file" in missing.stderr
    store = run("snapshots", "show", "demo", "--store", str(tmp_path / "none"), folder=tmp_path)
    assert store.returncode in (USAGE, BROKEN)
    assert "none" in store.stderr
    assert "Traceback" not in store.stderr


def test_an_empty_folder_is_not_taken_for_a_run(tmp_path: Path) -> None:
    result = run("status", "--out", str(tmp_path), folder=tmp_path)
    assert result.returncode == USAGE
    assert "is not the folder of a run" in result.stderr


def test_json_is_json(tmp_path: Path) -> None:
    result = run("snapshots", "list", "--json", "--store", str(tmp_path), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"damaged": [], "snapshots": []}


def test_help_imports_nothing_heavy() -> None:
    heavy = "[name for name in ('torch', 'prefect', 'ray', 'av', 'cv2') if name in sys.modules]"
    code = f"import sys; from flows.cli import _register; _register(); print({heavy})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert found.stdout.strip() == "[]", found.stderr


def test_a_home_stays_empty(tmp_path: Path) -> None:
    """Commands that only look write nothing into the user's home; nor do the libraries they load."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MPL", "XDG"))}
    code = "from flows.cli import _keep_to_ourselves; _keep_to_ourselves(); import tasks.pictures, flows.inspection"
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=elsewhere, env={**environment, "HOME": str(home)}, timeout=120
    )
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"), [("place: 3", "place: expected a group"), ("place: {home: null}", "place.home")]
)
def test_a_broken_place_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    result = run("run", "curate", "--config", "x.yaml", folder=tmp_path)
    assert result.returncode == USAGE
    assert said in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]
