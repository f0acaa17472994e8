"""Reports about lips: rows, means, files, and what cannot be judged."""

import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from dualforce_model import media
from dualforce_model.encoders import EncoderChoice
from dualforce_model.metrics import lip_correlation
from tasks.evaluation import (
    CSV_HEAD,
    EvaluationError,
    EvaluationReport,
    FolderReport,
    LipCase,
    UnjudgedVideo,
    evaluate_folder,
    evaluate_lips,
    evaluate_once,
    judge_or_say_why,
)

FRAMES = 33


def _gaps(seed: int) -> np.ndarray:
    """Opening in pixels, 4 frames long each: fast enough for speech, slow enough for an envelope."""
    return np.repeat(np.random.default_rng(seed).uniform(0, 8, 9), 4)[:FRAMES]


def _talking(gaps: np.ndarray) -> np.ndarray:
    """Drawn faces of 96 px whose mouths open as said."""
    frames = []
    for gap in gaps:
        face = np.full((384, 384, 3), (205, 160, 135), np.uint8)
        for x in (136, 248):
            cv2.circle(face, (x, 160), 16, (70, 50, 40), -1)
        cv2.ellipse(face, (192, 280), (52, 16 + round(2 * gap)), 0, 0, 360, (200, 130, 115), -1)
        cv2.ellipse(face, (192, 280), (40, round(2 * gap)), 0, 0, 360, (45, 15, 15), -1)
        frames.append(cv2.resize(face, (96, 96), interpolation=cv2.INTER_AREA))
    return np.stack(frames)


def _speech(gaps: np.ndarray) -> np.ndarray:
    tone = np.sin(2 * np.pi * 900 * np.arange(640 * len(gaps)) / 16000)
    return (np.repeat(gaps / 16, 640) * tone).astype(np.float32)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[LipCase, ...]:
    """Two clips; the `generated` video follows its sound, `shuffled` another's."""
    folder = tmp_path_factory.mktemp("videos")
    made = []
    for index, group in enumerate(("seen", "unseen")):
        gaps, other = _gaps(index), _gaps(index + 10)
        media.write_wav(folder / f"{index}.wav", _speech(gaps))
        media.write_video(folder / f"{index}-generated.mp4", _talking(gaps), _speech(gaps))
        media.write_video(folder / f"{index}-shuffled.mp4", _talking(other), _speech(other))
        media.write_video(folder / f"{index}-truth.mp4", _talking(gaps)[: FRAMES - 4 * index], _speech(gaps))
        names = {name: str(folder / f"{index}-{name}.mp4") for name in ("generated", "shuffled", "truth")}
        made.append(LipCase(name=f"clip{index}", group=group, sound=str(folder / f"{index}.wav"), **names))
    return tuple(made)


@pytest.fixture(scope="module")
def report(
    cases: tuple[LipCase, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvaluationReport, Path, list[str]]:
    folder, heard = tmp_path_factory.mktemp("report"), list[str]()
    return evaluate_lips(cases, folder, heard.append), folder, heard


def test_the_rows_tell_following_lips_from_others(report: tuple[EvaluationReport, Path, list[str]]) -> None:
    judged, _, heard = report
    assert heard == ["clip0", "clip1"]
    assert [clip.num_frames for clip in judged.clips] == [33, 29]
    for clip in judged.clips:
        assert clip.r > 0.8
        assert clip.r_truth > 0.8
        assert clip.r_reconstruction > 0.7
        assert clip.r_shuffled_audio < 0.6


def test_groups_are_means_over_their_clips(report: tuple[EvaluationReport, Path, list[str]]) -> None:
    judged, _, _ = report
    assert set(judged.groups) == {"seen", "unseen"}
    assert judged.lips == judged.groups["seen"]
    assert judged.groups["unseen"].r == judged.clips[1].r
    assert [lips.n for lips in judged.groups.values()] == [1, 1]
    assert "unseen" in judged.text()
    assert "`clip1`" in judged.markdown()


def test_the_files_hold_what_the_report_says(report: tuple[EvaluationReport, Path, list[str]]) -> None:
    judged, folder, _ = report
    assert EvaluationReport.model_validate(json.loads((folder / "report.json").read_text())) == judged
    assert all((folder / name).is_file() for name in judged.files.values())
    with (folder / "lips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_HEAD
    assert len(rows) == 33 + 29
    mine = [row for row in rows if row["clip"] == "clip1"]
    assert [int(row["frame"]) for row in mine] == list(range(29))
    columns = {name: np.array([float(row[name]) for row in mine]) for name in CSV_HEAD[2:]}
    r = lip_correlation(columns["opening_generated"], columns["envelope"])
    assert r == pytest.approx(judged.clips[1].r, abs=1e-4)


def test_judging_twice_gives_equal_files(
    cases: tuple[LipCase, ...], report: tuple[EvaluationReport, Path, list[str]], tmp_path: Path
) -> None:
    _, folder, _ = report
    evaluate_lips(cases, tmp_path)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 5
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in files)


def test_what_was_judged_is_not_judged_again_until_something_changes(
    cases: tuple[LipCase, ...], tmp_path: Path
) -> None:
    heard: list[str] = []
    codec = EncoderChoice(name="dct_video")
    first, computed = evaluate_once(cases[:1], tmp_path, heard.append, codec)
    assert computed
    assert evaluate_once(cases[:1], tmp_path, heard.append, codec) == (first, False)
    assert heard == ["clip0"]
    changed = cases[0].model_copy(update={"shuffled": cases[1].shuffled})
    again, computed = evaluate_once([changed], tmp_path, heard.append, codec)
    assert computed
    assert again.clips[0].r_shuffled_audio != first.clips[0].r_shuffled_audio


def test_a_folder_of_videos_is_judged_by_its_own_sound(cases: tuple[LipCase, ...], tmp_path: Path) -> None:
    folder = Path(cases[0].generated).parent
    judged = evaluate_folder(folder, tmp_path / "out")
    assert [video.name for video in judged.videos][:2] == ["0-generated.mp4", "0-shuffled.mp4"]
    assert judged.r == pytest.approx(np.mean([video.r for video in judged.videos]))
    assert min(video.r for video in judged.videos) > 0.7
    assert "mean" in judged.text()
    assert (tmp_path / "out/lips.csv").read_text().startswith("clip,frame,envelope,opening_generated\n")


def with_unreadable(cases: tuple[LipCase, ...], folder: Path) -> Path:
    """A folder with one video that can be judged and, before and after it, some that cannot."""
    folder.mkdir()
    shutil.copy(cases[0].generated, folder / "good.mp4")
    (folder / "a-text.mp4").write_text("no video\n")
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(Path(cases[0].generated).read_bytes()[:2000])
    media.write_video(folder / "mute.mp4", _talking(_gaps(0)), None)
    media.write_video(folder / "short.mp4", _talking(_gaps(0)[:5]), _speech(_gaps(0)[:5]))
    return folder


def test_videos_that_cannot_be_judged_keep_no_other_from_it(cases: tuple[LipCase, ...], tmp_path: Path) -> None:
    judged = evaluate_folder(with_unreadable(cases, tmp_path / "videos"), tmp_path / "out")
    assert [video.name for video in judged.videos] == ["good.mp4"]
    assert judged.r == judged.videos[0].r
    reasons = {video.name: video.reason for video in judged.unjudged}
    assert list(reasons) == ["a-text.mp4", "cut.mp4", "empty.mp4", "mute.mp4", "short.mp4"]
    assert "not a video" in reasons["a-text.mp4"]
    assert "has no sound" in reasons["mute.mp4"]
    assert "has 5 frames" in reasons["short.mp4"]
    assert "5 of 6 videos could not be judged" in judged.text()
    assert all(f"{name}  " in judged.text() and reason in judged.text() for name, reason in reasons.items())
    assert FolderReport.model_validate_json((tmp_path / "out/report.json").read_text()) == judged
    with (tmp_path / "out/lips.csv").open(newline="") as file:
        assert {row["clip"] for row in csv.DictReader(file)} == {"good.mp4"}


def test_a_video_that_may_not_be_read_or_is_gone_by_then_is_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "gone.mp4").touch()
    (tmp_path / "locked.mp4").touch()

    def sealed(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def vanished(path: Path) -> NoReturn:
        raise FileNotFoundError(errno.ENOENT, "no such media file", str(path))

    for name, judge in (("locked.mp4", sealed), ("gone.mp4", vanished)):
        found = judge_or_say_why(tmp_path / name, judge)
        assert isinstance(found, UnjudgedVideo)
        assert found.name == name

    def broken_disk(path: Path) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with pytest.raises(OSError, match="Input/output"):
        judge_or_say_why(tmp_path / "gone.mp4", broken_disk)


def test_a_folder_in_which_nothing_can_be_judged_is_refused_with_all_reasons(tmp_path: Path) -> None:
    for index in range(30):
        (tmp_path / f"{index:02d}.mp4").write_text("no video\n")
    with pytest.raises(EvaluationError, match=r"none of 30 videos can be judged: 00\.mp4: not a video.*and 10 more"):
        evaluate_folder(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_text_is_shown_as_it_is_stored(cases: tuple[LipCase, ...], tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(cases[0].generated, folder / "good.mp4")
    shutil.copy(cases[0].generated, os.fsencode(folder) + b"/\xff.mp4")
    media.write_video(tmp_path / "mute.mp4", _talking(_gaps(0)), None)
    shutil.copy(tmp_path / "mute.mp4", os.fsencode(folder) + b"/\xfe.mp4")
    judged = evaluate_folder(folder, tmp_path / "out")
    names = {video.name for video in (*judged.videos, *judged.unjudged)}
    assert names == {"good.mp4", "\\udcfe.mp4", "\\udcff.mp4"}


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no videos"):
        evaluate_folder(tmp_path, tmp_path / "out")


def test_what_cannot_be_judged_is_named(cases: tuple[LipCase, ...], tmp_path: Path) -> None:
    mute = tmp_path / "mute.mp4"
    media.write_video(mute, _talking(_gaps(0)), None)
    with pytest.raises(EvaluationError, match=r"clip0: mute\.mp4 has no sound"):
        evaluate_lips([cases[0].model_copy(update={"sound": str(mute)})], tmp_path)
    short = tmp_path / "short.mp4"
    media.write_video(short, _talking(_gaps(0)[:5]), None)
    with pytest.raises(EvaluationError, match=r"short\.mp4 has 5 frames"):
        evaluate_lips([cases[0].model_copy(update={"generated": str(short)})], tmp_path)


def test_cases_are_some_and_named_once(cases: tuple[LipCase, ...], tmp_path: Path) -> None:
    for given in ((), (cases[0], cases[0])):
        with pytest.raises(EvaluationError, match="every name once"):
            evaluate_lips(given, tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 101])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        LipCase(name=name, sound="s", generated="g", shuffled="s", truth="t")
