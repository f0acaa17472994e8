"""`dualforce sources`: answers for people and scripts, exit codes, no network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.terminal import PROBLEMS, USAGE


def run(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "sources", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    (tmp_path / "list.txt").write_text("http://h/a.mp4\nfile:///etc/passwd\n")
    return tmp_path


def test_list(tmp_path: Path) -> None:
    text = run("list", folder=tmp_path)
    assert text.returncode == 0, text.stderr
    rows = json.loads(run("list", "--json", folder=tmp_path).stdout)["sources"]
    assert {"hdtf", "celebvhq", "vfhq", "talkvid", "voxceleb", "voxceleb2", "panda70m", "mead", "folder", "urls"} <= {
        row["name"] for row in rows
    }
    assert all(row["name"] in text.stdout and row["licence"] in text.stdout for row in rows)


def test_hdtf_as_published(shared: Path, tmp_path: Path) -> None:
    folder = shared / "realdata" / "metadata" / "hdtf"
    result = run("check", "hdtf", str(folder), "--json", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    counts = {name: found[name] for name in ("videos", "video_ids", "intervals", "clips_with_crop", "seconds")}
    assert counts == {"videos": 370, "video_ids": 369, "intervals": 436, "clips_with_crop": 421, "seconds": 61_453}
    told = {(problem["file"], problem["line"]): problem["reason"] for problem in found["problems"]}
    assert "no interval" in told["RD_video_url.txt", 24]
    assert "overlap" in told["WRA_annotion_time.txt", 96]
    assert sum(file.endswith("_crop_wh.txt") for file, _ in told) == 5
    assert list(tmp_path.iterdir()) == []


def test_lenient_tells_and_strict_fails(listed: Path) -> None:
    lenient = run("check", "urls", "list.txt", folder=listed)
    assert lenient.returncode == 0, lenient.stderr
    assert "list.txt, line 2: scheme 'file'" in lenient.stdout
    strict = run("check", "urls", "list.txt", "--strict", "--json", folder=listed)
    assert strict.returncode == PROBLEMS
    assert json.loads(strict.stdout)["num_problems"] == 1
    assert "1 problem in list.txt" in strict.stderr
    (listed / "list.txt").write_text("http://h/a.mp4\n")
    assert run("check", "urls", "list.txt", "--strict", folder=listed).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hdtf", "nowhere"), "nowhere: no such file or folder"),
        (("hdtv", "."), "no source is named 'hdtv'; expected one of hdtf"),
        (("hdtf", "."), "expected files *_video_url.txt, found none"),
        (("urls", "."), "not a file"),
        (("folder", "list.txt"), "no such folder"),
        (("vfhq", "list.txt"), "no such folder"),
        (("hdtf",), "Missing argument 'PATH'"),
    ],
)
def test_what_is_not_there_is_named(listed: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run("check", *arguments, folder=listed)
    assert result.returncode == USAGE
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_odd_characters_of_a_list_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"http://h/\x1b[2J\nhttp://user:hunter2@h/a\n\xff\n")
    result = run("check", "urls", "list.txt", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert "hunter2" not in result.stdout
