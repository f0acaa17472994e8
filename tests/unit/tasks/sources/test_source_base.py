"""Lines, times, names and URLs of strangers."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import Clip, Frames, Reason, Span
from tasks.sources.base import (
    MAX_LINE_BYTES,
    Line,
    Listing,
    ListingProblem,
    SourceError,
    check_name,
    check_url,
    make_crop,
    make_frames,
    parse_time,
    printable,
    problem,
    read_lines,
    video_address,
    watch_url,
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


@pytest.mark.parametrize("name", ["", "short", "x" * 12, "-" * 10 + " ", "../etc/pass", "ábcdefghijk", "$(reboot)xx"])
def test_what_is_no_youtube_id(name: str) -> None:
    assert watch_url("--MJTR3evMw") == "https://www.youtube.com/watch?v=--MJTR3evMw"
    with pytest.raises(ValueError, match="11 letters"):
        watch_url(name)


def test_frames_are_seconds_too() -> None:
    assert make_frames(50, 75, 25.0) == (Frames(first=50, end=75, fps=25.0), Span(start_s=2.0, end_s=3.0))
    for first, end, fps in ((5, 5, 25.0), (-1, 5, 25.0), (0, 5, 0.0), (0, 5, float("nan")), (0, 5, 2000.0)):
        with pytest.raises(ValueError, match="expected"):
            make_frames(first, end, fps)


@given(*[st.one_of(st.floats(), st.integers(-(10**20), 10**20))] * 4, st.sampled_from([None, 1.0, 720.0]))
def test_any_corners_are_a_box_or_a_remark(a: float, b: float, c: float, d: float, height: float | None) -> None:
    box, remarks = make_crop(a, b, c, d, (None, height))
    assert bool(remarks) == (box is None or bool(box.flaw))


def test_a_listing_holds_no_clip_twice() -> None:
    with pytest.raises(ValueError, match="hdtf-a-1"):
        Listing(clips=(_clip(0, 1), _clip(0, 2)))
