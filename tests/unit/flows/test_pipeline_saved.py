"""The pipeline that a run's folder keeps is found again: from elsewhere, after a move, and not where it is damaged."""

from pathlib import Path

import pytest
import yaml

from dualforce_model.config import ConfigError
from flows.pipeline import SAVED, PipelineRun, load_saved, save_config


def saved(home: Path, **source: str) -> None:
    settings = {"name": "hdtf", "folder": str(home / "corpus" / "list")} | source
    home.mkdir(parents=True, exist_ok=True)
    save_config(PipelineRun.model_validate({"place": {"home": str(home)}, "acquire": {"source": settings}}))


def source_in(home: Path) -> dict[str, str]:
    source: dict[str, str] = yaml.safe_load((home / SAVED).read_text())["acquire"]["source"]
    return source


def test_a_moved_folder_finds_the_list_in_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "elsewhere" / "new"
    saved(old)
    assert source_in(old)["folder"] == "corpus/list"
    new.parent.mkdir()
    old.rename(new)
    run = load_saved(new)
    assert run.place.home == str(new)
    assert run.acquire.source.model_dump()["folder"] == new / "corpus" / "list"
    save_config(run)
    assert source_in(new)["folder"] == "corpus/list"


def test_a_list_elsewhere_is_kept_wherever_the_run_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("home"), folder="lists")
    assert source_in(Path("home"))["folder"] == str(tmp_path / "lists")
    monkeypatch.chdir("home")
    assert load_saved(Path(".")).acquire.source.model_dump()["folder"] == tmp_path / "lists"


def test_an_override_means_the_folder_from_here_and_leaves_home_alone(tmp_path: Path) -> None:
    saved(tmp_path)
    run = load_saved(tmp_path, ["acquire.source.folder=lists", "place={dataset: other}"])
    assert run.acquire.source.model_dump()["folder"] == Path("lists")
    assert (run.place.dataset, run.place.home) == ("other", str(tmp_path))


def test_a_word_that_happens_to_be_a_file_stays_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LICENSE").touch()
    saved(tmp_path / "home", name="folder", folder="videos", licence="LICENSE")
    assert source_in(tmp_path / "home")["licence"] == "LICENSE"
    assert load_saved(tmp_path / "home").acquire.source.model_dump()["licence"] == "LICENSE"


@pytest.mark.parametrize("content", [b"", b"place: 3\n", b"- a list\n", b"place: {home: \n", b"\xff", b"acquire: 3\n"])
def test_a_damaged_file_is_named_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SAVED).write_bytes(content)
    with pytest.raises(ConfigError, match=r"(?s)pipeline\.yaml: .*starting the run again writes it anew"):
        load_saved(tmp_path)


def test_a_bad_override_is_not_called_damage(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(ConfigError, match=r"place: .*found 3$"):
        load_saved(tmp_path, ["place=3"])
