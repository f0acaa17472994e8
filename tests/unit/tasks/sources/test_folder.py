"""Folders of videos, with names and links that mean harm."""

import os
from pathlib import Path

import pytest

from tasks.records import Span
from tasks.sources import FolderConfig, Listing, SourceError, make_source
from tasks.sources.base import ListingProblem


def _listing(folder: Path) -> Listing:
    return make_source(FolderConfig(folder=folder)).listing()


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_videos_below_the_folder(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt", "deep/er/c.webm"):
        _touch(tmp_path / name)
    listing = _listing(tmp_path)
    assert [clip.location.rpartition("/")[2] for clip in listing.clips] == ["a.MKV", "b.mp4", "c.webm"]
    assert listing.problems == ()
    assert {clip.span for clip in listing.clips} == {Span()}
    assert all(clip.clip_id == clip.video_id for clip in listing.clips)
    assert all(clip.location.startswith("file:///") for clip in listing.clips)


def test_ids_survive_a_move(tmp_path: Path) -> None:
    _touch(tmp_path / "one" / "deep" / "a.mp4")
    before = [clip.clip_id for clip in _listing(tmp_path / "one").clips]
    (tmp_path / "one").rename(tmp_path / "two")
    assert [clip.clip_id for clip in _listing(tmp_path / "two").clips] == before
    assert tmp_path.name not in before[0]


@pytest.mark.parametrize("name", [b"-rf.mp4", b"a\nb.mp4", b"a;rm -rf $HOME.mp4", b"x" * 250 + b".mp4", b"%00?#.mp4"])
def test_hostile_file_names(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(b"x")
    (clip,) = _listing(tmp_path).clips
    assert clip.clip_id.isascii()
    assert "\n" not in clip.location


def test_a_name_that_no_record_can_hold(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"\xff\xfe.mp4"), "wb") as file:
        file.write(b"x")
    listing = _listing(tmp_path)
    assert listing.clips == ()
    assert "UTF-8" in listing.problems[0].message
    assert listing.model_dump_json()


def test_links(tmp_path: Path) -> None:
    outside = _touch(tmp_path / "outside" / "secret.mp4")
    folder = tmp_path / "videos"
    _touch(folder / "z.mp4")
    (folder / "a-link.mp4").symlink_to("z.mp4")
    (folder / "escape.mp4").symlink_to(outside)
    (folder / "up").symlink_to(tmp_path / "outside")
    (folder / "nowhere.mp4").symlink_to("missing")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(folder / "pipe.mp4")
    listing = _listing(folder)
    assert [clip.location.rpartition("/")[2] for clip in listing.clips] == ["z.mp4"]
    told = {problem.file: problem.message for problem in listing.problems}
    assert "out of the folder" in told["escape.mp4"]
    assert "not followed" in told["up"]
    assert "listed itself" in told["a-link.mp4"]
    assert "nowhere" in told["nowhere.mp4"]
    assert "nowhere" in told["loop.mp4"]
    assert "regular" in told["pipe.mp4"]
    assert len(told) == 6


def test_a_link_to_the_only_copy_under_a_name_that_is_no_video(tmp_path: Path) -> None:
    _touch(tmp_path / "blob.bin")
    (tmp_path / "a.mp4").symlink_to("blob.bin")
    (clip,) = _listing(tmp_path).clips
    assert clip.location.endswith("blob.bin")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        _listing(tmp_path / "nowhere")


def test_a_problem_of_a_whole_file_names_no_line() -> None:
    whole = ListingProblem(source="folder", file="link.mp4", line=0, text="", message="a link")
    assert whole.text_line() == "link.mp4: a link"
    assert whole.quarantined().measured == "link.mp4: a link"
    assert whole.model_copy(update={"line": 3}).text_line() == "link.mp4, line 3: a link"
