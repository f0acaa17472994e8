"""HDTF's lists as published, oddities and all, and lists made by an enemy."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import Clip
from tasks.sources import HdtfConfig, Listing, SourceError, make_source
from tasks.sources.base import video_address
from tasks.sources.hdtf import person


@pytest.fixture(scope="module")
def real(shared: Path) -> Listing:
    return make_source(HdtfConfig(folder=shared / "realdata" / "metadata" / "hdtf")).listing()


def _of(listing: Listing, subset: str, name: str) -> list[Clip]:
    return [clip for clip in listing.clips if clip.clip_id.rpartition("-")[0] == f"hdtf-{subset}_{name}"]


def _listing(folder: Path, urls: str | bytes, times: str | bytes, subset: str = "RD") -> Listing:
    for suffix, text in (("video_url", urls), ("annotion_time", times)):
        data = text.encode() if isinstance(text, str) else text
        (folder / f"{subset}_{suffix}.txt").write_bytes(data)
    return make_source(HdtfConfig(folder=folder)).listing()


def test_counts_of_the_real_lists(real: Listing) -> None:
    assert len(real.clips) == 436
    assert sum((clip.span.end_s or 0) - clip.span.start_s for clip in real.clips) == 61_453
    by_subset = [
        sum(clip.clip_id.startswith(f"hdtf-{subset}_") for clip in real.clips) for subset in ("RD", "WDA", "WRA")
    ]
    assert by_subset == [66, 195, 175]
    assert len({clip.video_id for clip in real.clips}) == 368  # 369 with intervals, two of them the same video
    assert {clip.licence for clip in real.clips} == {"CC BY 4.0"}


def test_the_problems_of_the_real_lists(real: Listing) -> None:
    told = {(found.file, found.line): found for found in real.problems}
    assert set(told) == {
        ("RD_video_url.txt", 24),
        ("WRA_annotion_time.txt", 96),
        ("WRA_resolution.txt", 76),
        ("WDA_crop_wh.txt", 126),
        ("WDA_crop_wh.txt", 135),
        ("WRA_crop_wh.txt", 102),
        ("WRA_crop_wh.txt", 103),
        ("WRA_crop_wh.txt", 138),
    }
    radio24 = told["RD_video_url.txt", 24]
    assert radio24.text.startswith("Radio24 ")
    assert "no interval" in radio24.message
    assert [found.text.split(" ")[0] for found in real.problems if found.lost] == ["Radio24"]
    assert "33 to 533 s and 490 to 510 s overlap" in told["WRA_annotion_time.txt", 96].message
    assert "a height of 0" in told["WRA_resolution.txt", 76].message


def test_crops_of_the_real_lists(real: Listing) -> None:
    crops = [clip.crop for clip in real.clips if clip.crop is not None]
    assert len(crops) == 421
    assert sum((c.span.end_s or 0) - c.span.start_s for c in real.clips if c.crop is not None) == 58_863
    assert sum(bool(crop.flaw) for crop in crops) == 5
    assert all(crop.right - crop.left == crop.bottom - crop.top for crop in crops)
    crop = _of(real, "RD", "Radio11")[1].crop
    assert crop is not None
    assert crop.scaled(1280, 720) == (557, 0, 557 + 478, 478)
    assert crop.scaled(640, 360) == (278.5, 0, 278.5 + 239, 239)
    assert crop.scaled(720, 720) is None  # a picture too narrow for it
    without = {clip.clip_id.rpartition("-")[0] for clip in real.clips if clip.crop is None}
    assert len(without) == 15
    assert {"hdtf-RD_Radio6", "hdtf-WDA_LindaSnchez", "hdtf-WRA_MittRomney", "hdtf-WRA_DuncanHunter"} <= without
    assert [clip.crop is None for clip in _of(real, "WRA", "MittRomney")] == [False, True]
    for name in ("KevinMcCarthy1", "PeterKing"):
        assert all(clip.crop and clip.crop.scaled(1920, 1080) is None for clip in _of(real, "WRA", name))


def test_ids_are_those_of_earlier_releases(real: Listing) -> None:
    assert real.clips[0].clip_id == "hdtf-RD_Radio1-087a5d0fefd3"
    assert real.clips[0].video_id == "hdtf-RD_Radio1-c5fdd32cd8b8"


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("crop_wh", "Ada_0.mp4 1 2 3", "found 4 fields"),
        ("crop_wh", "Ada_0.mp4 1 -2 3 4", "whole number"),
        ("crop_wh", "Ada_0.mp4 1 0 3 4", "a crop from"),
        ("crop_wh", "Ada_7.mp4 1 2 3 4", "does not have"),
        ("crop_wh", "Bob_0.mp4 1 2 3 4", "does not have"),
        ("crop_wh", "Ada.mp4 1 2 3 4", "number of the clip"),
        ("crop_wh", "Ada_1.mp4 1 2 3 4", "has a crop already"),
        ("crop_wh", "Ada_0.mp4 0 800 0 800", "below a frame 720 high"),
        ("crop_wh", "Ada_0.mp4 0 8\x00 0 8", "control character"),
        ("resolution", "Ada.mp4 1080", "has a height already"),
        ("resolution", "Eve.mp4 0", "a height of 0"),
        ("resolution", "Eve.mp4 tall", "height 'tall'"),
        ("resolution", "Eve.mp4", "found 1 fields"),
    ],
)
def test_bad_crops_and_heights_cost_no_clip(tmp_path: Path, file: str, line: str, said: str) -> None:
    texts = {"crop_wh": "Ada_1.mp4 5 6 7 6\n", "resolution": "Ada.mp4 720\n"}
    for name, text in texts.items():
        (tmp_path / f"RD_{name}.txt").write_text(text + (line if name == file else ""))
    listing = _listing(tmp_path, "Ada http://h/a.mp4\n", "Ada.mp4 00:00-00:10 00:20-00:30\n")
    first, second = listing.clips
    assert first.crop is None or first.crop.scaled(1280, 720) is None
    assert second.crop is not None
    assert second.crop.scaled(1280, 720) == (5, 7, 11, 13)
    (told,) = listing.problems
    assert (told.file, told.line, told.lost) == (f"RD_{file}.txt", 2, False)
    assert said in told.message


@pytest.mark.parametrize(
    ("intervals", "told"),
    [
        ("00:00-00:10 00:10-00:20 00:30-00:40", []),
        ("00:30-00:40 00:00-00:10", []),
        ("00:00-01:00 00:10-00:20 00:30-00:40", ["0 to 60 s and 10 to 20 s", "0 to 60 s and 30 to 40 s"]),
        ("00:10-00:20 00:05-00:11", ["5 to 11 s and 10 to 20 s"]),
    ],
)
def test_overlapping_intervals_are_told_and_kept(tmp_path: Path, intervals: str, told: list[str]) -> None:
    listing = _listing(tmp_path, "Ada http://h/a.mp4\n", f"Ada.mp4 {intervals}\n")
    assert len(listing.clips) == len(intervals.split(" "))
    assert [found.message.partition(" overlap")[0] for found in listing.problems] == told


def test_a_crop_without_heights_fits_no_video(tmp_path: Path) -> None:
    (tmp_path / "RD_crop_wh.txt").write_text("Ada_0.mp4 5 6 7 6\n")
    listing = _listing(tmp_path, "Ada http://h/a.mp4\n", "Ada.mp4 00:00-00:10\n")
    assert listing.clips[0].crop is not None
    assert listing.clips[0].crop.scaled(1280, 720) is None
    assert "unknown" in listing.problems[0].message


def test_oddities_of_the_real_lists(real: Listing) -> None:
    (first,) = _of(real, "WDA", "CarolynMaloney2")  # hidden behind a byte-order mark
    assert first.identity == "CarolynMaloney"
    assert len(_of(real, "RD", "Radio34")) == 10  # ten intervals on one line
    assert len(_of(real, "WRA", "AdamKinzinger2")) == 3  # a space at the end of the line
    assert [(clip.span.start_s, clip.span.end_s) for clip in _of(real, "WRA", "MittRomney")] == [(490, 510), (33, 533)]
    (radio2,) = _of(real, "RD", "Radio2")
    assert radio2.location.endswith("watch?v=uBWJJvynXpA&t=6s")


def test_a_moment_in_the_url_is_not_part_of_the_video(real: Listing) -> None:
    moments = {clip.location for clip in real.clips if "&t=" in clip.location}
    assert len(moments) == 13
    assert all(len(video_address(url)) == len("youtube:") + 11 for url in moments)


def test_the_same_video_twice_is_one_download_and_one_person(real: Listing) -> None:
    (whip,), (james1,), (james,) = (
        _of(real, "WDA", name) for name in ("WhipJimClyburn", "JamesClyburn1", "JamesClyburn")
    )
    assert whip.video_id == james1.video_id != james.video_id
    assert whip.identity == james1.identity == james.identity == "JamesClyburn"
    assert whip.clip_id != james1.clip_id


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("JimMcGovern1", "JimMcGovern"),
        ("TimScott_12", "TimScott"),
        ("Radio11_0", "Radio"),
        ("2020", "2020"),
        ("A1b", "A1b"),
    ],
)
def test_person(name: str, who: str) -> None:
    assert person(name) == who


def test_ids_hold_neither_host_nor_port(tmp_path: Path) -> None:
    one = _listing(tmp_path, "Ada1 http://127.0.0.1:8000/a.mp4\n", "Ada1.mp4 00:00-00:10\n")
    two = _listing(tmp_path, "Ada1 https://mirror.example.org/x/y.mp4\n", "Ada1.mp4 00:00-00:10\n")
    assert [(clip.clip_id, clip.video_id) for clip in one.clips] == [
        (clip.clip_id, clip.video_id) for clip in two.clips
    ]


def test_subsets_are_chosen_and_must_exist(tmp_path: Path, shared: Path) -> None:
    folder = shared / "realdata" / "metadata" / "hdtf"
    assert len(make_source(HdtfConfig(folder=folder, subsets=("RD",))).listing().clips) == 66
    with pytest.raises(SourceError, match="XYZ_video_url"):
        make_source(HdtfConfig(folder=folder, subsets=("XYZ",))).listing()
    with pytest.raises(SourceError, match="found none"):
        make_source(HdtfConfig(folder=tmp_path / "nowhere")).listing()


def test_hostile_lines(tmp_path: Path) -> None:
    urls = [
        "../../x http://h/1.mp4",
        "-rf http://h/2.mp4",
        "Ada file:///etc/passwd",
        "Bob javascript:alert(1)",
        "Cy",
        "Di http://h/3.mp4 more",
        "Ed http://h/4.mp4",
        "Ed http://h/5.mp4",
        "\u00a0",
        "x" * 300 + " http://h/6.mp4",
        "Fay http://h/7.mp4",
    ]
    times = [
        "../../x.mp4 00:00-00:10",
        "-rf.mp4 00:10-00:05 00:00-00:99 banana 00:00-00:10 00:00-00:10",
        "Ada.mp4 00:00-00:10",
        "Gus.mp4 00:00-00:10",
        "Ed.mp4",
        "\u00a0",
    ]
    listing = _listing(tmp_path, "\n".join(urls), "\n".join(times))
    assert [clip.clip_id.rpartition("-")[0] for clip in listing.clips] == ["hdtf-RD_-x", "hdtf-RD_-rf"]
    found = {(problem.file[3:6], problem.line): problem.message for problem in listing.problems}
    for line in (3, 4, 5, 6, 8, 9, 10, 11):
        assert ("vid", line) in found
    assert "scheme" in found["vid", 3]
    assert "line 7" in found["vid", 8]
    for line in (2, 3, 4, 5, 6):
        assert ("ann", line) in found
    bad_intervals = [problem.message for problem in listing.problems if (problem.file[3:6], problem.line) == ("ann", 2)]
    assert len(bad_intervals) == 4
    assert any("twice" in message for message in bad_intervals)


def test_a_missing_time_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "RD_video_url.txt").write_text("Ada http://h/a.mp4")
    listing = make_source(HdtfConfig(folder=tmp_path)).listing()
    assert listing.clips == ()
    assert [problem.file for problem in listing.problems] == ["RD_annotion_time.txt", "RD_video_url.txt"]


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_give_a_listing(urls: bytes, times: bytes, crops: bytes, heights: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "RD_crop_wh.txt").write_bytes(b"Ada_0.mp4 " + crops)
        (Path(folder) / "RD_resolution.txt").write_bytes(heights)
        listing = _listing(Path(folder), urls, times)
    assert len({clip.clip_id for clip in listing.clips}) == len(listing.clips)


NAMES = st.sampled_from(["Ada", "Ada1", "Bob_2", "../x", "é", ""])
INTERVALS = st.sampled_from(["00:00-00:10", "00:05-00:01", "1-2", "x", "-", "00:10-00:20"])


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(["http://h/1", "http://h/2", "ftp://h/3", ""])), max_size=5),
    st.lists(st.tuples(NAMES, st.lists(INTERVALS, max_size=3)), max_size=5),
)
def test_every_line_is_a_clip_or_a_problem(urls: list[tuple[str, str]], times: list[tuple[str, list[str]]]) -> None:
    url_lines = [" ".join(pair) for pair in urls]
    time_lines = [" ".join([f"{name}.mp4", *intervals]) for name, intervals in times]
    with tempfile.TemporaryDirectory() as folder:
        listing = _listing(Path(folder), "\n".join(url_lines), "\n".join(time_lines))
    told = {(problem.file, problem.line) for problem in listing.problems}
    for number, line in enumerate(url_lines, 1):
        name = line.split(" ")[0]
        if line.strip() and ("RD_video_url.txt", number) not in told:
            assert any(clip.location == line.split(" ")[1] for clip in listing.clips), (name, told)
    for number, (name, intervals) in enumerate(times, 1):
        bad = sum(problem.file == "RD_annotion_time.txt" and problem.line == number for problem in listing.problems)
        assert bad >= 1 or (name and intervals)
    given = sum(len(intervals) for _, intervals in times)
    assert len(listing.clips) <= given
