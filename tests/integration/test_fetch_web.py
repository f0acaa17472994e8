"""The fetcher against a server on this machine, well-behaved and not: yt-dlp, sockets and files are the real ones."""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualforce_model import media, storage
from dualforce_model.errors import InputError
from tasks.fetch import FetchConfig, Fetched, Fetcher, FetchJob
from tasks.records import FailureClass, Impossible, Reason, Temporary
from tasks.synthetic.server import Fault, LoopbackServer

QUICK = FetchConfig(retries=2, first_wait_s=0.01, max_wait_s=0.05, socket_timeout_s=0.5, max_bytes=8_000_000)
Serve = Callable[..., LoopbackServer]  # starts a server over the folder `web`, with or without a fault
ROOT = Path(__file__).resolve().parents[2]

# What a fetch process of its own runs: the worker is built and called as the pool does it.
FETCH = """
import json, sys
from pathlib import Path
from tasks.fetch import FetchConfig, Fetcher, FetchJob
from tasks.records import Impossible, Temporary
config, root, job = json.loads(sys.argv[1])
fetcher = Fetcher(FetchConfig.model_validate(config), Path(root))
fetcher.load()
try:
    print(json.dumps(fetcher(FetchJob.model_validate(job))))
except Temporary as error:
    print(json.dumps({"failure": error.failure}))
except Impossible as error:
    print(json.dumps({"reason": error.reason}))
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A second and a half of noise with a tone, a few hundred kilobytes."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    pixels = np.random.default_rng(0)
    frames = [pixels.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(38)]
    tone = 0.3 * np.sin(np.arange(38 * 640) / 20).astype(np.float32)
    media.write_video(path, frames, tone)
    return path.read_bytes()


@pytest.fixture
def web(tmp_path: Path, video: bytes) -> Path:
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(video)
    return folder


@pytest.fixture
def serve(web: Path) -> Iterator[Serve]:
    running: list[LoopbackServer] = []

    def start(fault: Fault | None = None) -> LoopbackServer:
        running.append(LoopbackServer(web, {"a.mp4": fault} if fault else {}).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__(None, None, None)


def _job(server: LoopbackServer, name: str = "a.mp4", **extra: Any) -> FetchJob:
    return FetchJob(job_id="vid", location=server.url(name), source="urls", **extra)


def _fetch(tmp_path: Path, job: FetchJob, config: FetchConfig = QUICK) -> Fetched:
    fetcher = Fetcher(config, tmp_path / "media")
    fetcher.load()
    return Fetched.model_validate(fetcher(job))


def _left(tmp_path: Path) -> list[str]:
    return sorted(path.relative_to(tmp_path / "media/raw").as_posix() for path in (tmp_path / "media/raw").rglob("*"))


def test_a_video_comes_down_whole(tmp_path: Path, web: Path, serve: Serve) -> None:
    server = serve()
    found = _fetch(tmp_path, _job(server))
    assert found.path == "raw/urls/vid.mp4"
    assert found.digest == storage.file_digest(web / "a.mp4") == storage.file_digest(tmp_path / "media" / found.path)
    assert found.num_bytes == (web / "a.mp4").stat().st_size
    assert (found.width_px, found.height_px, found.fps, found.has_sound) == (96, 96, 25, True)
    assert found.duration_s == pytest.approx(1.52, abs=0.01)
    assert found.sound_duration_s == pytest.approx(1.52, abs=0.1)
    assert _left(tmp_path) == ["urls", "urls/vid.json", "urls/vid.mp4"]


def test_what_is_there_is_not_asked_for_again(tmp_path: Path, serve: Serve) -> None:
    server = serve()
    first = _fetch(tmp_path, _job(server))
    asked = len(server.requests)
    assert _fetch(tmp_path, _job(server)) == first
    (tmp_path / "media/raw/urls/vid.json").write_text("{")  # the note is lost, the video is not
    assert _fetch(tmp_path, _job(server)) == first
    assert len(server.requests) == asked
    os.utime(tmp_path / "media" / first.path, ns=(7, 7))  # copied without its time
    assert _fetch(tmp_path, _job(server)) == first.model_copy(update={"mtime_ns": 7})
    assert len(server.requests) == asked


def test_a_file_that_was_damaged_is_fetched_again(tmp_path: Path, serve: Serve) -> None:
    server = serve()
    first = _fetch(tmp_path, _job(server))
    path = tmp_path / "media" / first.path
    again = Fetched.model_fields.keys() - {"mtime_ns"}
    for damaged in (b"no video", path.read_bytes()[:-1], path.read_bytes() + b"x"):  # the latter two open as a video
        path.write_bytes(damaged)
        assert _fetch(tmp_path, _job(server)).model_dump(include=again) == first.model_dump(include=again)
    path.unlink()
    assert _fetch(tmp_path, _job(server)).model_dump(include=again) == first.model_dump(include=again)


def test_a_video_that_changed_at_its_source(tmp_path: Path, web: Path, serve: Serve) -> None:
    server = serve()
    first = _fetch(tmp_path, _job(server))
    media.write_video(web / "a.mp4", [np.zeros((32, 32, 3), np.uint8)] * 5, None)
    (tmp_path / "media" / first.path).unlink()
    second = _fetch(tmp_path, _job(server))
    assert second.digest != first.digest
    assert (second.width_px, second.has_sound, second.sound_duration_s) == (32, False, 0.0)


IMPOSSIBLE: list[tuple[Fault, Reason]] = [
    ("not_found", Reason.GONE),
    ("deleted", Reason.GONE),
    ("html_page", Reason.NOT_MEDIA),
    ("disguised_page", Reason.NOT_MEDIA),
    ("endless_page", Reason.NOT_MEDIA),
    ("endless", Reason.UNDECODABLE),
]


@pytest.mark.parametrize(("fault", "reason"), IMPOSSIBLE)
def test_impossible(tmp_path: Path, serve: Serve, fault: Fault, reason: Reason) -> None:
    server = serve(fault)
    with pytest.raises(Impossible) as caught:
        _fetch(tmp_path, _job(server))
    assert caught.value.reason is reason
    assert str(server.port) not in caught.value.measured
    assert _left(tmp_path) == ["urls"]
    assert len(server.requests) <= 2  # nothing that is impossible is tried again


TEMPORARY: list[tuple[Fault, FailureClass, int]] = [
    ("forbidden", FailureClass.BOT_WALL, 1),  # more requests from an address under suspicion make it worse
    ("throttled", FailureClass.THROTTLED, 3),
    ("unavailable", FailureClass.NETWORK, 3),
    ("always_reset", FailureClass.NETWORK, 3),
    ("silent", FailureClass.NETWORK, 3),
    ("wrong_length", FailureClass.NETWORK, 6),
]


@pytest.mark.parametrize(("fault", "failure", "requests"), TEMPORARY)
def test_temporary(tmp_path: Path, serve: Serve, fault: Fault, failure: FailureClass, requests: int) -> None:
    server = serve(fault)
    with pytest.raises(Temporary) as caught:
        _fetch(tmp_path, _job(server))
    assert caught.value.failure is failure
    assert len(server.requests) == requests
    assert not list((tmp_path / "media").rglob("vid.mp4"))


@pytest.mark.parametrize("fault", ["fail_twice", "breaks_off", "slow"])
def test_patience_is_rewarded(tmp_path: Path, web: Path, serve: Serve, fault: Fault) -> None:
    server = serve(fault)
    assert _fetch(tmp_path, _job(server)).digest == storage.file_digest(web / "a.mp4")
    if fault == "breaks_off":
        assert max(request.first_byte for request in server.requests) > 0  # it went on, it did not begin again


def test_nobody_listens(tmp_path: Path, serve: Serve) -> None:
    server = serve()
    job = _job(server)
    server.__exit__(None, None, None)
    with pytest.raises(Temporary) as caught:
        _fetch(tmp_path, job)
    server.__enter__()
    assert caught.value.failure is FailureClass.NETWORK


def test_waits_grow_and_heed_the_server(tmp_path: Path, serve: Serve) -> None:
    config = QUICK.model_copy(update={"retries": 1, "max_wait_s": 0.6})
    server = serve("throttled")  # asks for a second; the limit of 0.6 s holds
    start = time.monotonic()
    with pytest.raises(Temporary):
        _fetch(tmp_path, _job(server), config)
    assert 0.6 <= time.monotonic() - start < 4


def test_a_polite_worker_waits_before_it_asks(tmp_path: Path, serve: Serve) -> None:
    start = time.monotonic()
    _fetch(tmp_path, _job(serve()), QUICK.model_copy(update={"pause_s": 1.0}))
    assert time.monotonic() - start >= 0.5  # varied by half


@pytest.mark.parametrize(
    ("kept", "reason"),
    [("no moov", Reason.UNDECODABLE), ("empty", None), ("text", Reason.NOT_MEDIA), ("sound", Reason.NOT_MEDIA)],
)
def test_files_that_are_no_videos(
    tmp_path: Path, web: Path, video: bytes, serve: Serve, kept: str, reason: Reason | None
) -> None:
    if kept == "sound":
        media.write_wav(tmp_path / "tone.wav", np.zeros(16000, np.float32))
    moov, mdat = video.find(b"moov") - 4, video.find(b"mdat") - 4
    index_first = video[:moov] + video[mdat:] if moov < mdat else video[:moov]
    data = {
        "no moov": index_first,
        "empty": b"",
        "text": b"just a text file\n" * 100,
        "sound": (tmp_path / "tone.wav").read_bytes() if kept == "sound" else b"",
    }
    (web / "a.mp4").write_bytes(data[kept])
    with pytest.raises((Impossible, Temporary)) as caught:
        _fetch(tmp_path, _job(serve()))
    if reason is not None:
        assert isinstance(caught.value, Impossible)
        assert caught.value.reason is reason


def test_a_page_with_one_video_is_that_video(tmp_path: Path, web: Path, serve: Serve) -> None:
    page = "<!DOCTYPE html><html><title>Talk</title><body><video src='/a.mp4'></video>{}</body></html>"
    (web / "one.html").write_text(page.format(""))
    (web / "two.html").write_text(page.format("<video src='/b.mp4'></video>"))
    (web / "b.mp4").write_bytes(b"")
    server = serve()
    assert _fetch(tmp_path, _job(server, "one.html")).digest == storage.file_digest(web / "a.mp4")
    (tmp_path / "media/raw/urls/vid.mp4").unlink()
    with pytest.raises(Impossible) as caught:
        _fetch(tmp_path, _job(server, "two.html"))
    assert caught.value.reason is Reason.BAD_LISTING


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "javascript:alert(1)", "ftp://h/a", "-rf", "ytsearch:a", ""]
)
def test_only_the_web_is_fetched(tmp_path: Path, location: str) -> None:
    with pytest.raises(Impossible) as caught:
        _fetch(tmp_path, FetchJob(job_id="vid", location=location, source="urls"))
    assert caught.value.reason is Reason.BAD_LISTING


MANIFEST = """<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" mediaPresentationDuration="PT1.5S" type="static"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="v" bandwidth="9" width="64" height="64" codecs="avc1.640028">
<BaseURL>silent.mp4</BaseURL></Representation></AdaptationSet>
<AdaptationSet mimeType="audio/mp4"><Representation id="s" bandwidth="9" codecs="mp4a.40.2">
<BaseURL>a.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"""


def test_pictures_and_sound_apart_are_merged(tmp_path: Path, web: Path, serve: Serve) -> None:
    media.write_video(web / "silent.mp4", [np.full((64, 64, 3), shade, np.uint8) for shade in range(38)], None)
    (web / "talk.mpd").write_text(MANIFEST)
    found = _fetch(tmp_path, _job(serve(), "talk.mpd"))
    assert (found.width_px, found.has_sound) == (64, True)
    assert found.sound_duration_s == pytest.approx(1.52, abs=0.1)


def test_a_video_with_its_end_missing_is_no_success(tmp_path: Path, web: Path, serve: Serve) -> None:
    server = serve()
    said = {"@context": "https://schema.org", "@type": "VideoObject", "name": "a talk", "duration": "PT60S"}
    said["contentUrl"] = server.url("a.mp4")
    page = f"<!DOCTYPE html><html><script type='application/ld+json'>{json.dumps(said)}</script></html>"
    (web / "talk.html").write_text(page)
    with pytest.raises(Temporary, match="60 s announced") as caught:
        _fetch(tmp_path, _job(server, "talk.html"), QUICK.model_copy(update={"retries": 0}))
    assert caught.value.failure is FailureClass.NETWORK


@pytest.mark.parametrize("target", ["/etc/passwd", "segment.ts"])
def test_playlists_open_no_local_file(tmp_path: Path, web: Path, serve: Serve, target: str) -> None:
    """Sample-AES sends yt-dlp to ffmpeg, which would open what the playlist names."""
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:5", '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="key.bin"', "#EXTINF:5,"]
    (web / "list.m3u8").write_text("\n".join([*lines, f"file://{target}", "#EXT-X-ENDLIST", ""]))
    (web / "key.bin").write_bytes(b"k" * 16)
    with pytest.raises(Impossible, match="only ffmpeg") as caught:
        _fetch(tmp_path, _job(serve(), "list.m3u8"))
    assert caught.value.reason is Reason.NOT_MEDIA
    assert not list((tmp_path / "media").rglob("vid.*4"))


# ------------------------------------------------------------------------------------------------ kills, disks, homes


def _start(tmp_path: Path, job: FetchJob, **environment: str) -> "subprocess.Popen[str]":
    arguments = json.dumps([QUICK.model_dump(mode="json"), str(tmp_path / "media"), job.model_dump(mode="json")])
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors == ""  # nothing but the answer is written to the terminal
    return dict(json.loads(output))


@pytest.mark.parametrize(("point", "requests"), [("download.before_rename", 1), ("download.after_rename", 0)])
def test_killed_at_the_end(tmp_path: Path, web: Path, serve: Serve, point: str, requests: int) -> None:
    server = serve()
    killed = _start(tmp_path, _job(server), DUALFORCE_KILL_AT=point)
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    asked = len(server.requests)
    found = _fetch(tmp_path, _job(server))
    assert found.digest == storage.file_digest(web / "a.mp4")
    assert len(server.requests) - asked == requests  # the bytes are here already
    assert _left(tmp_path) == ["urls", "urls/vid.json", "urls/vid.mp4"]


def test_killed_in_the_middle_and_continued(tmp_path: Path, web: Path, serve: Serve) -> None:
    (web / "a.mp4").write_bytes((web / "a.mp4").read_bytes() + b"\0\0\0\x08free" * 200_000)  # 1.6 MB more, 6 s
    server = serve("slow")
    process = _start(tmp_path, _job(server))
    part = tmp_path / "media/raw/urls/vid.partial/media.mp4.part"
    while not (part.is_file() and part.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    server.faults.clear()
    assert _fetch(tmp_path, _job(server)).digest == storage.file_digest(web / "a.mp4")
    assert max(request.first_byte for request in server.requests) > 100_000


def test_a_part_of_another_url_is_not_continued(tmp_path: Path, web: Path, serve: Serve) -> None:
    server = serve()
    partial = tmp_path / "media/raw/urls/vid.partial"
    partial.mkdir(parents=True)
    (partial / "media.mp4.part").write_bytes(b"x" * 1000)
    (partial / "location.txt").write_text("http://elsewhere/b.mp4")
    assert _fetch(tmp_path, _job(server)).digest == storage.file_digest(web / "a.mp4")


def test_a_part_that_does_not_fit_is_thrown_away(tmp_path: Path, web: Path, serve: Serve) -> None:
    """The file changed at its source between two attempts: what is glued together is no video."""
    server = serve()
    partial = tmp_path / "media/raw/urls/vid.partial"
    partial.mkdir(parents=True)
    (partial / "media.mp4.part").write_bytes(b"x" * 5000)
    (partial / "location.txt").write_text(server.url("a.mp4"))
    assert _fetch(tmp_path, _job(server)).digest == storage.file_digest(web / "a.mp4")


def test_a_full_disk(tmp_path: Path, serve: Serve) -> None:
    """A limit on file size is what a process can be given of a full disk without being root."""
    server = serve()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        process = _start(tmp_path, _job(server))
        answer = _answer(process)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert answer == {"failure": "disk"}
    assert _answer(_start(tmp_path, _job(server)))["path"] == "raw/urls/vid.mp4"  # there is room again


def test_the_users_home_is_neither_read_nor_written(tmp_path: Path, serve: Serve) -> None:
    home = tmp_path / "home"
    trap = tmp_path / "sprung"
    plugin = home / ".config/yt-dlp/plugins/evil/yt_dlp_plugins/extractor/evil.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(f"open({str(trap)!r}, 'w').close()\n")
    (home / ".config/yt-dlp/config").write_text(f"--exec 'touch {trap}'\n--skip-download\n")
    (home / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    before = sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*"))
    kept = {name: str(home) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    kept["XDG_CONFIG_HOME"] = str(home / ".config")
    assert _answer(_start(tmp_path, _job(serve()), **kept))["path"] == "raw/urls/vid.mp4"
    assert sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*")) == before
    assert not trap.exists()


def test_cookies_are_used_and_left_alone(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tname\tsecret\n")
    before = cookies.read_bytes()
    monkeypatch.setenv("DUALFORCE_COOKIES", str(cookies))
    config = QUICK.model_copy(update={"cookies_env": "DUALFORCE_COOKIES"})
    _fetch(tmp_path, _job(serve()), config)
    assert cookies.read_bytes() == before
    assert "secret" not in config.model_dump_json()
    monkeypatch.delenv("DUALFORCE_COOKIES")
    with pytest.raises(InputError, match="DUALFORCE_COOKIES"):
        _fetch(tmp_path, _job(serve()), config)


def test_no_thread_is_left(tmp_path: Path, web: Path) -> None:
    before = set(threading.enumerate())
    with LoopbackServer(web) as server:
        _fetch(tmp_path, _job(server))
    assert set(threading.enumerate()) == before
