"""Files made to hurt whoever opens them: each is refused for what it is, in little time and memory, harming no other.

All are built here and small on the disk. They are opened in a process of its own whose memory and time are limited, so
that what a file costs can be told; then by the workers of a pool, beside a good clip.
"""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dualforce_model import media, storage
from dualforce_model.media import MediaError
from tasks.curation import CurateConfig, CurateJob
from tasks.pool import Job, PoolConfig, WorkerSpec, make_pool
from tasks.records import Attempt, FailureClass, Reason, Span

MEGABYTE = 2**20
MOST_MB = 700  # by which one file may raise the memory of who reads it
MOST_MB_AT_LIMIT = 2000  # and one whose pictures, of 256 MB each, are just within the limit, however many they are
CPU_S = 240
ADDRESS_BYTES = 4 * 2**30
PER_SECOND = Fraction(1, 1000)

# Opens one file in every way and tells the kind of the error, or how much there was, and the memory's growth in MB.
READER = """
import json, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]),) * 2)
from dualforce_model import media
path, told = Path(sys.argv[1]), {}
ways = {
    "probe": lambda: media.probe(path).num_frames,
    "span": lambda: sum(1 for _ in media.read_frames(path, 0.0, 3.0)),
    "frames": lambda: sum(1 for _ in media.read_frames(path)),
    "sound": lambda: len(media.read_sound(path, 0.0, 3.0)),
    "image": lambda: media.read_image(path).size,
}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, read in ways.items():
    try:
        told[name] = read()
    except media.MediaError as error:
        assert path.name in str(error), str(error)
        told[name] = error.kind
told["mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(json.dumps(told))
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, extra: bytes = b"") -> bytes:
    """A black RGB picture."""
    packer, row = zlib.compressobj(9), bytes(1 + 3 * side)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def gif(side: int, pictures: int, hundredths: int) -> bytes:
    """A GIF that repeats for ever, of pictures that change one pixel each."""
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    endless = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    delay = b"\x21\xf9\x04\0" + struct.pack("<H", hundredths) + b"\0\0"
    dot = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + endless + (delay + dot) * pictures + b"\x3b"


def movie(path: Path, pictures: list[tuple[int, bytes]], aspect: int = 1) -> None:
    """A QuickTime file of PNG pictures with their times in ms; the file says 64 x 64, whatever they are."""
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("png", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb24"
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        stream.time_base = PER_SECOND
        for instant, data in pictures:
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, instant, instant, PER_SECOND
            packet.is_keyframe = True
            container.mux(packet)


def clip_of(path: Path) -> None:
    """Five seconds of noise with sound: nothing wrong with it."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(125)]
    media.write_video(path, frames, rng.normal(0, 0.1, 80_000).astype(np.float32))


def cut_clip(path: Path) -> None:
    clip_of(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def standing_sound(path: Path) -> None:
    """An hour and a half of silence, all of it stamped to the first instant."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libmp3lame", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * 60), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        for packet in [found for _ in range(90) for found in stream.encode(silence)] + stream.encode(None):
            packet.pts = packet.dts = 0
            container.mux(packet)


def write(data: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data()) and None


# Name -> how it is built, and the kind of error of a probe and of reading all frames ("" where it can be read).
HOSTILE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "zero_bytes.mp4": (Path.touch, "not_media", "not_media"),
    "page.mp4": (write(lambda: b"<!doctype html><html>Please log in</html>"), "not_media", "not_media"),
    "archive.mp4": (write(lambda: b"PK\3\4" + bytes(5000)), "not_media", "not_media"),
    "picture.mp4": (write(lambda: png(64)), "not_media", "not_media"),
    "truncated.mp4": (cut_clip, "", "undecodable"),
    "only_a_header.mp4": (write(lambda: struct.pack(">I", 24) + b"ftypisom" + bytes(12)), "undecodable", "undecodable"),
    "huge_canvas.gif": (write(lambda: gif(16_000, 3, 4)), "over_limit", "over_limit"),
    "largest_canvas.gif": (write(lambda: gif(65_535, 3, 4)), "undecodable", "undecodable"),
    "large_canvas.gif": (write(lambda: gif(8_000, 12, 4)), "", ""),
    "for_days.gif": (write(lambda: gif(64, 100, 65_535)), "over_limit", "over_limit"),
    "endless.gif": (write(lambda: gif(64, 75, 4)), "", ""),
    "day_at_1_fps.mov": (
        lambda path: movie(path, [(1000 * i, png(8)) for i in range(86_400)]),
        "over_limit",
        "over_limit",
    ),
    "says_64_is_16384.mov": (
        lambda path: movie(path, list(enumerate([png(16_384)] * 8))),
        "undecodable",
        "undecodable",
    ),
    "standing_still.mov": (lambda path: movie(path, [(0, png(64))] * 5000), "", "over_limit"),
    "wide_pixels.mov": (lambda path: movie(path, [(0, png(4096))] * 2, aspect=4), "over_limit", "over_limit"),
    "standing_sound.mkv": (standing_sound, "no_video", "no_video"),
    "bomb.png": (write(lambda: png(16_384)), "not_media", "not_media"),
}
# Name -> the kind of error of `read_image`.
PICTURES = {
    "bomb.png": "over_limit",
    "zero_bytes.mp4": "not_media",
    "endless.gif": "not_media",
    "archive.mp4": "not_media",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every hostile file, and good.mp4."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (build, _, _) in HOSTILE.items():
        build(folder / name)
        assert (folder / name).stat().st_size < 12 * MEGABYTE, f"{name} is to be small"
    clip_of(folder / "good.mp4")
    return folder


def read_in_child(path: Path) -> dict[str, str | int]:
    command = [sys.executable, "-c", READER, str(path), str(ADDRESS_BYTES), str(CPU_S)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * CPU_S)
    assert done.returncode == 0, f"{path.name} broke who read it: {done.stderr[-2000:]}"
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_for_what_it_is_and_costs_little(corpus: Path, name: str) -> None:
    _, probed, read = HOSTILE[name]
    told = read_in_child(corpus / name)
    assert probed == (told["probe"] if isinstance(told["probe"], str) else "")
    assert read == (told["frames"] if isinstance(told["frames"], str) else "")
    assert int(told["mb"]) < (MOST_MB_AT_LIMIT if name == "large_canvas.gif" else MOST_MB)
    if name in PICTURES:
        assert told["image"] == PICTURES[name]


def test_a_gif_that_repeats_for_ever_is_read_once(corpus: Path) -> None:
    assert read_in_child(corpus / "endless.gif")["frames"] == 75


def test_sound_that_stands_still_is_over_the_limit(corpus: Path) -> None:
    assert read_in_child(corpus / "standing_sound.mkv")["sound"] == "over_limit"


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_picture_whose_text_unpacks_without_end_is_broken(tmp_path: Path, kind: bytes) -> None:
    head = b"name\0\1\0\0\0" if kind == b"iTXt" else b"name\0\0"
    path = tmp_path / "text.png"
    path.write_bytes(png(8, chunk(kind, head + zlib.compress(bytes(50 * MEGABYTE)))))
    with pytest.raises(MediaError, match="too large") as caught:
        media.read_image(path)
    assert caught.value.kind == "undecodable"


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "circle.mp4").symlink_to(tmp_path / "circle.mp4")
    (tmp_path / "zeros.mp4").symlink_to("/dev/zero")
    for path in sorted(tmp_path.iterdir()):
        for read in (media.probe, media.read_sound, media.read_image):
            with pytest.raises(FileNotFoundError):
                read(path)


def test_no_hostile_file_harms_the_other_clips_of_a_pool(corpus: Path) -> None:
    """Every one ends with its own reason; the good ones, first, last and between, are done by the same workers."""
    names = [item for name in HOSTILE for item in (name, "good.mp4")]
    (corpus / "link.mp4").symlink_to(corpus / "gone.mp4")
    jobs = [curate_job(corpus, name, f"c{index}") for index, name in enumerate([*names, "link.mp4"])]
    config = CurateConfig(mode="general", crop_px=64)
    spec = WorkerSpec(target="tasks.curation:Curator", kwargs={"config": config, "media_root": corpus})
    with make_pool(PoolConfig(engine="local", workers=2)) as pool:
        found = {attempt.job_id: attempt for attempt in pool.run(spec, jobs)}
    (corpus / "link.mp4").unlink()
    assert len(found) == len(jobs)
    ended = {str(job.payload.source_path): outcome(found[job.job_id]) for job in jobs}  # type: ignore[union-attr]
    assert {outcome(found[job.job_id]) for job in jobs if job.payload.source_path == "good.mp4"} == {"done"}  # type: ignore[union-attr]
    assert ended == {
        "zero_bytes.mp4": Reason.NOT_MEDIA,
        "page.mp4": Reason.NOT_MEDIA,
        "archive.mp4": Reason.NOT_MEDIA,
        "picture.mp4": Reason.NOT_MEDIA,
        "truncated.mp4": Reason.UNDECODABLE,
        "only_a_header.mp4": Reason.UNDECODABLE,
        "huge_canvas.gif": Reason.UNDECODABLE,
        "largest_canvas.gif": Reason.UNDECODABLE,
        "large_canvas.gif": "done",
        "for_days.gif": Reason.UNDECODABLE,
        "endless.gif": "done",
        "day_at_1_fps.mov": Reason.UNDECODABLE,
        "says_64_is_16384.mov": Reason.UNDECODABLE,
        "standing_still.mov": Reason.UNDECODABLE,
        "wide_pixels.mov": Reason.UNDECODABLE,
        "standing_sound.mkv": Reason.NOT_MEDIA,
        "bomb.png": Reason.NOT_MEDIA,
        "link.mp4": FailureClass.DISK,
        "good.mp4": "done",
    }


def curate_job(corpus: Path, name: str, job_id: str) -> Job:
    path = corpus / name
    payload = CurateJob(
        job_id=job_id,
        source_path=name,
        source_digest=storage.file_digest(path) if path.is_file() else "0" * 64,
        span=Span(start_s=0.0, end_s=3.0),
        key=job_id,
        target=f"crops/{job_id}.mp4",
    )
    return Job(job_id, payload)


def outcome(attempt: Attempt) -> str:
    if attempt.value is not None:
        return "done"
    said = attempt.impossible or attempt.failure
    assert said is not None
    return said[0]
