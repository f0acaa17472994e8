"""The vocabulary refuses what it cannot say."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.records import (
    Attempt,
    Clip,
    CropBox,
    Done,
    Failed,
    FailureClass,
    Frames,
    Quarantined,
    Reason,
    Span,
    Stage,
    StageResult,
    safe_id,
)

ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$")


@given(st.text(), st.text(), st.floats(allow_nan=False))
def test_ids_are_safe_whatever_the_list_holds(source: str, name: str, start: float) -> None:
    found = safe_id(source, name, start)
    assert ID.match(found)
    assert "\n" not in found
    assert found == safe_id(source, name, start)


@pytest.mark.parametrize("name", ["../../etc/passwd", "-rf", "a\nb", "x" * 300, "", "\0", "ä€", "\ud800"])
def test_hostile_names_become_plain_file_names(name: str) -> None:
    assert ID.match(safe_id("hdtf", name))


def test_different_things_have_different_ids() -> None:
    assert len({safe_id("a", "b", "c"), safe_id("a", "b c"), safe_id("a b", "c"), safe_id("a", "b", "c", "")}) == 4


def test_spans_run_forward() -> None:
    with pytest.raises(ValidationError, match="before its start"):
        Span(start_s=2.0, end_s=1.0)


def test_frames_run_forward_and_boxes_hold_something() -> None:
    with pytest.raises(ValidationError, match="not after their first"):
        Frames(first=9, end=9, fps=25.0)
    with pytest.raises(ValidationError, match="is empty"):
        CropBox(left=5, top=0, right=5, bottom=9)


def test_boxes_scale_to_the_real_frame() -> None:
    box = CropBox(left=320, top=0, right=960, bottom=640, frame_width=1280, frame_height=720)
    assert box.scaled(1920, 1080) == (480, 0, 1440, 960)
    assert box.scaled(640, 720) == (160, 0, 480, 640)  # another shape of pixel
    fractions = CropBox(left=0.25, top=0, right=0.75, bottom=1, frame_width=1, frame_height=1)
    assert fractions.scaled(1000, 500) == (250, 0, 750, 500)
    by_height = box.model_copy(update={"frame_width": None})
    assert by_height.scaled(1920, 1080) == (480, 0, 1440, 960)
    assert by_height.scaled(700, 720) is None


@pytest.mark.parametrize(
    ("frame", "flaw"),
    [((1280, 600), "below a frame"), ((900, 720), "beyond a frame"), ((1280, None), "unknown"), ((None, 720), "")],
)
def test_boxes_that_lie_outside_their_own_frame_have_no_answer(
    frame: tuple[float | None, float | None], flaw: str
) -> None:
    box = CropBox(left=320, top=0, right=960, bottom=640, frame_width=frame[0], frame_height=frame[1])
    assert flaw in box.flaw
    assert bool(box.flaw) == bool(flaw) == (box.scaled(1920, 1080) is None)


def test_clip_ids_are_checked() -> None:
    with pytest.raises(ValidationError):
        Clip(clip_id="../x", source="a", video_id="v", location="http://x")


def test_every_clip_ends_exactly_once() -> None:
    done = Done(clip_id="a", key="k")
    dropped = Quarantined(clip_id="b", stage=Stage.CURATE, reason=Reason.NO_FACE, measured="0 of 9")
    failed = Failed(clip_id="c", stage=Stage.CURATE, failure=FailureClass.BUG, traceback="...")
    StageResult(stage=Stage.CURATE, inputs=("a", "b", "c"), done=(done,), quarantined=(dropped,), failed=(failed,))
    with pytest.raises(ValidationError, match=r"lost \['d'\]"):
        StageResult(stage=Stage.CURATE, inputs=("a", "d"), done=(done,))
    with pytest.raises(ValidationError, match=r"twice \['a'\]"):
        StageResult(stage=Stage.CURATE, inputs=("a",), done=(done, done))
    with pytest.raises(ValidationError, match=r"never given \['b'\]"):
        StageResult(stage=Stage.CURATE, inputs=("a",), done=(done,), quarantined=(dropped,))


@given(st.lists(st.sampled_from("abcdefgh"), unique=True), st.lists(st.sampled_from("abcdefgh")))
def test_conservation_is_set_equality_without_repeats(inputs: list[str], ends: list[str]) -> None:
    conserved = sorted(ends) == sorted(inputs)
    done = tuple(Done(clip_id=clip, key="k") for clip in ends)
    if conserved:
        assert len(StageResult(stage=Stage.EXTRACT, inputs=tuple(inputs), done=done).done) == len(inputs)
    else:
        with pytest.raises(ValidationError):
            StageResult(stage=Stage.EXTRACT, inputs=tuple(inputs), done=done)


def test_an_attempt_has_one_outcome() -> None:
    with pytest.raises(ValidationError, match="exactly one outcome"):
        Attempt(job_id="a")
    with pytest.raises(ValidationError, match="exactly one outcome"):
        Attempt(job_id="a", value={}, impossible=(Reason.GONE, "404"))
