"""MEAD's videos in both layouts, and the lists of frames of its copies."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources import Listing, MeadConfig, config_at, make_source


def _folder(root: Path, *names: str) -> Listing:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return make_source(MeadConfig(folder=root)).listing()


def _frames(folder: Path, *lines: str) -> Listing:
    (folder / "list.txt").write_text("\n".join(lines))
    return make_source(config_at("mead", folder / "list.txt")).listing()


@pytest.mark.parametrize(
    ("name", "clips", "actor"), [("video_list.head40.txt", 1, "M003"), ("video_list_test.txt", 3, "W003")]
)
def test_the_real_lists(shared: Path, name: str, clips: int, actor: str) -> None:
    listing = make_source(config_at("mead", shared / "realdata" / "metadata" / "mead" / name)).listing()
    assert (len(listing.clips), listing.problems) == (clips, ())
    assert {clip.identity for clip in listing.clips} == {actor}


def test_both_layouts_give_the_same_ids(tmp_path: Path) -> None:
    release = _folder(tmp_path / "a", "M030/video/left_30/disgusted/level_3/001.mp4")
    below = _folder(tmp_path / "b", "MEAD/M030/video/left_30/disgust/level_3/001.mp4")
    copies = _folder(tmp_path / "c", "M030_left_30_disgust_level3_001.mp4")
    assert release.problems == below.problems == copies.problems == ()
    assert len({listing.clips[0].clip_id for listing in (release, below, copies)}) == 1
    assert release.clips[0].identity == copies.clips[0].identity == "M030"


def test_neutral_has_one_level(tmp_path: Path) -> None:
    listing = _folder(tmp_path, "W009_front_neutral_level1_001.mp4", "W009_front_neutral_level2_001.mp4")
    assert len(listing.clips) == 2
    (told,) = listing.problems
    assert (told.file, told.lost) == ("W009_front_neutral_level2_001.mp4", False)


@pytest.mark.parametrize(
    "name",
    [
        "a.mp4",
        "X003_front_angry_level1_001.mp4",
        "M003_behind_angry_level1_001.mp4",
        "M003_front_bored_level1_001.mp4",
        "M003_front_angry_level4_001.mp4",
        "M003_front_angry_level0_001.mp4",
        "M003/video/front/angry/level_1/x.mp4",
        "M003/front/angry/1/001.mp4",
    ],
)
def test_files_that_are_not_in_a_layout(tmp_path: Path, name: str) -> None:
    listing = _folder(tmp_path, name, "M003_front_angry_level1_002.mp4")
    assert len(listing.clips) == 1
    (told,) = listing.problems
    assert (told.file, told.lost) == (name, True)


def test_the_same_take_in_both_layouts_is_listed_once(tmp_path: Path) -> None:
    listing = _folder(tmp_path, "M003/video/front/sad/level_1/001.mp4", "copies/M003_front_sad_level1_001.mp4")
    assert len(listing.clips) == 1
    assert "listed twice" in listing.problems[0].message


def _line(
    frame: str = "M003/M003_01_1_output_01/000.jpg", rest: str = "0 0 M003/M003_73_1_output_01/150.jpg 7 0"
) -> str:
    return f"{frame} {rest}"


def test_sequences_of_a_list(tmp_path: Path) -> None:
    frames = [f"M003/M003_0{sequence}_1_output_01/{frame:03d}.jpg" for sequence in (1, 2) for frame in range(3)]
    listing = _frames(tmp_path, *map(_line, frames))
    assert listing.problems == ()
    assert [clip.location for clip in listing.clips] == [
        (tmp_path / "M003" / f"M003_0{sequence}_1_output_01.mp4").as_uri() for sequence in (1, 2)
    ]


@pytest.mark.parametrize(
    ("line", "said", "lost"),
    [
        ("M003/M003_01_1_output_01/001.jpg 0 0", "expected 4 or 6 fields, found 3", True),
        (_line(rest="8 0 M003/M003_73_1_output_01/150.jpg 7 0"), "expected 0 to 7", True),
        (_line(rest="0 9 M003/M003_73_1_output_01/150.jpg 7 0"), "expected 0 to 3", True),
        (_line(rest="0 0 M003/M003_73_1_output_01/150.jpg 9 0"), "expected 0 to 7", True),
        (_line(rest="0 0 nowhere"), "actor/sequence/number.jpg", True),
        (_line("../M003_01_1_output_01/001.jpg"), "actor/sequence/number.jpg", True),
        (_line("M003/M004_01_1_output_01/001.jpg"), "actor/sequence/number.jpg", True),
        (_line("M003/M003_01_1_output_01/005.jpg"), "frame 5 follows frame 0", False),
    ],
)
def test_bad_lines_of_a_list(tmp_path: Path, line: str, said: str, lost: bool) -> None:
    listing = _frames(tmp_path, _line(), line)
    assert len(listing.clips) == 1
    (told,) = listing.problems
    assert (told.line, told.lost) == (2, lost)
    assert said in told.message


PARTS = ["M003/M003_01_1_output_01/000.jpg", "M003/M003_01_1_output_01/001.jpg", "0", "7", "9", "x", "", "../a/0.jpg"]


@given(st.lists(st.lists(st.sampled_from(PARTS), max_size=6), max_size=6))
def test_every_line_is_read_or_told(tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]]) -> None:
    listing = _frames(tmp_path_factory.mktemp("list"), *(" ".join(parts) for parts in lines))
    sound = [
        parts for parts in lines if "output" in " ".join(parts) and len([part for part in parts if part]) in (4, 6)
    ]
    blank = sum(not "".join(parts) for parts in lines)
    assert len({told.line for told in listing.problems if told.lost}) >= len(lines) - blank - len(sound)
    assert len(listing.clips) <= 1


@given(st.binary(max_size=200))
def test_any_bytes_give_clips_and_problems_only(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("list")
    (folder / "list.txt").write_bytes(data)
    make_source(config_at("mead", folder / "list.txt")).listing()


def test_sequences_that_begin_late_or_come_back(tmp_path: Path) -> None:
    one, two = "M003/M003_01_1_output_01", "M003/M003_02_1_output_01"
    listing = _frames(tmp_path, *(_line(f"{name}.jpg") for name in (f"{one}/003", f"{two}/000", f"{one}/004")))
    assert len(listing.clips) == 2
    assert ["begins at frame 3" in listing.problems[0].message, "left before" in listing.problems[1].message] == [
        True
    ] * 2
