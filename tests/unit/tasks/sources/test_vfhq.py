"""VFHQ's text files, one per clip."""

import os
from pathlib import Path

import pytest

from tasks.records import Span
from tasks.sources import Listing, SourceError, VfhqConfig, make_source

NAME = "Clip+uWZRSkqJ--g+P0+C2+F8754-8865.txt"
TEXT = "H 1080\nW 1920\nFPS 25.0\nCROP 455 0 1103 648\n"


def _listing(folder: Path, files: dict[str, str], inset: int = 0) -> Listing:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return make_source(VfhqConfig(folder=folder, inset=inset)).listing()


def test_a_clip(tmp_path: Path) -> None:
    listing = _listing(tmp_path, {NAME: TEXT})
    (clip,) = listing.clips
    assert listing.problems == ()
    assert clip.location == "https://www.youtube.com/watch?v=uWZRSkqJ--g"
    assert clip.frames is not None
    assert (clip.frames.first, clip.frames.end, clip.frames.fps) == (8754, 8866, 25.0)
    assert clip.span == Span(start_s=8754 / 25, end_s=8866 / 25)
    assert clip.crop is not None
    assert clip.crop.scaled(1280, 720) == pytest.approx((455 / 1.5, 0, 1103 / 1.5, 432))
    assert clip.identity is None


def test_an_inset_leaves_out_a_frame_at_both_ends_and_changes_no_id(tmp_path: Path) -> None:
    (whole,), (inset,) = (_listing(tmp_path, {NAME: TEXT}, inset).clips for inset in (0, 1))
    assert inset.frames is not None
    assert (inset.frames.first, inset.frames.end) == (8755, 8865)
    assert inset.clip_id == whole.clip_id


def test_ids_that_begin_with_minus_signs_and_clips_of_one_video(tmp_path: Path) -> None:
    names = [f"Clip+--MJTR3evMw+P{person}+C{clip}+F205-350.txt" for person in (0, 1) for clip in (0, 1)]
    listing = _listing(tmp_path / "meta", dict.fromkeys(names, TEXT))
    assert len({clip.clip_id for clip in listing.clips}) == 4
    assert len({clip.video_id for clip in listing.clips}) == 1
    assert all(clip.clip_id[0].isalnum() for clip in listing.clips)


def test_the_folder_above_and_other_words(tmp_path: Path) -> None:
    _listing(
        tmp_path / "meta_info", {NAME: "NAME x\nH: 1080\nW: 1920\nFPS is 29.97\nCROP (x0 y0 x1 y1) 455 0 1103 648\r\n"}
    )
    (clip,) = make_source(VfhqConfig(folder=tmp_path)).listing().clips
    assert clip.frames is not None
    assert clip.frames.fps == 29.97


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("notes.txt", TEXT, "expected a name like"),
        ("Clip+uWZRSkqJ--g+P0+C2.txt", TEXT, "expected a name like"),
        ("Clip+short+P0+C2+F1-9.txt", TEXT, "11 letters"),
        ("Clip+uWZRSkqJ--g+P0+C2+F9-1.txt", TEXT, "a later end"),
        (NAME, "", "no line with CROP or FPS or H or W"),
        (NAME, TEXT.replace("FPS 25.0\n", ""), "no line with FPS"),
        (NAME, TEXT.replace("25.0", "0"), "frames per second"),
        (NAME, TEXT.replace("25.0", "abc"), "FPS 'abc'"),
        (NAME, TEXT.replace("CROP 455 0", "CROP 455"), "line 4: expected 4 numbers"),
        (NAME, TEXT + "H 720\n", "line 5"),
        (NAME, TEXT.replace("1080", "0"), "a picture of"),
        (NAME, TEXT + "x\n" * 100, "over 64 lines"),
        (NAME, TEXT + "\x00\n", "control character"),
    ],
)
def test_bad_files_are_problems(tmp_path: Path, name: str, text: str, said: str) -> None:
    other = "Clip+uWZRSkqJ--g+P0+C9+F1-9.txt"
    listing = _listing(tmp_path, {name: text, other: TEXT})
    assert len(listing.clips) == 1
    (told,) = listing.problems
    assert (told.file, told.lost) == (name, True)
    assert said in told.message


@pytest.mark.parametrize("crop", ["455 0 1103 1081", "455 0 2000 648", "455 0 400 648", "-5 0 400 648"])
def test_a_bad_crop_costs_the_crop_alone(tmp_path: Path, crop: str) -> None:
    listing = _listing(tmp_path, {NAME: TEXT.replace("455 0 1103 648", crop)})
    (clip,), (told,) = listing.clips, listing.problems
    assert clip.crop is None or clip.crop.scaled(1920, 1080) is None
    assert not told.lost


def test_names_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"\xff.txt"), "wb") as file:
        file.write(b"x")
    os.mkfifo(tmp_path / NAME)
    listing = make_source(VfhqConfig(folder=tmp_path)).listing()
    assert listing.clips == ()
    assert len(listing.problems) == 2
    assert listing.model_dump_json()


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="found none"):
        make_source(VfhqConfig(folder=tmp_path)).listing()
