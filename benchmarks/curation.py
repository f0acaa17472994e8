"""What curating a clip costs over ffmpeg's decoding, scaling and encoding of it, where the time goes, what workers add.

    python -m benchmarks.curation [--videos FOLDER]

Allowed are 1.5 times ffmpeg's seconds and the detector's own on the frames it looks at. All are seconds of the CPU, so
that neighbours matter less, on one thread. Both write the same number of frames at the same size, with the same encoder
settings, and the sound. Throughput is by the clock: several jobs through the real pool, with 1 to N workers.
Without a folder of videos clips of four sizes are made. Without ffmpeg's program PyAV does its work, and is named.
"""

import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import av
import click
import cv2
import imageio_ffmpeg
import numpy as np
from pydantic import Field
from skimage import data

from benchmarks.measure import Verdict, conclude
from dualforce_model import clock, media, storage
from dualforce_model.config import Frozen
from dualforce_model.media import picture as decoded
from dualforce_model.media.writing import SOUND_BIT_RATE, X264_PARAMS
from dualforce_model.stamp import Stamp
from tasks import curation, footage, quality, scores
from tasks.curation import CurateConfig, CurateJob, Curator
from tasks.pool import Job, PoolConfig, WorkerSpec, make_pool
from tasks.records import Span
from tasks.tables import table

ROOT = Path(__file__).resolve().parents[1]
VIDEOS = ROOT.parent / "shared" / "realdata" / "video"
REAL = {  # what each stands for, and where it is in the folder of videos
    "512x512": "SadTalker/WDA_AlexandriaOcasioCortez_000.mp4",
    "512x512, 29.97 fps": "TalkVid/AOC/gt.mp4",
    "844x844": "video-retalking/2.mp4",
    "1280x720, 29.97 fps": "smirk/dafoe.mp4",
    "1920x1080": "ditto-train/Clip+uWZRSkqJ--g+P0+C2+F8754-8865.mp4",
    "1080x1920, HEVC": "LatentSync/demo1_video.mp4",
}
MADE = {"512x512": (512, 512), "1280x720": (1280, 720), "1920x1080": (1920, 1080), "720x1280": (720, 1280)}
ALLOWED = 1.5  # of ffmpeg's seconds, beside the detector's
PRESET = "veryfast"
# Every part with where its function is looked up. What one calls of another is counted there alone.
PARTS: tuple[tuple[str, object, str], ...] = (
    ("decode", Curator, "_watch"),
    ("convert", decoded.Picture, "rgb"),
    ("glance", quality, "glance"),
    ("hold", footage.HeldFrames, "add"),
    ("crop", footage.HeldFrames, "crops"),
    ("encode", media, "write_video"),
    ("lips", scores, "mouth_opening"),
    ("scores", curation, "scores_of_clip"),
    ("preview", curation, "cut_preview"),
    ("preview", curation, "write_preview"),
    ("sound", media, "read_sound"),
    ("digest", storage, "file_digest"),
)
SHOWN = (*dict.fromkeys(part for part, _, _ in PARTS), "detect", "rest")


class Line(Frozen):
    """One clip."""

    clip: str
    frames: int = Field(description="of the crop")
    reference_s: float = Field(description="ffmpeg: decode, crop, scale, encode, sound")
    detector_s: float = Field(description="looks for faces")
    ours_s: float = Field(description="all of curating the clip")
    ratio: float = Field(description="ours over ffmpeg's, in the same round; median")
    share: float = Field(description="ours over what is allowed, in the same round; median")
    parts: dict[str, float] = Field(description="shares of our time")


class Throughput(Frozen):
    """All jobs through the pool."""

    workers: int
    jobs: int
    over_one: float = Field(description="clips per second over those of one worker, in the same round; median")


class Report(Frozen):
    """The outcome, and where it was had."""

    machine: str
    cores: int
    reference: str
    rounds: int
    date: str
    rows: tuple[Line, ...]
    throughput: tuple[Throughput, ...]

    def text(self) -> str:
        """For people."""
        head = ("clip", "frames", "ffmpeg s", "detector s", "ours s", "ours / ffmpeg", "of the allowed")
        cells = [
            (
                *(row.clip, str(row.frames)),
                *(f"{seconds:.2f}" for seconds in (row.reference_s, row.detector_s, row.ours_s)),
                *(f"{row.ratio:.2f}", f"{row.share:.2f}"),
            )
            for row in self.rows
        ]
        shares = [(row.clip, *(f"{row.parts.get(part, 0.0):.1%}" for part in SHOWN)) for row in self.rows]
        speed = [(str(row.workers), str(row.jobs), f"{row.over_one:.2f}") for row in self.throughput]
        where = f"curation: {self.machine}, {self.cores} cores, {self.rounds} rounds, {self.date}, {self.reference}"
        return "\n\n".join(
            (
                where,
                table(head, cells),
                table(("clip", *SHOWN), shares),
                table(("workers", "jobs", "clips/s over one worker"), speed),
            )
        )


def verdict(rows: tuple[Line, ...]) -> Verdict:
    """The worst clip against what is allowed."""
    worst = max(rows, key=lambda row: row.share)
    passed = worst.share <= 1.0
    said = f"{worst.clip} takes {worst.share:.2f} of {ALLOWED:g} x ffmpeg and the detector"
    return Verdict(passed, f"{'OK' if passed else 'PROBLEM'}: at worst {said}; 1 is allowed")


# --------------------------------------------------------------------------------------------------------------- clips


def found_clips(videos: Path, folder: Path, seconds: float) -> dict[str, Path]:
    """Real clips where they are, others made in `folder`."""
    real = {name: videos / place for name, place in REAL.items() if (videos / place).is_file()}
    if real:
        return real
    return {name: make_clip(folder / f"{name}.mp4", size, seconds) for name, size in MADE.items()}


def make_clip(path: Path, size: tuple[int, int], seconds: float) -> Path:
    """A face that sways before a textured wall, and noise to hear."""
    width, height = size
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(60, 200, (height // 8, width // 8, 3), np.uint8), size)
    side = int(0.9 * min(size))
    person = cv2.resize(np.ascontiguousarray(data.astronaut()[:400, 50:450]), (side, side))
    count = round(seconds * clock.FPS)

    def frames() -> Iterator[np.ndarray]:
        for index in range(count):
            shift = round(0.02 * side * np.sin(index / 9))
            left, top = (width - side) // 2 + shift, (height - side) // 2
            frame = wall.copy()
            frame[top : top + side, left : left + side] = person
            yield frame

    sound = rng.normal(0, 0.1, clock.num_samples(count)).astype(np.float32)
    media.write_video(path, frames(), sound, clock.FPS)
    return path


def job_of(clip: Path, seconds: float, target: str) -> CurateJob:
    end_s = min(seconds, media.probe(clip).duration_s)
    return CurateJob(
        job_id=target.removesuffix(".mp4"),
        source_path=str(clip.resolve()),
        source_digest=storage.file_digest(clip),
        source_stamp=Stamp.of(clip),
        span=Span(start_s=0.0, end_s=end_s),
        key="benchmark",
        target=target,
    )


# ----------------------------------------------------------------------------------------------------------- reference


def ffmpeg_program() -> str | None:
    """The program that comes with imageio-ffmpeg, or none."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return None


def filters(clip: Path, box: tuple[int, int, int, int], size_px: int) -> str:
    """What ours does to a picture, in ffmpeg's words: the part of the square that is in the picture."""
    found = media.probe(clip)
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], found.width_px), min(box[3], found.height_px)
    crop = f"crop={right - left}:{bottom - top}:{left}:{top}"
    return f"fps={clock.FPS},{crop},scale={size_px}:{size_px},format=yuv420p"


def by_program(program: str, clip: Path, end_s: float, steps: str, crf: int, target: Path) -> None:
    """Decode, crop, scale, encode, with the sound: one thread each."""
    one = ("-threads", "1")
    picture = ("-c:v", "libx264", "-preset", PRESET, "-crf", str(crf), "-x264-params", X264_PARAMS, *one)
    sound = ("-c:a", "aac", "-ac", "1", "-ar", str(clock.SAMPLE_RATE_HZ), "-b:a", str(SOUND_BIT_RATE))
    command = [program, "-y", "-loglevel", "error", *one, "-filter_threads", "1", "-i", str(clip), "-t", str(end_s)]
    subprocess.run([*command, "-vf", steps, *picture, *sound, str(target)], check=True, stdin=subprocess.DEVNULL)


def by_library(clip: Path, end_s: float, steps: str, crf: int, target: Path) -> None:
    """The same pictures through PyAV, with no sound: for machines without the program."""
    with av.open(str(clip)) as source, av.open(str(target), "w", format="mp4") as container:
        stream = source.streams.video[0]
        stream.codec_context.thread_count = 1
        options = {"crf": str(crf), "preset": PRESET, "x264-params": X264_PARAMS}
        written: Any = container.add_stream("libx264", rate=clock.FPS, options=options)
        chain: Any = None
        for frame in source.decode(stream):
            if frame.time is not None and frame.time >= end_s:
                break
            chain = chain or decoded.graph(frame, [step.split("=", 1) for step in steps.split(",")])
            chain.push(frame)
            _encode(chain, container, written)
        chain.push(None)
        _encode(chain, container, written)
        container.mux(written.encode(None))


def _encode(chain: Any, container: Any, stream: Any) -> None:
    while True:
        try:
            frame = chain.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        if not stream.codec_context.is_open:
            stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
        container.mux(stream.encode(frame))


# ------------------------------------------------------------------------------------------------------------- seconds


class Parts:
    """Seconds of every part, without those of the parts that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its seconds told."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.process_time() - started
                self.seconds[part] += taken - self._inner.pop()
                self._inner[-1] += taken

        return timed

    @contextmanager
    def listening(self, curator: Curator) -> Iterator[None]:
        """All parts of curating tell their seconds within the block."""
        with ExitStack() as stack:
            for part, place, name in PARTS:
                stack.enter_context(mock.patch.object(place, name, self.around(part, getattr(place, name))))
            stack.enter_context(mock.patch.object(curator, "detector", self.around("detect", curator.detector)))  # type: ignore[arg-type]
            yield


def spent(run: Callable[[], Any]) -> float:
    """Seconds of the CPU that this process and its children take for it."""

    def total() -> float:
        used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(each.ru_utime + each.ru_stime for each in used)

    before = total()
    run()
    return total() - before


def measure_clip(name: str, clip: Path, folder: Path, rounds: int, seconds: float) -> Line:
    """One clip, ours and ffmpeg's in turns."""
    config = CurateConfig()
    curator = Curator(config, folder)
    curator.load()
    job = job_of(clip, seconds, "ours.mp4")
    first = curator(job)  # also warms all that is warmed once
    steps = filters(clip, first["box"], config.crop_px)
    program, target, end_s = ffmpeg_program(), folder / "theirs.mp4", float(job.span.end_s or seconds)

    def reference() -> None:
        if program is None:
            by_library(clip, end_s, steps, config.crf, target)
        else:
            by_program(program, clip, end_s, steps, config.crf, target)

    taken: list[tuple[float, float, float]] = []
    parts = Parts()
    for _ in range(rounds):
        before = parts.seconds["detect"]
        theirs = spent(reference)
        with parts.listening(curator):
            ours = spent(lambda: curator(job))
        taken.append((theirs, parts.seconds["detect"] - before, ours))
        click.echo(f"{name}: ffmpeg {theirs:.2f} s, ours {ours:.2f} s", err=True)
    whole = sum(ours for _, _, ours in taken)
    shares = {part: took / whole for part, took in parts.seconds.items()}
    return Line(
        clip=name,
        frames=first["num_frames"],
        reference_s=statistics.median(theirs for theirs, _, _ in taken),
        detector_s=statistics.median(detector for _, detector, _ in taken),
        ours_s=statistics.median(ours for _, _, ours in taken),
        ratio=statistics.median(ours / theirs for theirs, _, ours in taken),
        share=statistics.median(ours / (ALLOWED * theirs + detector) for theirs, detector, ours in taken),
        parts={**shares, "rest": max(1.0 - sum(shares.values()), 0.0)},
    )


def measure_pool(clips: list[Path], folder: Path, rounds: int, seconds: float, most: int) -> tuple[Throughput, ...]:
    """Clips per second with 1 to `most` workers over one worker's; each pool is warm before its clock starts."""
    spec = WorkerSpec(target="tasks.curation:Curator", kwargs={"config": {}, "media_root": str(folder)})
    count = max(2 * most, len(clips))
    jobs = [
        Job(
            job_id=f"{index}",
            payload=job_of(clips[index % len(clips)], seconds, f"{index}.mp4").model_dump(mode="json"),
        )
        for index in range(count)
    ]
    times: dict[int, list[float]] = {workers: [] for workers in range(1, most + 1)}
    for _ in range(rounds):
        for workers in times:
            with make_pool(PoolConfig(engine="local", workers=workers)) as pool:
                _finish(pool.run(spec, jobs[:workers]))
                started = time.perf_counter()
                _finish(pool.run(spec, jobs))
                times[workers].append(time.perf_counter() - started)
            click.echo(f"{workers} workers: {count} clips in {times[workers][-1]:.1f} s", err=True)
    return tuple(
        Throughput(
            workers=workers,
            jobs=count,
            over_one=statistics.median(one / mine for one, mine in zip(times[1], taken, strict=True)),
        )
        for workers, taken in times.items()
    )


def _finish(attempts: Iterator[Any]) -> None:
    if lost := [attempt for attempt in attempts if attempt.value is None]:
        raise RuntimeError(f"clips were not curated: {lost}")


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="turns; medians are told")
@click.option("--seconds", type=click.FloatRange(1.0, 10.0), default=8.0, show_default=True, help="of each clip")
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True, help="most workers")
@click.option("--videos", type=click.Path(path_type=Path), default=VIDEOS, help="folder with the real clips")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write")
def main(rounds: int, seconds: float, workers: int, videos: Path, out: Path | None) -> None:
    """Curating a clip against ffmpeg's decoding, scaling and encoding of it."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        clips = found_clips(videos, folder, seconds)
        rows = tuple(measure_clip(name, clip, folder, rounds, seconds) for name, clip in clips.items())
        throughput = measure_pool(list(clips.values()), folder, rounds, seconds, workers)
    program = ffmpeg_program()
    report = Report(
        machine=f"{platform.machine()} CPU",
        cores=os.cpu_count() or 1,
        reference="PyAV, pictures alone" if program is None else Path(program).name,
        rounds=rounds,
        date=datetime.now(UTC).date().isoformat(),
        rows=rows,
        throughput=throughput,
    )
    conclude(report, out, verdict(rows))


if __name__ == "__main__":
    main()
