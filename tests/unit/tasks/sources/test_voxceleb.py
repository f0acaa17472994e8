"""VoxCeleb: the CSV file of frames and boxes, and VoxCeleb2's folders."""

import os
from pathlib import Path

import pytest

from tasks.records import Span
from tasks.sources import Listing, config_at, make_source

HEADER = "video_id,start,end,bbox,fps,width,height,partition,person_id"
ROW = "WMh3ye5tBsE,3657,3994,624-48-1018-553,25,1280,720,train,id10005"


def _listing(folder: Path, *rows: str) -> Listing:
    (folder / "vox.csv").write_text("\n".join([HEADER, *rows]))
    return make_source(config_at("voxceleb", folder / "vox.csv")).listing()


def test_the_real_excerpt(shared: Path) -> None:
    (path,) = (shared / "realdata" / "metadata" / "voxceleb").glob("*.csv")
    listing = make_source(config_at("voxceleb", path)).listing()
    assert (len(listing.clips), listing.problems) == (60, ())
    assert all(clip.crop is not None and not clip.crop.flaw and clip.frames is not None for clip in listing.clips)


def test_frames_are_seconds_at_the_lists_rate_and_boxes_scale(tmp_path: Path) -> None:
    (clip,) = _listing(tmp_path, ROW).clips
    assert clip.span == Span(start_s=3657 / 25, end_s=3994 / 25)
    assert clip.frames is not None
    assert clip.frames.model_dump() == {"first": 3657, "end": 3994, "fps": 25.0}
    assert clip.identity == "id10005"
    assert clip.crop is not None
    assert clip.crop.scaled(640, 360) == (312, 24, 509, 276.5)


def test_a_row_that_appears_twice_and_two_people_at_once(tmp_path: Path) -> None:
    listing = _listing(tmp_path, ROW, ROW, ROW.replace("624-48", "0-48").replace("id10005", "id10006"))
    assert [clip.identity for clip in listing.clips] == ["id10005", "id10006"]
    (told,) = listing.problems
    assert told.line == 3
    assert "listed twice: 146.28 s to 159.76 s" in told.message


@pytest.mark.parametrize(
    ("found", "put", "said"),
    [
        ("WMh3ye5tBsE", "WMh3ye5tBs", "11 letters"),
        ("3994", "3657", "a later end"),
        ("3994", "-1", "whole number"),
        (",25,", ",0,", "frames per second"),
        (",25,", ",x,", "fps"),
        ("624-48-1018-553", "624-48-1018", "x1-y1-x2-y2"),
        ("624-48-1018-553", "624--48-1018-553", "bbox ''"),
        ("id10005", "", "name"),
        (",train", "", "found 8"),
    ],
)
def test_bad_rows(tmp_path: Path, found: str, put: str, said: str) -> None:
    listing = _listing(tmp_path, ROW.replace(found, put, 1), ROW)
    assert len(listing.clips) == 1
    (told,) = listing.problems
    assert (told.line, told.lost) == (2, True)
    assert said in told.message


@pytest.mark.parametrize(
    ("found", "put", "said"),
    [
        ("624-48-1018-553", "624-48-1300-553", "beyond a frame 1280 wide"),
        ("624-48-1018-553", "624-48-1018-753", "below a frame 720 high"),
        ("624-48-1018-553", "624-48-624-553", "a crop from"),
        ("1280,720", "1280,0", "unknown"),
    ],
)
def test_a_bad_box_costs_the_crop_alone(tmp_path: Path, found: str, put: str, said: str) -> None:
    listing = _listing(tmp_path, ROW.replace(found, put))
    (clip,), (told,) = listing.clips, listing.problems
    assert clip.crop is None or clip.crop.scaled(1280, 720) is None
    assert said in told.message
    assert not told.lost


# ------------------------------------------------------------------------------------------------------ VoxCeleb2


def _folder(root: Path, *names: str) -> Listing:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return make_source(config_at("voxceleb2", root)).listing()


def test_person_video_and_number(tmp_path: Path) -> None:
    listing = _folder(
        tmp_path,
        "dev/mp4/id00012/21Uxsk56VDQ/00002.mp4",
        "dev/mp4/id00012/21Uxsk56VDQ/00001.mp4",
        "dev/mp4/id00013/-1Uxsk56VDQ/00001.mp4",
        "dev/txt/id00012/21Uxsk56VDQ/00001.txt",
    )
    assert listing.problems == ()
    assert [clip.identity for clip in listing.clips] == ["id00012", "id00012", "id00013"]
    assert [clip.location[-9:] for clip in listing.clips] == ["00001.mp4", "00002.mp4", "00001.mp4"]
    assert len({clip.video_id for clip in listing.clips}) == 3
    bare = _folder(tmp_path / "other", "id00012/21Uxsk56VDQ/00001.mp4")
    assert bare.clips[0].clip_id == listing.clips[0].clip_id  # the folders above say nothing


def test_files_that_are_not_in_the_layout(tmp_path: Path) -> None:
    names = ["a.mp4", "id00012/b.mp4", "id00012/21Uxsk56VDQ/x.mp4", "id12/21Uxsk56VDQ/1.mp4", "id00012/short/1.mp4"]
    listing = _folder(tmp_path, *names)
    assert listing.clips == ()
    assert sorted(told.file for told in listing.problems) == sorted(names)


def test_the_same_clip_below_two_folders_and_links(tmp_path: Path) -> None:
    _folder(tmp_path, "dev/id00012/21Uxsk56VDQ/00001.mp4", "test/id00012/21Uxsk56VDQ/00001.mp4")
    (tmp_path / "dev/id00012/21Uxsk56VDQ/00002.mp4").symlink_to("/etc/hosts")
    (tmp_path / "dev/id00012/21Uxsk56VDQ/00003.mp4").symlink_to("nowhere")
    (tmp_path / "up").symlink_to(tmp_path)
    with open(os.path.join(os.fsencode(tmp_path), b"\xff.mp4"), "wb") as file:
        file.write(b"x")
    listing = _folder(tmp_path)
    assert len(listing.clips) == 1
    told = {found.file: found.message for found in listing.problems}
    assert "listed twice" in told["test/id00012/21Uxsk56VDQ/00001.mp4"]
    assert "out of the folder" in told["dev/id00012/21Uxsk56VDQ/00002.mp4"]
    assert "nowhere" in told["dev/id00012/21Uxsk56VDQ/00003.mp4"]
    assert "not followed" in told["up"]
    assert len(told) == 5
