"""Lists of URLs, plain and CSV."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import Span
from tasks.sources import Listing, SourceError, UrlsConfig, make_source


def _listing(folder: Path, text: str | bytes) -> Listing:
    path = folder / "list.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return make_source(UrlsConfig(file=path, licence="CC0")).listing()


def test_plain_urls(tmp_path: Path) -> None:
    listing = _listing(tmp_path, "http://h/a.mp4\n\nhttps://h/b,c.mp4?x=1\n")
    assert [clip.location for clip in listing.clips] == ["http://h/a.mp4", "https://h/b,c.mp4?x=1"]
    assert listing.problems == ()
    assert {clip.span for clip in listing.clips} == {Span()}
    assert {clip.licence for clip in listing.clips} == {"CC0"}


def test_csv_with_spans_and_names(tmp_path: Path) -> None:
    text = (
        'url,start,end,name\nhttp://h/a.mp4,1.5,00:10,ada\nhttp://h/a.mp4,00:20,,ada\n"http://h/b,c.mp4",,,"bob, jr"\n'
    )
    one, two, three = _listing(tmp_path, text).clips
    assert one.video_id == two.video_id != three.video_id
    assert (one.span, two.span, three.span) == (Span(start_s=1.5, end_s=10), Span(start_s=20), Span())
    assert one.clip_id.startswith("urls-ada-")
    assert three.location == "http://h/b,c.mp4"


def test_emtd_as_published(shared: Path) -> None:
    (path,) = (shared / "realdata" / "metadata" / "emtd").glob("*.txt")
    listing = make_source(UrlsConfig(file=path)).listing()
    assert len(listing.clips) == 110
    assert listing.problems == ()
    total = sum((clip.span.end_s or 0) - clip.span.start_s for clip in listing.clips)
    assert total == pytest.approx(22 * 60 + 7, abs=1)


def test_a_mirror_keeps_all_ids(tmp_path: Path) -> None:
    one, two = (
        _listing(tmp_path, f"{host}/a/b.mp4?k=1") for host in ("http://127.0.0.1:8000", "https://mirror.example.org")
    )
    assert one.clips[0].clip_id == two.clips[0].clip_id
    for part in ("127", "8000", "a-b", "mirror"):
        assert part not in one.clips[0].clip_id.rpartition("-")[0]


def test_hosts_that_differ_need_names(tmp_path: Path) -> None:
    listing = _listing(tmp_path, "http://one/a.mp4\nhttp://two/a.mp4\n")
    assert len(listing.clips) == 1
    assert "its own name" in listing.problems[0].message
    named = _listing(tmp_path, "url,name\nhttp://one/a.mp4,one\nhttp://two/a.mp4,two\n")
    assert len(named.clips) == 2


@pytest.mark.parametrize(
    "line",
    [
        "ftp://h/a.mp4,,,",
        "file:///etc/passwd,,,",
        "javascript:alert(1),,,",
        "http://h/a.mp4,10,5,",
        "http://h/a.mp4,x,,",
        "http://h/a.mp4,,9999999,",
        "http://h/a.mp4",
        "http://h/a.mp4,,,,,",
        'http://h/a.mp4,,,"open',
        f"http://h/a.mp4,,,{'x' * 201}",
        "http://h/a.mp4,,,a\x00b",
        "http://first/a.mp4,,,",
    ],
)
def test_bad_lines(tmp_path: Path, line: str) -> None:
    listing = _listing(tmp_path, f"url,start,end,name\nhttp://first/a.mp4,,,\n{line}\nhttp://h/z.mp4,,,../../z\n")
    assert [clip.location for clip in listing.clips] == ["http://first/a.mp4", "http://h/z.mp4"]
    (told,) = listing.problems
    assert told.line == 3


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        make_source(UrlsConfig(file=tmp_path / "nowhere")).listing()


@given(st.binary(max_size=400))
def test_any_bytes_give_clips_and_problems_only(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        listing = _listing(Path(folder), data)
        headed = _listing(Path(folder), b"url,start,end,name\n" + data)
    for found in (listing, headed):
        assert len({problem.line for problem in found.problems}) == len(found.problems)


LINES = st.sampled_from(
    ["http://h/a", "http://h/b,1,2,n", "http://g/a", "", "x", "http://h/b,,,n", '"', "http://h/c,2,1,"]
)


@given(st.lists(LINES, max_size=8), st.booleans())
def test_every_line_is_a_clip_or_a_problem(lines: list[str], header: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        listing = _listing(Path(folder), "\n".join(["url,start,end,name", *lines] if header else lines))
    assert len(listing.clips) + len(listing.problems) == sum(bool(line) for line in lines)
