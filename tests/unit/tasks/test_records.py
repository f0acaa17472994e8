"""The vocabulary refuses what it cannot say."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.records import (
    Attempt,
    Clip,
    Done,
    Failed,
    FailureClass,
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
