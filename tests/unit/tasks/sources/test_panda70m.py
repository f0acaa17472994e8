"""Panda-70M's rows, whose lists are Python's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.captions import clean_caption
from tasks.records import Span
from tasks.sources import Listing, config_at, make_source

HEADER = "videoID,url,timestamp,caption,matching_score"
TIMES = "[['0:00:19.227', '0:00:28.278'], ['1:01:11.905', '1:01:23.958']]"
CAPTIONS = "['The speaker''s here, [there].', \"\"It is \\' a chef's hat, 'yes'.\"\"]".replace("''", "\\'")


def _row(
    video: str = "-1hTK0wGrTg", url: str = "", times: str = TIMES, captions: str = CAPTIONS, more: str = ""
) -> str:
    url = url or f"https://www.youtube.com/watch?v={video}"
    return f'{video},{url},"{times}","{captions}","[0.5, 0.25]"{more}'


def _listing(folder: Path, *rows: str, header: str = HEADER) -> Listing:
    (folder / "list.csv").write_text("\n".join([header, *rows]))
    return make_source(config_at("panda70m", folder / "list.csv")).listing()


def test_the_real_excerpt(shared: Path) -> None:
    (path,) = (shared / "realdata" / "metadata" / "panda70m").glob("*.csv")
    listing = make_source(config_at("panda70m", path)).listing()
    assert (len(listing.clips), listing.problems) == (120, ())
    assert len({clip.video_id for clip in listing.clips}) == 40
    assert listing.clips[0].span == Span(start_s=19.227, end_s=28.278)
    assert listing.clips[0].caption == (
        "The speaker is standing in front of a purple background, wearing a blue shirt and glasses."
    )
    assert all(clip.caption for clip in listing.clips)
    captions = {clip.caption for clip in listing.clips}
    assert any("chef's hat" in str(caption) for caption in captions)
    assert not any("\\" in str(caption) or str(caption)[0] in "'\"" for caption in captions)


@pytest.mark.parametrize("more", [0, 2])
def test_a_row_is_many_clips_with_and_without_the_newer_columns(tmp_path: Path, more: int) -> None:
    columns = ",desirable_filtering,shot_boundary_detection" if more else ""
    listing = _listing(tmp_path, _row(more=",\"['a', 'b']\"" * more), header=HEADER + columns)
    assert listing.problems == ()
    assert [clip.span.start_s for clip in listing.clips] == [19.227, 3671.905]
    assert len({clip.video_id for clip in listing.clips}) == 1
    assert listing.clips[0].location == "https://www.youtube.com/watch?v=-1hTK0wGrTg"
    assert listing.clips[0].clip_id[0].isalnum()
    assert [clip.caption for clip in listing.clips] == ["The speaker's here, [there].", "It is ' a chef's hat, 'yes'."]


def test_lines_longer_than_those_of_other_lists(tmp_path: Path) -> None:
    captions = "['" + "x" * 60_000 + "', 'y']"
    listing = _listing(tmp_path, _row(captions=captions), _row(video="zzzzzzzzzzz", captions="x" * 200_000))
    assert len(listing.clips) == 2
    assert [told.line for told in listing.problems] == [3]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"video": "short"}, "11 letters"),
        ({"url": "https://www.youtube.com/watch?v=aaaaaaaaaaa"}, "another video"),
        ({"url": "javascript:alert(1)"}, "scheme"),
        ({"times": "[]"}, "timestamp"),
        ({"times": "[['0:00:19.227']]"}, "timestamp"),
        ({"times": "__import__('os').system('reboot')"}, "timestamp"),
        ({"times": "[" * 60_000}, "timestamp"),
        ({"more": ",x"}, "found 6"),
    ],
)
def test_bad_rows(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    listing = _listing(tmp_path, _row(**changes), _row())
    assert len(listing.clips) == 2
    (told,) = listing.problems
    assert (told.line, told.lost) == (2, True)
    assert said in told.message


@pytest.mark.parametrize(
    ("changes", "clips", "said"),
    [
        ({"captions": "['a']"}, 2, "2 intervals, 1 captions, 2 scores"),
        ({"captions": "['a', 'b"}, 2, "0 captions"),
        ({"times": "[['0:00:28.278', '0:00:19.227'], ['0:00:01.0', '0:00:02.0']]"}, 1, "interval 0 is left out"),
        ({"times": "[['0:00:01.0', '0:00:02.0'], ['0:00:61.0', '0:99:02.0']]"}, 1, "interval 1 is left out"),
        ({"times": "[['0:00:01.0', '0:00:02.0'], ['0:00:01.0', '0:00:02.0']]"}, 1, "listed twice"),
    ],
)
def test_what_is_odd_about_a_row(tmp_path: Path, changes: dict[str, str], clips: int, said: str) -> None:
    listing = _listing(tmp_path, _row(**changes))
    assert len(listing.clips) == clips
    (told,) = listing.problems
    assert said in told.message


@pytest.mark.parametrize("captions", ["'\\" * 50_000, "['" + "\\'" * 50_000, "['a'," * 20_000, "['" + "', '" * 20_000])
def test_a_hostile_row_keeps_its_clips(tmp_path: Path, captions: str) -> None:
    listing = _listing(tmp_path, _row(captions=captions))  # a pattern that goes back would not end
    assert len(listing.clips) == 2
    assert "captions" in listing.problems[0].message
    assert [clip.caption for clip in listing.clips] == [None, None]


@pytest.mark.parametrize(
    ("written", "caption"),
    [
        (r"'it\'s'", "it's"),
        (r"'caf\xe9 \u0301 \U0001F600'", "café \u0301 \U0001f600"),
        (r"'a\nb\tc\\d'", "a b c\\d"),
        (r"'a\x00b\u202ec'", "abc"),
        (r"'\ud83d'", None),
        (r"'\U7fffffff'", "\ufffd"),
        (r"'\x4'", "x4"),
        ("' '", None),
        ("''", None),
        ("'" + "x" * 60_000 + "'", "x" * 2000),
        ("'" + r"\x41" * 10_000 + "'", "A" * 2000),
    ],
)
def test_captions_are_read_as_python_writes_them(tmp_path: Path, written: str, caption: str | None) -> None:
    listing = _listing(tmp_path, _row(captions=f"[{written}, 'y']"))
    assert listing.problems == ()
    assert [clip.caption for clip in listing.clips] == [caption, "y"]


@pytest.mark.parametrize("captions", ["['a']", "['a', 'b', 'c']", "['a', 'b'", ""])
def test_captions_of_unknown_intervals_are_nobodys(tmp_path: Path, captions: str) -> None:
    listing = _listing(tmp_path, _row(captions=captions))
    assert [clip.caption for clip in listing.clips] == [None, None]
    assert "one of each was expected" in listing.problems[0].message


@given(st.lists(st.text(max_size=30), min_size=2, max_size=2))
def test_what_python_writes_comes_back(tmp_path_factory: pytest.TempPathFactory, captions: list[str]) -> None:
    row = _row(captions=repr(captions).replace('"', '""'))
    listing = _listing(tmp_path_factory.mktemp("list"), row)
    assert listing.problems == ()
    assert [clip.caption for clip in listing.clips] == [clean_caption(caption) or None for caption in captions]


def test_an_interval_that_is_left_out_takes_its_caption_along(tmp_path: Path) -> None:
    times = "[['0:00:28.278', '0:00:19.227'], ['0:00:01.0', '0:00:02.0']]"
    (clip,) = _listing(tmp_path, _row(times=times, captions="['first', 'second']")).clips
    assert clip.caption == "second"
