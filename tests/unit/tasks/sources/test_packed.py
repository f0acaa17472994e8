"""Packed clips come out as they went in, whatever a list may say."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import Clip, CropBox, Frames, Span
from tasks.sources.packed import PackedClips

coordinates = st.floats(0, 1e6, allow_nan=False)
sides = st.none() | st.floats(0, 1e6, exclude_min=True)
spans = st.tuples(st.floats(0, 9e5, allow_nan=False), st.none() | st.floats(1e-3, 1e5)).map(
    lambda drawn: Span(start_s=drawn[0], end_s=None if drawn[1] is None else drawn[0] + drawn[1])
)
frames = st.tuples(st.integers(0, 10**8), st.integers(1, 10**8), st.floats(0, 1000, exclude_min=True)).map(
    lambda drawn: Frames(first=drawn[0], end=drawn[0] + drawn[1], fps=drawn[2])
)
crops = st.tuples(coordinates, coordinates, st.floats(1, 1e5), st.floats(1, 1e5), sides, sides).map(
    lambda drawn: CropBox(
        left=drawn[0] / 2,
        top=drawn[1] / 2,
        right=drawn[0] / 2 + drawn[2],
        bottom=drawn[1] / 2 + drawn[3],
        frame_width=drawn[4],
        frame_height=drawn[5],
    )
)
names = st.sampled_from(["a", "b", "c"])
clips = st.builds(
    Clip,
    clip_id=st.integers(0, 10**6).map("x-{}".format),
    source=names,
    video_id=names,
    location=st.text(max_size=20),
    span=spans,
    identity=st.none() | names,
    licence=names,
    parent_id=st.none() | names,
    frames=st.none() | frames,
    crop=st.none() | crops,
    caption=st.none() | st.text(min_size=1, max_size=20),
)


@given(st.lists(clips, max_size=12, unique_by=lambda clip: clip.clip_id))
def test_what_went_in_comes_out_in_its_order(given_clips: list[Clip]) -> None:
    packed = PackedClips()
    for clip in given_clips:
        packed.add(clip)
    assert list(packed.values()) == given_clips
    assert list(packed) == [clip.clip_id for clip in given_clips]
    assert len(packed) == len(given_clips)
    for clip in given_clips:
        assert packed[clip.clip_id].model_dump_json() == clip.model_dump_json()
        assert packed.video_id(clip.clip_id) == clip.video_id
    first = {clip.video_id: clip for clip in reversed(given_clips)}
    assert {clip.video_id: clip for clip in packed.of_videos()} == first
    assert len(list(packed.of_videos())) == len(first)


def test_nothing_is_added_twice_and_strangers_are_unknown() -> None:
    packed = PackedClips()
    clip = Clip(clip_id="a", source="x", video_id="v", location="x")
    packed.add(clip)
    with pytest.raises(ValueError, match="found twice: a"):
        packed.add(clip.model_copy(update={"location": "y"}))
    assert "b" not in packed
    with pytest.raises(KeyError):
        packed.video_id("b")
    assert list(packed.values()) == [clip]


def test_a_clip_takes_little_memory() -> None:
    """Records that say the same take about 4,000 bytes a clip."""
    packed, count = PackedClips(), 2000
    tracemalloc.start()
    try:
        for number in range(count):
            crop = CropBox(left=number, top=0, right=number + 100, bottom=100, frame_width=1280, frame_height=720)
            counted = Frames(first=number, end=number + 9, fps=25)
            video = f"v{number // 5}"
            packed.add(
                Clip(clip_id=f"x-{number}", source="x", video_id=video, location=video, crop=crop, frames=counted)
            )
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 500 * count
