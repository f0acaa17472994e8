"""How spans become training clips."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import Clip, CropBox, Frames, Span
from tasks.sources.cutting import cut_spans


def _clip(start_s: float, end_s: float | None) -> Clip:
    span = Span(start_s=start_s, end_s=end_s)
    return Clip(
        clip_id="hdtf-a-1", source="hdtf", video_id="hdtf-a", location="http://x/a.mp4", span=span, identity="a"
    )


def test_a_span_that_fits_stays_the_listed_clip() -> None:
    assert cut_spans(_clip(3, 9), 60.0, 10.0) == (_clip(3, 9),)
    (whole,) = cut_spans(_clip(0, None), 7.25, 10.0)
    assert whole == _clip(0, 7.25)
    (beyond,) = cut_spans(_clip(55, 70), 60.0, 10.0)
    assert beyond == _clip(55, 60)


def test_a_span_outside_the_video_comes_back_untouched() -> None:
    assert cut_spans(_clip(60, 70), 60.0, 10.0) == (_clip(60, 70),)
    assert cut_spans(_clip(5, None), 0.0, 10.0) == (_clip(5, None),)


def test_pieces_and_their_ids() -> None:
    pieces = cut_spans(_clip(20, 95), 300.0, 10.0)
    assert [(piece.span.start_s, piece.span.end_s) for piece in pieces][:2] == [(20.0, 30.0), (30.0, 40.0)]
    assert len(pieces) == 8
    assert pieces[-1].span == Span(start_s=90.0, end_s=95.0)
    assert {piece.parent_id for piece in pieces} == {"hdtf-a-1"}
    assert {piece.identity for piece in pieces} == {"a"}
    assert pieces[0].clip_id == cut_spans(_clip(20, 50), 300.0, 10.0)[0].clip_id  # the same piece of the same clip
    assert cut_spans(_clip(20, 95), 300.0, 10.0) == pieces


def test_every_piece_has_its_share_of_the_frames_and_the_whole_crop() -> None:
    frames, crop = Frames(first=0, end=500, fps=25.0), CropBox(left=0, top=0, right=1, bottom=1)
    listed = _clip(0, 20).model_copy(update={"frames": frames, "crop": crop})
    (whole,) = cut_spans(listed, 60.0, 30.0)
    (cut_short,) = cut_spans(listed, 15.0, 30.0)
    pieces = cut_spans(listed, 60.0, 10.0)
    assert (whole.frames, cut_short.frames) == (frames, Frames(first=0, end=375, fps=25.0))
    assert [piece.frames for piece in pieces] == [Frames(first=f, end=f + 250, fps=25.0) for f in (0, 250)]
    assert {piece.crop for piece in pieces} == {crop}
    assert [piece.clip_id for piece in pieces] == [piece.clip_id for piece in cut_spans(_clip(0, 20), 60.0, 10.0)]


@given(st.integers(0, 10_000), st.integers(1, 4000), st.sampled_from([12.5, 23.98, 25.0, 29.97, 60.0]))
def test_pieces_share_the_frames_among_them(first: int, length: int, fps: float) -> None:
    frames = Frames(first=first, end=first + length, fps=fps)
    listed = _clip(first / fps, frames.end / fps).model_copy(update={"frames": frames})
    shares = [piece.frames for piece in cut_spans(listed, 2000.0, 10.0)]
    assert shares[0] is not None
    assert shares[-1] is not None
    assert (shares[0].first, shares[-1].end) == (frames.first, frames.end)
    for before, after in pairwise(shares):
        assert before is not None
        assert after is not None
        assert before.end == after.first


def test_a_short_tail_is_shared_not_lost() -> None:
    pieces = cut_spans(_clip(0, 20.5), 60.0, 10.0)
    assert [(piece.span.start_s, piece.span.end_s) for piece in pieces] == [(0.0, 10.0), (10.0, 15.25), (15.25, 20.5)]


def test_a_limit_under_two_seconds_is_refused() -> None:
    with pytest.raises(ValueError, match="max_clip_s"):
        cut_spans(_clip(0, 10), 60.0, 1.0)


@given(
    st.floats(0, 5000, allow_nan=False),
    st.one_of(st.none(), st.floats(0.1, 700)),
    st.floats(0, 4000),
    st.floats(2, 60),
)
def test_pieces_cover_the_span(start_s: float, length_s: float | None, duration_s: float, longest_s: float) -> None:
    listed = _clip(start_s, None if length_s is None else start_s + length_s)
    pieces = cut_spans(listed, duration_s, longest_s)
    if len(pieces) == 1:
        assert pieces[0].clip_id == listed.clip_id
        return
    assert len({piece.clip_id for piece in pieces}) == len(pieces)
    ends = [piece.span.end_s or 0.0 for piece in pieces]
    assert [piece.span.start_s for piece in pieces[1:]] == ends[:-1]
    assert pieces[0].span.start_s == pytest.approx(start_s, abs=1e-3)
    assert ends[-1] == pytest.approx(min(listed.span.end_s or duration_s, duration_s), abs=2e-3)
    lengths = [end - piece.span.start_s for piece, end in zip(pieces, ends, strict=True)]
    assert max(lengths) <= longest_s + 1e-6
    assert min(lengths) >= min(2.0, longest_s / 2) - 2e-3
