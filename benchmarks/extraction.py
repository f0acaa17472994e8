"""Extracting clips with an encoder of realistic cost: our stage against a plain loop in one process.

    python -m benchmarks.extraction                     # 12 clips of 4 s, 1 s of encoding for each, 3 rounds
    python -m benchmarks.extraction --engine ray --workers 2 --encode-s 2

The plain loop decodes a clip, calls the same extractors, writes one file, and goes on to the next: no ledger, no
deadlines, no keys, nothing that survives a kill. Ours is the whole stage: Prefect's flow and task, the engine, the
ledger, parts, shards. Workers are warm before their clock starts; all ways take turns. `beyond` is what the stage takes
of the CPU (driver, workers and Prefect's server) besides encoding, less what the plain loop takes besides it, over
the seconds of encoding; at most 5 % is allowed. `clips/s` is over the plain loop's of the same round; one worker must
reach it.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
import numpy as np
import psutil
import torch
from pydantic import Field
from safetensors.numpy import save_file

from benchmarks.convolving import ConvolvingWorker
from benchmarks.measure import Verdict, conclude
from dualforce_model import clock, media, storage
from dualforce_model.config import Frozen
from dualforce_model.encoders import Modality
from flows.server import PrefectServer, enter_home, prefect_server
from tasks.extract import ExtractConfig, ExtractJob, wanted_features
from tasks.extracting import ExtractWork
from tasks.extractors import CropMedia
from tasks.ledger import Ledger, Row
from tasks.place import Place
from tasks.policy import Policy
from tasks.pool import Job, PoolConfig, WorkerSpec
from tasks.records import Clip, Stage
from tasks.shared_pool import shared_pool
from tasks.tables import table

ALLOWED_BEYOND = 0.05
CROP_PX = 256
DATASET = "bench"

Repeats = dict[Modality, int]  # convolutions beside each extractor


class Setting(NamedTuple):
    """What clips there are, and how they are extracted."""

    engine: Literal["local", "ray"]
    workers: int
    clips: int
    seconds: float
    encode_s: float
    rounds: int


class Line(Frozen):
    """One way of extracting the same clips; medians over the rounds."""

    way: str
    wall_s: float
    clips_per_s: float = Field(description="over the plain loop's in the same round")
    encode_s: float = Field(description="seconds of the CPU in extractors")
    other_s: float = Field(description="all other seconds of the CPU: decoding, writing, orchestration")
    server_s: float = Field(description="seconds of the CPU of Prefect's server, which runs whether it is used or not")
    beyond: float = Field(
        description="other seconds and the server's, less the plain loop's other seconds, over those in extractors"
    )


class Report(Frozen):
    """The outcome, and where it was had."""

    machine: str
    cores: int
    engine: str
    clips: int
    frames: int
    rounds: int
    date: str
    rows: tuple[Line, ...]

    def text(self) -> str:
        """For people."""
        head = ("way", "wall s", "clips/s", "encode s", "other s", "server s", "beyond")
        cells = [
            (
                row.way,
                f"{row.wall_s:.1f}",
                f"{row.clips_per_s:.2f}",
                f"{row.encode_s:.1f}",
                f"{row.other_s:.2f}",
                f"{row.server_s:.2f}",
                f"{row.beyond:.1%}",
            )
            for row in self.rows
        ]
        what = f"{self.clips} clips of {self.frames} frames at {CROP_PX} px, engine {self.engine}"
        where = f"{self.machine}, {self.cores} cores, {self.rounds} rounds, {self.date}"
        return f"extraction: {what}; {where}\n\n{table(head, cells)}"


def verdict(rows: tuple[Line, ...]) -> Verdict:
    """Whether one worker keeps up with the plain loop, and what it takes beyond that."""
    one = next(row for row in rows if row.way == "1 worker")
    fast, lean = one.clips_per_s >= 1.0, one.beyond <= ALLOWED_BEYOND
    said = f"1 worker makes {one.clips_per_s:.2f} times the plain loop's clips/s, 1 asked; "
    said += f"orchestration takes {one.beyond:.1%} of the encoders' time, {ALLOWED_BEYOND:.0%} allowed"
    return Verdict(fast and lean, f"{'OK' if fast and lean else 'PROBLEM'}: {said}")


class Spent(NamedTuple):
    """What one pass over all clips took."""

    wall_s: float
    encode_s: float
    other_s: float
    server_s: float = 0.0


# --------------------------------------------------------------------------------------------------------------- clips


def make_clips(folder: Path, count: int, seconds: float) -> tuple[dict[str, str], int]:
    """Crops in `folder`/crops, their digests by clip, and their number of frames (4k+1)."""
    frames = clock.num_frames(max(round(seconds * clock.FPS) // clock.FRAMES_PER_STEP, 1) + 1)
    digests = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        texture = rng.integers(40, 220, (8, 8, 3), np.uint8).repeat(CROP_PX // 8, axis=0).repeat(CROP_PX // 8, axis=1)
        pictures = (np.roll(texture, 2 * frame, axis=1) for frame in range(frames))
        sound = (0.1 * rng.standard_normal(frames * clock.SAMPLES_PER_FRAME)).astype(np.float32)
        name = f"clip{number:03}"
        media.write_video(folder / f"crops/{name}.mp4", pictures, sound)
        digests[name] = storage.file_digest(folder / f"crops/{name}.mp4")
    return digests, frames


def make_place(home: Path, clips: Path, digests: dict[str, str], frames: int) -> Place:
    """A ledger in which these crops are curated; the files are links."""
    place = Place(dataset=DATASET, home=str(home))
    (place.media_root / "crops").mkdir(parents=True)
    for name in digests:
        os.link(clips / f"crops/{name}.mp4", place.media_root / f"crops/{name}.mp4")
    rows = [
        Row(
            clip_id=name,
            stage=Stage.CURATE,
            state="done",
            key="k",
            value={"path": f"crops/{name}.mp4", "digest": digest, "num_frames": frames, "scores": {}},
        )
        for name, digest in digests.items()
    ]
    with Ledger(place.ledger_url) as ledger:
        ledger.add_clips(DATASET, [Clip(clip_id=name, source="x", video_id=name, location="x") for name in digests])
        with ledger.lease(DATASET, Stage.CURATE, "benchmark") as lease:
            ledger.record(lease, rows)
    return place


# ---------------------------------------------------------------------------------------------------------------- ways


def calibrated(clips: Path, frames: int, encode_s: float) -> Repeats:
    """How many convolutions make the video of one clip cost about so many seconds."""
    crop = read(clips / "crops/clip000.mp4", frames)
    repeats = 4
    _encoding(clips, repeats, crop)  # first calls are slow
    while (taken := _encoding(clips, repeats, crop)) < 0.2 * encode_s:
        repeats *= 2
    return {"video": max(round(repeats * encode_s / taken), 1)}


def _encoding(clips: Path, repeats: int, crop: CropMedia) -> float:
    seconds = clips / "calibration"
    worker = ConvolvingWorker(ExtractConfig(), clips, clips, {"video": repeats}, seconds)
    worker.load()
    for extractor in worker.extractors.values():
        extractor(crop)
    return _collected(seconds)


def read(path: Path, frames: int) -> CropMedia:
    """A whole clip, as anybody would read it."""
    pictures = np.stack(list(media.read_frames(path, fps=clock.FPS)))
    return CropMedia(pictures, media.read_sound(path, 0.0, frames / clock.FPS, clock.SAMPLE_RATE_HZ))


def plain_loop(home: Path, clips: Path, digests: dict[str, str], frames: int, repeats: Repeats) -> Spent:
    """One process, one clip after the other, one file for each."""
    home.mkdir(parents=True)
    worker = ConvolvingWorker(ExtractConfig(), clips, home, repeats, home / "seconds")
    worker.load()
    wall, used = time.perf_counter(), time.process_time()
    for name in digests:
        crop = read(clips / f"crops/{name}.mp4", frames)
        arrays = {
            f"{modality}.{array}": np.ascontiguousarray(value)
            for modality, extractor in worker.extractors.items()
            for array, value in extractor(crop).items()
        }
        save_file(arrays, home / f"{name}.safetensors")
    wall, used = time.perf_counter() - wall, time.process_time() - used
    encode = _collected(home / "seconds")
    return Spent(wall, encode, used - encode)


class ConvolvingWork(ExtractWork):
    """The extract stage with the workers of this benchmark."""

    repeats: Repeats

    @property
    def seconds_path(self) -> Path:
        """Where workers tell what encoding took."""
        return self.place.folder / "seconds"

    @property
    def spec(self) -> WorkerSpec:
        """Those workers."""
        plain = super().spec
        kwargs = {**plain.kwargs, "repeats": self.repeats, "seconds_path": str(self.seconds_path)}
        return plain.model_copy(update={"target": "benchmarks.convolving:ConvolvingWorker", "kwargs": kwargs})


def our_stage(
    place: Place, pool: PoolConfig, config: ExtractConfig, repeats: Repeats, server: PrefectServer, lacking: int = 0
) -> Spent:
    """The stage as `dualforce run extract` runs it, on warm workers; it has to make `lacking` features, or all.

    The clock stops with the stage: a flow of Prefect ends a whole number of seconds after it began (the thread of its
    heartbeat looks up once a second), which says nothing of a stage of hours.
    """
    from prefect import flow

    from tasks.stages import StageConfig, run_stage

    def work(ledger: Ledger) -> ConvolvingWork:
        made = ConvolvingWork(config, Policy(name="all"), place, ledger)
        made.repeats = repeats
        return made

    @flow(name="extract")
    def extracting() -> tuple[int, float]:
        done = run_stage(Stage.EXTRACT, work, place, pool, StageConfig(attempts=1), run_id="benchmark").done
        return done, time.perf_counter()

    with shared_pool(pool) as opened:
        with Ledger(place.ledger_url) as ledger:
            own = work(ledger)
            list(opened().run(own.spec, _warming(own, pool.workers)))
            seconds, wanted = own.seconds_path, lacking or len(own.targets())
        seconds.unlink()
        before, wall = _used(server), time.perf_counter()
        made, ended = extracting()
        wall, after = ended - wall, _used(server)
    if made != wanted:
        raise RuntimeError(f"{made} of {wanted} features were made")
    encode = _collected(seconds)
    return Spent(wall, encode, after[0] - before[0] - encode, after[1] - before[1])


def _warming(work: ConvolvingWork, workers: int) -> Iterator[Job]:
    """A clip for each worker, under names that the ledger does not know."""
    crop = next(iter(work.crops.values()))
    wanted = {modality: key for modality, (key, _) in wanted_features(work.config, crop.digest).items()}
    for number in range(workers):
        job = ExtractJob(
            job_id=f"warm{number}",
            crop_path=crop.path,
            crop_digest=crop.digest,
            num_frames=crop.num_frames,
            wanted=wanted,
        )
        yield Job(job.job_id, job)


def _used(server: PrefectServer) -> tuple[float, float]:
    """Seconds of the CPU so far: of this process and its workers, and of Prefect's server."""
    top = psutil.Process(server.process.process.pid)
    serving = {top.pid, *[child.pid for child in top.children(recursive=True)]}
    ours, theirs = 0.0, 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        times = process.cpu_times()
        if process.pid in serving:
            theirs += times.user + times.system
        else:
            ours += times.user + times.system
    return ours, theirs


def _collected(path: Path) -> float:
    """The sum of what workers told, and a clean start for the next."""
    seconds = sum(map(float, path.read_text().split()))
    path.unlink()
    return seconds


# --------------------------------------------------------------------------------------------------------------- report


def lines(taken: dict[str, list[Spent]]) -> tuple[Line, ...]:
    """Medians of every way, over the plain loop of the same round."""
    plain = taken["plain loop"]

    def median(way: str, of: Callable[[Spent, Spent], float]) -> float:
        return statistics.median(of(mine, base) for mine, base in zip(taken[way], plain, strict=True))

    return tuple(
        Line(
            way=way,
            wall_s=median(way, lambda mine, base: mine.wall_s),
            clips_per_s=median(way, lambda mine, base: base.wall_s / mine.wall_s),
            encode_s=median(way, lambda mine, base: mine.encode_s),
            other_s=median(way, lambda mine, base: mine.other_s),
            server_s=median(way, lambda mine, base: mine.server_s),
            beyond=median(way, lambda mine, base: (mine.other_s + mine.server_s - base.other_s) / mine.encode_s),
        )
        for way in taken
    )


def measure(folder: Path, setting: Setting) -> Report:
    """All ways in turns."""
    torch.set_num_threads(1)
    digests, frames = make_clips(folder, setting.clips, setting.seconds)
    repeats = calibrated(folder, frames, setting.encode_s)
    ways = {"1 worker, nothing decoded ahead": (1, ExtractConfig(clips_per_message=1))}
    ways |= {f"{n} worker{'s' if n > 1 else ''}": (n, ExtractConfig()) for n in range(1, setting.workers + 1)}
    taken: dict[str, list[Spent]] = {name: [] for name in ("plain loop", *ways)}
    with prefect_server(folder / "prefect") as server:
        server.ready()
        enter_home(server.environment["PREFECT_HOME"])
        for number in range(setting.rounds):
            for way in taken if number % 2 == 0 else reversed(list(taken)):
                home = folder / f"{number}" / way.replace(" ", "-")
                if way == "plain loop":
                    spent = plain_loop(home, folder, digests, frames, repeats)
                else:
                    place = make_place(home, folder, digests, frames)
                    spent = our_stage(
                        place, PoolConfig(engine=setting.engine, workers=ways[way][0]), ways[way][1], repeats, server
                    )
                taken[way].append(spent)
                click.echo(f"{way}: {setting.clips} clips in {spent.wall_s:.1f} s", err=True)
    return Report(
        machine=f"{platform.machine()} CPU",
        cores=os.cpu_count() or 1,
        engine=setting.engine,
        clips=setting.clips,
        frames=frames,
        rounds=setting.rounds,
        date=datetime.now(UTC).date().isoformat(),
        rows=lines(taken),
    )


# ------------------------------------------------------------------------------------------------------------- command


def stage_command(
    measure: Callable[[Path, Setting], Any], verdict: Callable[[Any], Verdict], help: str, workers: int, encode_s: float
) -> click.Command:
    """The command of a benchmark of the extract stage: its report is measured in a folder of its own, and judged."""

    def run(out: Path | None, **chosen: Any) -> None:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # before Prefect is imported
        with tempfile.TemporaryDirectory() as folder:
            report = measure(Path(folder), Setting(**chosen))
        conclude(report, out, verdict(report.rows))

    few, whole, share = click.IntRange(1, 999), click.IntRange(1), click.FloatRange(0.01)
    options = [
        click.Option(["--engine"], type=click.Choice(["local", "ray"]), default="local", show_default=True),
        click.Option(["--workers"], type=whole, default=workers, show_default=True, help="workers, at most"),
        click.Option(["--clips"], type=few, default=12, show_default=True),
        click.Option(["--seconds"], type=click.FloatRange(0.5, 10.0), default=4.0, show_default=True, help="of a clip"),
        click.Option(
            ["--encode-s"], type=share, default=encode_s, show_default=True, help="to encode a clip's feature"
        ),
        click.Option(["--rounds"], type=whole, default=3, show_default=True, help="turns; medians are told"),
        click.Option(["--out"], type=click.Path(path_type=Path), help="JSON file to write"),
    ]
    return click.Command("benchmark", callback=run, params=list(options), help=help)


main = stage_command(measure, verdict, __doc__ or "", workers=os.cpu_count() or 1, encode_s=1.0)

if __name__ == "__main__":
    main()
