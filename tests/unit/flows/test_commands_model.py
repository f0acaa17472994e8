"""`dualforce evaluate` over a folder that somebody else filled."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dualforce_model import media
from flows.cli import _failure, _register, cli
from flows.terminal import CLIPS_FAILED, USAGE, Finish

_register()


def ask(*words: object) -> tuple[Result, Finish | None]:
    result = CliRunner().invoke(cli, ["evaluate", *map(str, words)])
    if result.exception is None:
        return result, None
    finish = _failure(result.exception)
    assert finish is not None, result.exception
    return result, finish


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one video that can be judged."""
    hum = (0.2 * np.sin(np.arange(17 * 640) / 5)).astype(np.float32)
    media.write_video(tmp_path / "good.mp4", np.full((17, 96, 96, 3), 120, np.uint8), hum)
    return tmp_path


def test_an_unreadable_video_is_named_and_ends_it_with_3(folder: Path) -> None:
    assert ask(folder)[1] is None
    (folder / "bad.mp4").write_text("no video\n")
    said, finish = ask(folder)
    assert finish is not None
    assert (finish.code, finish.message) == (CLIPS_FAILED, "1 of 2 videos could not be judged")
    assert "good.mp4" in said.stdout
    assert "bad.mp4  not a video or sound file" in said.stdout
    as_json, finish = ask(folder, "--json")
    document = json.loads(as_json.stdout)
    assert finish is not None
    assert [video["name"] for video in document["videos"]] == ["good.mp4"]
    assert [video["name"] for video in document["unjudged"]] == ["bad.mp4"]
    assert json.loads((folder / "evaluation/report.json").read_text()) == document


def test_nothing_but_unreadable_videos_is_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video\n")
    _, finish = ask(tmp_path)
    assert finish is not None
    assert finish.code == USAGE
    assert "none of 1 videos can be judged: bad.mp4: not a video" in finish.message
    assert not (tmp_path / "evaluation").exists()
