"""Lines, times, names and URLs of strangers, and how spans become training clips."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import Clip, Reason, Span
from tasks.sources.base import (
    MAX_LINE_BYTES,
    Line,
    Listing,
    ListingProblem,
    SourceError,
    check_name,
    check_url,
    cut_spans,
    parse_time,
    printable,
    problem,
    read_lines,
    video_address,
    youtube_id,
)


def _clip(start_s: float, end_s: float | None) -> Clip:
    span = Span(start_s=start_s, end_s=end_s)
    return Clip(
        clip_id="hdtf-a-1", source="hdtf", video_id="hdtf-a", location="http://x/a.mp4", span=span, identity="a"
    )


def _lines(data: bytes) -> list[Line | ListingProblem]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        path.write_bytes(data)
        return list(read_lines("urls", path))


@given(st.binary(max_size=400))
def test_every_line_that_is_not_blank_is_given_once(data: bytes) -> None:
    raws = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found = [item.number if isinstance(item, Line) else item.line for item in _lines(data)]
    assert found == [number for number, raw in enumerate(raws, 1) if raw.strip()]


def test_marks_line_ends_and_spaces_of_real_files() -> None:
    found = _lines(b"\xef\xbb\xbfA 1 \r\n\r\n\tB 2\t\nC 3")
    assert [(item.number, item.text, item.fields) for item in found if isinstance(item, Line)] == [
        (1, "A 1", ["A", "1"]),
        (3, "B 2", ["B", "2"]),
        (4, "C 3", ["C", "3"]),
    ]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a\x00b", "control character"),
        (b"a\x1b[2Jb", "control character"),
        ("a\u2028b".encode(), "control character"),
        (b"\xff\xfeh\x00", "not UTF-8"),
        (b"x" * (MAX_LINE_BYTES + 1), "bytes long"),
        (b"x" * 10 * MAX_LINE_BYTES, "bytes long"),
    ],
)
def test_unreadable_lines_are_problems_and_the_next_line_is_read(raw: bytes, message: str) -> None:
    bad, good = _lines(raw + b"\nnext\n")
    assert isinstance(bad, ListingProblem)
    assert message in bad.message
    assert bad.line == 1
    assert bad.reason is Reason.BAD_LISTING
    assert bad.quarantined().measured.startswith("list.txt, line 1: ")
    assert isinstance(good, Line)
    assert (good.number, good.text) == (2, "next")


def test_a_missing_list_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        list(read_lines("urls", tmp_path / "nowhere.txt"))


def test_problems_show_no_password_and_no_control_character() -> None:
    shown = problem("urls", "a\nb", 1, "http://user:secret@host/\x1b", "bad http://user:secret@host/")
    assert "secret" not in shown.text + shown.message
    assert shown.text.isprintable()
    assert shown.file == "a\\x0ab"
    assert problem("urls", "f", 1, "\udcff" * 300, "m" * 5000).text.endswith("...")


@given(st.text(), st.integers(10, 50))
def test_printable_is(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    shown.encode()
    assert not any(ord(character) < 32 for character in shown)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:30", 30),
        ("08:10", 490),
        ("75:00", 4500),
        ("1:02:03", 3723),
        ("00:00:54.596", 54.596),
        ("12.5", 12.5),
        (" 7 ", 7),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "a", "1:2", "00:60", "0:61:00", "-1", "1e9", "inf", "nan", "٠٠:٣٠", "0:0:0:0", "9" * 50]
)
def test_bad_times(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


@given(st.text(max_size=30))
def test_times_are_finite_or_refused(text: str) -> None:
    try:
        seconds = parse_time(text)
    except ValueError:
        return
    assert 0 <= seconds < 1e8


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:video/mp4;base64,AA",
        "ftp://host/a",
        "//host/a",
        "/etc/passwd",
        "-rf",
        "http://",
        "http:///a",
        "http://[::1",
        "http://host:port/a",
        "http://host:99999/a",
        "http://ho st/a",
        "http://host/\x00",
        "http://user:secret@host/a",
        "http://host/" + "a" * 2048,
        "ytsearch:talking head",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_url(url)
    assert "secret@" not in str(caught.value)


@given(st.text(max_size=60))
def test_urls_are_returned_or_refused(text: str) -> None:
    try:
        url = check_url(text)
    except ValueError:
        return
    assert url == text


def test_a_scheme_may_be_allowed() -> None:
    assert check_url("ftp://host/a", ("ftp",)) == "ftp://host/a"


@pytest.mark.parametrize("name", ["../../x", "-rf", "ä€", "a b", "x" * 200])
def test_odd_names_are_fine(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\0"])
def test_impossible_names_are_not(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_name(name)


def test_the_same_video_under_different_urls() -> None:
    assert youtube_id("https://www.youtube.com/watch?app=desktop&v=lJUrQKY_A5g&t=6s") == "lJUrQKY_A5g"
    assert youtube_id("https://youtu.be/lJUrQKY_A5g?t=6") == "lJUrQKY_A5g"
    assert youtube_id("https://example.org/watch?v=1") is None
    assert video_address("https://m.youtube.com/watch?v=-ab") == video_address(
        "https://www.youtube.com/watch?v=-ab&t=2s"
    )
    assert video_address("http://a/x.mp4#t=3") == video_address("http://a/x.mp4")
    assert video_address("http://a/x.mp4") != video_address("http://b/x.mp4")


def test_a_listing_holds_no_clip_twice() -> None:
    with pytest.raises(ValueError, match="hdtf-a-1"):
        Listing(clips=(_clip(0, 1), _clip(0, 2)))


# ------------------------------------------------------------------------------------------------------- cutting


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
