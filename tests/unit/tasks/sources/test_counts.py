"""What `sources check` counts."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.sources import SOURCES, FolderConfig, SourceError, config_at, make_source
from tasks.sources import counts as module
from tasks.sources.counts import all_sources, check_list, tally


def test_hdtf_as_published(shared: Path) -> None:
    found = check_list("hdtf", shared / "realdata" / "metadata" / "hdtf")
    assert (found.videos, found.video_ids, found.intervals) == (370, 369, 436)
    assert (found.clips_with_crop, found.clips_with_usable_crop) == (421, 416)
    assert (found.seconds, found.open_ended, found.num_problems) == (61_453, 0, 8)
    assert found.clips_with_identity == 436
    assert found.licence == "CC BY 4.0"
    assert "KevinMcCarthy1_0.mp4" in {told.text.split(" ")[0] for told in found.problems}
    assert "WRA_annotion_time.txt, line 96: 33 to 533 s and 490 to 510 s overlap" in found.text()


def test_counts_of_a_list_that_names_videos_by_clip_alone(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("url,start,end\nhttp://h/a,1,2.5\nhttp://h/a,3,\nhttp://h/b,,\nftp://h/c,,\n")
    found = check_list("urls", path)
    assert (found.videos, found.video_ids, found.intervals, found.open_ended) == (2, 2, 3, 2)
    assert (found.seconds, found.clips_with_crop, found.identities, found.num_problems) == (1.5, 0, 0, 1)
    (told,) = found.problems
    assert (told.file, told.line, told.lost) == ("list.csv", 5, True)
    assert "scheme" in told.reason


def test_the_config_says_the_licence_where_the_list_does_not(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert tally(make_source(FolderConfig(folder=tmp_path, licence="CC0")), "x").licence == "CC0"


def test_all_problems_are_counted_and_the_first_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOLD", 70)
    (tmp_path / "list.txt").write_text("x\n" * 100)
    found = check_list("urls", tmp_path / "list.txt")
    assert (found.num_problems, len(found.problems)) == (100, 70)
    assert "and 50 more" in found.text()
    assert "problems                100" in found.text()


def test_an_unknown_source_and_a_missing_list_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="hdtv"):
        check_list("hdtv", tmp_path)
    with pytest.raises(SourceError, match=r"x\.json: no such file"):
        check_list("talkvid", tmp_path / "x.json")
    with pytest.raises(SourceError, match="not a file"):
        check_list("talkvid", tmp_path)


def test_every_source_is_shown() -> None:
    table = all_sources()
    assert [row.name for row in table.sources] == list(SOURCES)
    assert all(row.what and row.licence and row.path in ("file", "folder") for row in table.sources)
    assert {row.name for row in table.sources if row.local} == {"folder", "mead", "voxceleb2"}
    assert "panda70m" in table.text()


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    kept = work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return peak


def test_no_clip_stays_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    row = "abcdefghijk,{0},{1},10-20-310-320,25,1280,720,train,id10005\n"
    header = "video_id,start,end,bbox,fps,width,height,partition,person_id\n"
    path.write_text(header + "".join(row.format(number, number + 50) for number in range(4_000)))
    source = make_source(config_at("voxceleb", path))
    assert tally(source, "x").intervals == 4_000  # whatever is made once is made
    assert _peak(lambda: tally(source, "x")) < 0.25 * _peak(source.listing)
