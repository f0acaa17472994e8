"""CelebV-HQ's list, as JSON and as CSV, and the two lists of the same shape."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import Span
from tasks.sources import Listing, config_at, make_source

ID = "_-cdefghijk"
BOX = {"top": 0.0, "bottom": 0.8815, "left": 0.1964, "right": 0.6922}


def _listing(folder: Path, text: object, name: str = "celebvhq") -> Listing:
    path = folder / "list"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return make_source(config_at(name, path)).listing()


def _entry(**changes: Any) -> dict[str, Any]:
    return {"ytb_id": ID, "duration": {"start_sec": 81.62, "end_sec": 86.17}, "bbox": BOX, **changes}


def test_the_real_excerpts_agree(shared: Path) -> None:
    folder = shared / "realdata" / "metadata" / "celebv_hq"
    one = make_source(config_at("celebvhq", folder / "celebvhq_info.rebuilt50.json")).listing()
    two = make_source(config_at("celebvhq", folder / "videoDataPt1.head60.csv")).listing()
    assert (len(one.clips), len(two.clips), one.problems, two.problems) == (50, 60, (), ())
    assert one.clips == two.clips[:50]
    first = one.clips[0]
    assert first.location == "https://www.youtube.com/watch?v=M2Ohb0FAaJU"
    assert first.span == Span(start_s=81.62, end_s=86.17)
    assert first.crop is not None
    assert first.crop.scaled(1280, 720) == pytest.approx((0.1964 * 1280, 0, 0.6922 * 1280, 0.8815 * 720))
    assert {clip.licence for clip in one.clips} == {"non-commercial research"}


def test_celebv_text_as_published(shared: Path) -> None:
    (path,) = (shared / "realdata" / "metadata" / "celebv_text").glob("*.json")
    listing = make_source(config_at("celebvtext", path)).listing()
    assert len(listing.clips) == 43
    assert all(".mp4" not in clip.clip_id for clip in listing.clips)
    (twin,) = listing.problems  # oC9r-CTbToE_0_0 and _0_1 show the same
    assert (twin.text, twin.line, twin.lost) == ("oC9r-CTbToE_0_1.mp4", 17, False)


def test_multitalk_as_published(shared: Path) -> None:
    (path,) = (shared / "realdata" / "metadata" / "multitalk").glob("*.json")
    listing = make_source(config_at("multitalk", path)).listing()
    assert (len(listing.clips), listing.problems) == (50, ())
    assert len({clip.video_id for clip in listing.clips}) == 2


@pytest.mark.parametrize("wrap", [lambda c: {"meta_info": {}, "clips": c}, lambda c: {"mete_info": {}, "clips": c}])
def test_both_spellings_of_the_first_key(tmp_path: Path, wrap: Any) -> None:
    listing = _listing(tmp_path, wrap({f"{ID}_1": _entry(), f"{ID}_1_2": _entry(bbox={**BOX, "left": 0.0})}))
    assert (len(listing.clips), listing.problems) == (2, ())


def test_the_level_of_clips_and_the_suffix_may_be_there_or_not(tmp_path: Path) -> None:
    found = [
        _listing(tmp_path, entries, "celebvtext").clips
        for entries in ({f"{ID}_0": _entry()}, {f"{ID}_0.mp4": _entry()}, {"clips": {f"{ID}_0.mp4": _entry()}})
    ]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 1


def test_attributes_may_have_any_type(tmp_path: Path) -> None:
    tones = [
        {"sep_flag": False, "labels": "neutral"},
        {"sep_flag": True, "labels": [{"start_sec": 0.28000000000000114}]},
    ]
    entries = {
        f"{ID}_{i}": _entry(attributes={"emotion": tone}, duration={"start_sec": i, "end_sec": i + 1})
        for i, tone in enumerate(tones)
    }
    assert len(_listing(tmp_path, {"clips": entries}).clips) == 2


def test_ids_with_minus_and_underscore_come_from_ytb_id(tmp_path: Path) -> None:
    (clip,) = _listing(tmp_path, {f"{ID}_3_1": _entry()}).clips
    assert clip.location.endswith(f"watch?v={ID}")
    assert clip.clip_id[0].isalnum()


def test_two_people_at_once_are_two_clips(tmp_path: Path) -> None:
    listing = _listing(tmp_path, {f"{ID}_0": _entry(), f"{ID}_1": _entry(bbox={**BOX, "right": 1})})
    assert (len(listing.clips), listing.problems) == (2, ())


def test_whole_frame_and_whole_numbers(tmp_path: Path) -> None:
    (clip,) = _listing(tmp_path, {f"{ID}_0": _entry(bbox={"top": 0, "bottom": 1, "left": 0, "right": 1})}).clips
    assert clip.crop is not None
    assert clip.crop.scaled(1920, 1080) == (0, 0, 1920, 1080)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bbox": {**BOX, "right": 640, "bottom": 600}}, "size of the frame"),
        ({"bbox": {**BOX, "right": 0.1}}, "a crop from"),
        ({"bbox": {**BOX, "right": None}}, "bbox right"),
        ({"bbox": [0, 1, 2, 3]}, "bbox: expected an object, found an array"),
        ({"bbox": None}, "bbox: expected an object, found nothing"),
    ],
)
def test_a_bad_box_costs_the_crop_alone(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    listing = _listing(tmp_path, {f"{ID}_0": _entry(**changes)})
    (clip,), (told,) = listing.clips, listing.problems
    assert clip.crop is None or clip.crop.scaled(1280, 720) is None
    assert said in told.message
    assert not told.lost


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (3, "expected an object, found 3"),
        (_entry(ytb_id="short"), "expected 11 letters"),
        (_entry(ytb_id="--exec=x;id"), "expected 11 letters"),
        (_entry(ytb_id=None), "ytb_id: expected text, found nothing"),
        (_entry(duration={"start_frame": 3, "end_frame": 9}), "frame rate"),
        (_entry(duration={"start_sec": 3, "end_sec": 2}), "not after its start"),
        (_entry(duration={"start_sec": -3, "end_sec": 2}), "before the video"),
        (_entry(duration={"start_sec": "3", "end_sec": 2}), "expected a number, found text"),
        (_entry(duration={"start_sec": True, "end_sec": 2}), "expected a number, found True"),
        (_entry(duration=7), "duration: expected an object"),
    ],
)
def test_bad_entries_are_problems_with_their_line(tmp_path: Path, entry: object, said: str) -> None:
    listing = _listing(tmp_path, json.dumps({f"{ID}_0": entry, f"{ID}_9": _entry()}, indent=1))
    assert len(listing.clips) == 1
    (told,) = listing.problems
    assert said in told.message
    assert (told.line, told.text) == (2, f"{ID}_0")


def test_a_name_of_another_video_and_one_that_comes_twice_are_told(tmp_path: Path) -> None:
    entry = json.dumps(_entry())
    listing = _listing(tmp_path, f'{{"zzzzzzzzzzz_0": {entry},\n "{ID}_0": {entry},\n "{ID}_0": {entry}}}')
    assert len(listing.clips) == 2
    told = [(found.line, found.message) for found in listing.problems]
    assert any(line == 1 and "the id is believed" in message for line, message in told)
    assert any(line == 3 and "listed twice" in message for line, message in told)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (f'0,{ID},{ID}_0.mp4,"(1, 2, 3)","[0, 1, 0, 1]"', "expected 2 numbers"),
        (f'0,{ID},{ID}_0.mp4,"(1, x)","[0, 1, 0, 1]"', "expected a number"),
        (f'0,{ID},{ID}_0.mp4,"__import__(1, 2)","[0, 1, 0, 1]"', "in brackets"),
        (f'0,{ID},{ID}_0.mp4,"(2, 1)","[0, 1, 0, 1]"', "not after its start"),
        (f"0,{ID},{ID}_0.mp4", "found 3"),
        (f'0,{ID},,"(1, 2)","[0, 1, 0, 1]"', "name"),
    ],
)
def test_bad_rows(tmp_path: Path, row: str, said: str) -> None:
    listing = _listing(tmp_path, f',VideoId,SaveIdName,Time,Bbox\n{row}\n1,{ID},{ID}_1.mp4,"(1, 2)","[0, 1, 0, 1]"\n')
    assert len(listing.clips) == 1
    assert [(told.line, said in told.message) for told in listing.problems] == [(2, True)]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.integers(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    )
)
def test_any_value_is_a_clip_or_a_problem(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("list")
    for entry in (value, _entry(duration=value), _entry(bbox=value), _entry(ytb_id=value)):
        listing = _listing(folder, {"clips": {f"{ID}_0": entry}})
        assert len(listing.clips) + len([told for told in listing.problems if told.lost]) == 1
