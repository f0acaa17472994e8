"""Every source obeys the same contract, whatever it reads."""

import json
import tempfile
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dualforce_model.media import MediaLimits
from tasks.acquiring import acquire_key
from tasks.fetch import FetchConfig, Fetcher, FetchJob
from tasks.records import Clip, Impossible, Reason
from tasks.sources import LOCAL, SOURCES, AnyConfig, SourceConfig, SourceError, SourceSettings, config_at, make_source
from tasks.sources.base import Source, Video

ADAPTER: TypeAdapter[SourceSettings] = TypeAdapter(SourceConfig)
ID = "abcdefghijk"
CELEBV = {"duration": {"start_sec": 1.5, "end_sec": 4}, "bbox": {"top": 0, "bottom": 0.5, "left": 0.1, "right": 0.6}}
TALKVID = {
    "id": "a-scene1",
    "fps": 25,
    "start-time": 1.0,
    "start-frame": 25,
    "end-time": 3.0,
    "end-frame": 75,
    "durations": "2.000s",
    "info": {"Person ID": "7", "Video Link": f"https://www.youtube.com/watch?v={ID}"},
}
VOX = "video_id,start,end,bbox,fps,width,height,partition,person_id"
PANDA = "videoID,url,timestamp,caption,matching_score"

# The smallest list of each source that is one clip: file -> content. The first is what a config names, or is in.
LISTS: dict[str, dict[str, str]] = {
    "hdtf": {"RD_video_url.txt": "Ada http://h/a.mp4\n", "RD_annotion_time.txt": "Ada.mp4 00:00-00:10\n"},
    "celebvhq": {"list.json": json.dumps({"meta_info": {}, "clips": {f"{ID}_0": {"ytb_id": ID, **CELEBV}}})},
    "celebvtext": {"list.json": json.dumps({f"{ID}_0.mp4": {"ytb_id": ID, **CELEBV}})},
    "multitalk": {"list.json": json.dumps({f"{ID}_0": {"youtube_id": ID, **CELEBV}})},
    "vfhq": {f"Clip+{ID}+P0+C2+F10-60.txt": "H 720\nW 1280\nFPS 25\nCROP 10 20 310 320\n"},
    "talkvid": {"list.json": json.dumps([TALKVID])},
    "voxceleb": {"list.csv": f"{VOX}\n{ID},25,75,10-20-310-320,25,1280,720,train,id10005\n"},
    "voxceleb2": {f"id00012/{ID}/00001.mp4": "x"},
    "panda70m": {
        "list.csv": f"{PANDA}\n{ID},https://youtu.be/{ID},\"[['0:00:01.000', '0:00:03.000']]\",\"['A.']\",[0.5]\n"
    },
    "mead": {"M003/video/front/angry/level_1/001.mp4": "x"},
    "folder": {"a.mp4": "x"},
    "urls": {"list.txt": "http://h/a.mp4\n"},
}


def _write(name: str, folder: Path, first: bytes | None = None) -> SourceSettings:
    """The list of a source, perhaps with other content in its first file, and the config that reads it."""
    for index, (file, text) in enumerate(LISTS[name].items()):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if first is None or index else first)
    listed = folder / next(iter(LISTS[name]))
    return config_at(name, listed if "file" in type(config_at(name, folder)).model_fields else folder)


@pytest.mark.parametrize("name", SOURCES)
def test_source(name: str, tmp_path: Path) -> None:
    config = _write(name, tmp_path)
    assert ADAPTER.validate_json(config.model_dump_json()) == config
    source = make_source(config)
    assert type(source) is SOURCES[name]
    assert (source.name, bool(source.licence)) == (name, True)
    first, second = source.listing(), make_source(config).listing()
    assert first == second
    (clip,) = first.clips
    assert first.problems == ()
    assert clip.source == name
    assert clip.licence
    assert str(tmp_path) not in clip.clip_id + clip.video_id
    assert Clip.model_validate_json(clip.model_dump_json()) == clip


@pytest.mark.parametrize("name", SOURCES)
def test_strict_refuses_what_lenient_tells(name: str, tmp_path: Path) -> None:
    config = _write(name, tmp_path)
    strict = config.model_copy(update={"strict": True})
    assert len(make_source(strict).listing().clips) == 1
    if name in LOCAL:  # a folder's problem is a file that is no video of its own
        listed = next(iter(LISTS[name]))
        (tmp_path / listed).with_name("loop.mp4").symlink_to("loop.mp4")
    else:
        _write(name, tmp_path, b"\xff\xfe broken\n\x00\n")
    assert make_source(config).listing().problems
    with pytest.raises(SourceError, match=r"problems in a list that must have none.*strict: false"):
        make_source(strict).listing()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_missing_list_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        make_source(config_at(name, tmp_path / "nowhere")).listing()


def _holds_together(source: Source) -> None:
    entries = list(source.entries())
    clips = [entry for entry in entries if isinstance(entry, Clip)]
    assert len({clip.clip_id for clip in clips}) == len(clips)
    for entry in entries:
        if not isinstance(entry, Video):
            entry.model_dump_json().encode()


@pytest.mark.parametrize("name", sorted(set(SOURCES) - LOCAL))
@given(data=st.binary(max_size=300))
def test_any_bytes_give_clips_and_problems_only(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _holds_together(make_source(_write(name, Path(folder), data)))


@pytest.mark.parametrize("name", sorted(set(SOURCES) - LOCAL))
@given(
    at=st.floats(0, 1),
    drop=st.integers(0, 8),
    put=st.one_of(
        st.binary(max_size=6),
        st.sampled_from([b'"', b"'", b"{", b"[", b"]", b"null", b"-1", b"1e999", b"NaN", b"\\ud800", b"9" * 400, b","]),
    ),
)
def test_a_damaged_list_gives_clips_and_problems_only(name: str, at: float, drop: int, put: bytes) -> None:
    sound = next(iter(LISTS[name].values())).encode()
    place = int(at * len(sound))
    damaged = sound[:place] + put + sound[place + drop :]
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(_write(name, Path(folder), damaged))
        _holds_together(source)
        told = source.listing()
    assert told.clips or told.problems or not _says_anything(damaged)


def _says_anything(data: bytes) -> bool:
    """Whether a list has a record at all: more than white space, a header alone or brackets."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    return len(lines) > 1 or (bool(lines) and lines[0].strip() not in (b"[]", b"{}") and b"_id" not in lines[0])


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_videos_that_lie_here_are_looked_at_where_they_are(name: str, tmp_path: Path) -> None:
    (clip,) = make_source(_write(name, tmp_path / "videos")).listing().clips
    assert clip.location.startswith("file:///")
    job = FetchJob(job_id=clip.video_id, location=clip.location, source=name)
    fetcher = Fetcher(FetchConfig(limits=MediaLimits()), tmp_path / "media")
    with pytest.raises(Impossible) as caught:  # the one byte that is there was read, not asked of a network
        fetcher(job)
    assert caught.value.reason is Reason.NOT_MEDIA


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_video_is_read_again_when_it_lies_here_and_has_changed(name: str, tmp_path: Path) -> None:
    config = _write(name, tmp_path)
    (before,) = make_source(config).listing().clips
    key = acquire_key(before)
    if name in LOCAL:
        (tmp_path / next(iter(LISTS[name]))).write_bytes(b"another video")
    else:
        before = before.model_copy(update={"location": "https://mirror.example.org/a.mp4"})
    assert (acquire_key(before) == key) == (name not in LOCAL)


def test_every_config_belongs_to_a_source() -> None:
    configs = get_args(AnyConfig)
    assert {config.model_fields["name"].default for config in configs} == set(SOURCES) == set(LISTS)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_source_has_a_configuration_file(name: str) -> None:
    path = Path(__file__).resolve().parents[2] / "configs" / "acquire" / f"{name}.yaml"
    assert f"name: {name}" in path.read_text()


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ValidationError, match="hdtf"):
        ADAPTER.validate_python({"name": "hdtv", "folder": "."})
    with pytest.raises(SourceError, match=r"'hdtv'; expected one of hdtf, "):
        config_at("hdtv", Path("."))


@pytest.mark.parametrize("name", ["CelebV-HQ", "celebv_hq", "celebvhq"])
def test_names_are_taken_as_people_write_them(name: str) -> None:
    assert config_at(name, Path("x.json")).model_dump()["name"] == "celebvhq"
