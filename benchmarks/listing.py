"""Reading lists: one clip at a time against all at once, and against reading the file without making clips of it.

    python -m benchmarks.listing [--clips 500000]

The files look like CelebV-HQ's JSON, with its 35,666 clips at most, VoxCeleb's CSV and a list of URLs, with as many
clips as asked, five from each video. Every reading is a process of its own, so that what it holds at most can be told:
seconds are the process's own, and memory is its peak beyond what it held before it began to read.
"""

import gc
import json
import platform
import random
import resource
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.storage import write_json
from tasks.sources import config_at, make_source
from tasks.sources.counts import tally
from tasks.sources.packed import PackedClips
from tasks.tables import table

PER_VIDEO = 5
CELEBVHQ_CLIPS = 35_666
ROOT = Path(__file__).resolve().parents[1]
ALPHABET = string.ascii_letters + string.digits + "-_"


class Reading(Frozen):
    """What one process took."""

    clips: int = Field(description="clips that came of it; 0 where none are made")
    seconds: float
    peak_mb: float


class Row(Frozen):
    """One way of reading one list."""

    source: str
    clips: int
    list_mb: float
    way: str
    seconds: float = Field(description="median over the rounds")
    ratio: float = Field(description="median over the rounds of time over the first way's time in the same round")
    peak_mb: float = Field(description="the most of all rounds")


class Report(Frozen):
    """The outcome, and where it was had."""

    machine: str
    python: str
    date: str
    rounds: int
    rows: tuple[Row, ...]

    def text(self) -> str:
        """For people."""
        cells = [
            (
                row.source,
                f"{row.clips:,}",
                f"{row.list_mb:.0f}",
                row.way,
                f"{row.seconds:.2f}",
                f"{row.ratio:.1f}",
                f"{row.peak_mb:.0f}",
            )
            for row in self.rows
        ]
        head = ("list", "clips", "MB", "way", "s", "ratio", "peak MB")
        return f"listing: {self.machine}, Python {self.python}, {self.date}\n\n{table(head, cells)}"


def _ids(count: int) -> Iterator[tuple[str, int]]:
    """Video ids, each with the numbers of its clips."""
    generator = random.Random(0)
    for index in range(count):
        if index % PER_VIDEO == 0:
            video = "".join(generator.choices(ALPHABET, k=11))
        yield video, index % PER_VIDEO


def write_celebvhq(path: Path, count: int) -> None:
    """A list like CelebV-HQ's, attributes and all."""
    attributes = {"appearance": [0, 1] * 20, "action": [0] * 35, "emotion": {"sep_flag": False, "labels": "neutral"}}
    with open(path, "w") as file:
        file.write('{"meta_info": {"appearance_mapping": [], "action_mapping": []}, "clips": {')
        for index, (video, number) in enumerate(_ids(count)):
            duration = {"start_sec": 10.0 * number, "end_sec": 10.0 * number + 4.55}
            box = {"top": 0.0, "bottom": 0.8815, "left": 0.1964, "right": 0.6922}
            entry = {"ytb_id": video, "duration": duration, "bbox": box, "attributes": attributes, "version": "v0.1"}
            file.write(f"{', ' if index else ''}{json.dumps(f'{video}_{number}')}: {json.dumps(entry)}")
        file.write("}}")


def write_voxceleb(path: Path, count: int) -> None:
    """A list like VoxCeleb's CSV file."""
    with open(path, "w") as file:
        file.write("video_id,start,end,bbox,fps,width,height,partition,person_id\n")
        for index, (video, number) in enumerate(_ids(count)):
            first = 200 * number
            file.write(f"{video},{first},{first + 150},624-48-1018-553,25,1280,720,train,id{index % 7000:05d}\n")


def write_urls(path: Path, count: int) -> None:
    """A list of URLs with spans."""
    with open(path, "w") as file:
        file.write("url,start,end\n")
        for video, number in _ids(count):
            file.write(f"https://www.youtube.com/watch?v={video},00:{10 * number:02d}.5,00:{10 * number + 8:02d}.25\n")


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "celebvhq": write_celebvhq,
    "voxceleb": write_voxceleb,
    "urls": write_urls,
}


def read_raw(source: str, path: Path) -> int:
    """The file's lines, or all of its JSON, and nothing made of them."""
    if source == "celebvhq":
        with open(path, "rb") as file:
            json.load(file)
    else:
        with open(path, "rb") as file:
            for line in file:
                line.decode().split(",")
    return 0


def read_streamed(source: str, path: Path) -> int:
    """One clip after the other, counted and let go."""
    return tally(make_source(config_at(source, path)), str(path)).intervals


def read_whole(source: str, path: Path) -> int:
    """All clips at once, as a run takes them."""
    clips = PackedClips()
    make_source(config_at(source, path)).read(clips.add)
    return len(clips)


WAYS: dict[str, Callable[[str, Path], int]] = {"raw": read_raw, "streamed": read_streamed, "whole": read_whole}


def child(source: str, path: str, way: str) -> None:
    """One reading, told on standard output."""
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    clips = WAYS[way](source, Path(path))
    seconds = time.process_time() - started
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6
    sys.stdout.write(Reading(clips=clips, seconds=seconds, peak_mb=peak_mb).model_dump_json())


def _read(source: str, path: Path, way: str) -> Reading:
    code = "import sys; from benchmarks.listing import child; child(*sys.argv[1:])"
    command = [sys.executable, "-c", code, source, str(path), way]
    return Reading.model_validate_json(subprocess.run(command, check=True, cwd=ROOT, capture_output=True).stdout)


def compare(source: str, path: Path, clips: int, rounds: int) -> list[Row]:
    """All ways in turns. Raises RuntimeError if they do not find every clip."""
    readings: dict[str, list[Reading]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else reversed(WAYS):
            reading = _read(source, path, way)
            if reading.clips != (0 if way == "raw" else clips):
                raise RuntimeError(f"{source}, {way}: {reading.clips} clips of {clips}: the times cannot be compared")
            readings[way].append(reading)
            click.echo(f"{source}: {way} {reading.seconds:.2f} s, {reading.peak_mb:.0f} MB", err=True)
    first = [reading.seconds for reading in readings["raw"]]
    return [
        Row(
            source=source,
            clips=clips,
            list_mb=path.stat().st_size / 1e6,
            way=way,
            seconds=statistics.median(reading.seconds for reading in taken),
            ratio=statistics.median(reading.seconds / base for reading, base in zip(taken, first, strict=True)),
            peak_mb=max(reading.peak_mb for reading in taken),
        )
        for way, taken in readings.items()
    ]


@click.command()
@click.option(
    "--clips", type=click.IntRange(1), default=500_000, show_default=True, help="clips of each list but CelebV-HQ's"
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="turns; medians are told")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write")
def main(clips: int, rounds: int, out: Path | None) -> None:
    """Reading lists one clip at a time, and all at once."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for source, write in WRITERS.items():
            path, count = Path(folder) / source, min(clips, CELEBVHQ_CLIPS) if source == "celebvhq" else clips
            write(path, count)
            rows += compare(source, path, count, rounds)
            path.unlink()
    report = Report(
        machine=platform.machine(),
        python=platform.python_version(),
        date=datetime.now(UTC).date().isoformat(),
        rounds=rounds,
        rows=tuple(rows),
    )
    if out is not None:
        write_json(out, report.model_dump(mode="json"))
    click.echo(report.text())


if __name__ == "__main__":
    main()
