"""TalkVid's list: names with minus signs, text where numbers are expected, ids that double themselves."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.records import Span
from tasks.sources import Listing, config_at, make_source

INFO = {"Person ID": "597", "Video Link": "https://www.youtube.com/watch?v=Tr6MMsoWAog"}


def _entry(**changes: Any) -> dict[str, Any]:
    entry = {
        "id": "videovideoTr6MMsoWAog-scene1-scene1",
        "fps": 24.0,
        "start-time": 0.1,
        "start-frame": 0,
        "end-time": 5.141666666666667,
        "end-frame": 121,
        "durations": "5.042s",
        "info": INFO,
    }
    return {**entry, **{name.replace("_", "-"): value for name, value in changes.items()}}


def _listing(folder: Path, value: object) -> Listing:
    (folder / "list.json").write_text(json.dumps(value, indent=1))
    return make_source(config_at("talkvid", folder / "list.json")).listing()


def test_the_real_entry_alone_and_in_an_array(shared: Path, tmp_path: Path) -> None:
    path = shared / "realdata" / "metadata" / "talkvid" / "readme_example.json"
    listing = make_source(config_at("talkvid", path)).listing()
    (clip,) = listing.clips
    assert listing.problems == ()
    assert clip.location == INFO["Video Link"]
    assert clip.span == Span(start_s=0.1, end_s=5.141666666666667)
    assert (clip.identity, clip.licence) == ("597", "CC BY-NC 4.0")
    assert clip.frames is not None
    assert (clip.frames.end, clip.frames.fps) == (121, 24.0)
    assert "Tr6MMsoWAog" in clip.video_id
    assert "videovideo" not in clip.video_id
    assert clip.caption is not None
    assert clip.caption.startswith("The provided image sequence shows an older man in a suit, likely being interviewed")
    assert "observed. Because" in clip.caption  # two spaces in the list
    assert _listing(tmp_path, [json.loads(path.read_text())]).clips == listing.clips


def test_a_template_without_values_is_a_problem(shared: Path) -> None:
    path = shared / "realdata" / "metadata" / "talkvid" / "video_hq_0_0_correct.json"
    listing = make_source(config_at("talkvid", path)).listing()
    assert listing.clips == ()
    assert "id: expected text, found empty text" in listing.problems[0].message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"end_frame": 400}, "elsewhere"),
        ({"fps": 25.0, "start_frame": 50, "end_frame": 176}, "elsewhere"),
        ({"fps": 0}, "frames per second"),
        ({"start_frame": None}, "start-frame"),
        ({"start_frame": 0.5}, "a whole number"),
        ({"durations": "9.9s"}, "durations"),
        ({"durations": 5.042}, ""),
        ({"durations": None}, "durations"),
    ],
)
def test_the_times_are_believed(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    listing = _listing(tmp_path, [_entry(**changes)])
    (clip,) = listing.clips
    assert clip.span.start_s == 0.1
    assert [said in told.message and not told.lost for told in listing.problems] == [True] * bool(said)
    assert (clip.frames is None) == (bool(said) and "durations" not in changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": ""}, "id: expected text"),
        ({"id": "a\nb"}, "none of control"),
        ({"id": "\ud800"}, "none of control"),
        ({"info": None}, "info: expected an object"),
        ({"info": {**INFO, "Video Link": "file:///etc/passwd"}}, "scheme"),
        ({"info": {**INFO, "Video Link": "https://example.org/a"}}, "11 letters"),
        ({"info": {**INFO, "Person ID": [1]}}, "Person ID"),
        ({"start_time": -1.0}, "before the video"),
        ({"start_time": 6.0}, "not after its start"),
        ({"end_time": "5.1"}, "expected a number"),
    ],
)
def test_bad_entries(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    listing = _listing(tmp_path, [_entry(**changes), _entry(id="other")])
    assert len(listing.clips) == 1
    (told,) = listing.problems
    assert (told.line, told.lost) == (2, True)
    assert said in told.message


@pytest.mark.parametrize(("who", "identity"), [("597", "597"), (597, "597"), ("", None), (None, None), (" a ", "a")])
def test_people(tmp_path: Path, who: object, identity: str | None) -> None:
    (clip,) = _listing(tmp_path, [_entry(info={**INFO, "Person ID": who})]).clips
    assert clip.identity == identity


@pytest.mark.parametrize(
    ("description", "caption", "said"),
    [
        ("  A man\nin a suit. ", "A man in a suit.", ""),
        ("a\u0000\ud800b", "ab", ""),
        ("x" * 100_000, "x" * 2000, ""),
        ("", None, ""),
        ("\u200b \n", None, ""),
        (None, None, ""),
        (5, None, "the description is not used: expected text, found '5'"),
        (["a"], None, "the description is not used"),
    ],
)
def test_the_description_is_the_caption(tmp_path: Path, description: object, caption: str | None, said: str) -> None:
    listing = _listing(tmp_path, [_entry(description=description)])
    (clip,) = listing.clips
    assert clip.caption == caption
    assert [said in told.message and not told.lost for told in listing.problems] == [True] * bool(said)


def test_a_caption_is_no_part_of_the_id(tmp_path: Path) -> None:
    (told,), (silent,) = _listing(tmp_path, [_entry(description="a")]).clips, _listing(tmp_path, [_entry()]).clips
    assert told.clip_id == silent.clip_id
    assert told.model_copy(update={"caption": None}) == silent
