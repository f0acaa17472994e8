"""A random window of a random clip, all modalities, cold and warm: our store against other ways to keep the same clips.

    python -m benchmarks.loader [--peers /tmp/peers/bin/python] [--clips 800 --picks 300] [--folder DIR]

Every way reads in a process of its own, in turns, and is checked byte by byte first. `dualforce` is told the rows, as
the others are; `dualforce, SnapshotDataset` finds them out and reads as training does. Cold: a new process, and the
pages of its files dropped from the cache; warm: the same windows once more. The peers' environment is described in
benchmarks/peers/requirements.txt; without it, or where one cannot be imported, that one is named and left out.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from pydantic import Field

from benchmarks.peers.clips import Pick, clip_bytes, draw_picks
from benchmarks.peers.ways import WAYS, OurDataset, OurSample, OurStore
from dualforce_model.config import Frozen
from dualforce_model.storage import write_json
from tasks.tables import table

ROOT = Path(__file__).resolve().parents[1]
OURS = OurStore.name
# What needs no environment of its own.
HERE = (OURS, OurDataset.name, OurSample.name, "row-major tar, index", "safetensors per clip")
CHECKED = 5  # windows compared with the clips as they were made


class Row(Frozen):
    """One way."""

    way: str
    cold_ms: float = Field(description="per window, median over the rounds")
    cold_ratio: float | None = Field(
        description="median over the rounds of the time over ours in the same round; none: it does more than ours"
    )
    cold_mb: float = Field(description="read from the disk per window")
    warm_ms: float
    warm_ratio: float | None
    files: int
    stored_mb: float


class Report(Frozen):
    """What was found, and of which data."""

    name: str = "loader"
    date: str
    clips: int
    clip_mb: float
    picks: int
    rounds: int
    left_out: dict[str, str] = Field(description="way -> why")
    rows: tuple[Row, ...]

    def text(self) -> str:
        """For people."""
        head = ("way", "cold ms", "ratio", "disk MB", "warm ms", "ratio", "files", "stored MB")
        cells = [
            (
                row.way,
                f"{row.cold_ms:.2f}",
                _told(row.cold_ratio),
                f"{row.cold_mb:.2f}",
                f"{row.warm_ms:.2f}",
                _told(row.warm_ratio),
                row.files,
                f"{row.stored_mb:.0f}",
            )
            for row in self.rows
        ]
        what = f"{self.clips} clips of {self.clip_mb:.2f} MB, {self.picks} windows a round, {self.rounds} rounds"
        where = f"loader: {platform.machine()}, {self.date}, python {platform.python_version()}, {what}"
        without = [f"left out: {way}: {why}" for way, why in self.left_out.items()]
        return "\n".join([where, "", table(head, cells), *without])


def _told(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


@click.command(help=__doc__)
@click.option("--peers", type=click.Path(path_type=Path), help="python of the peers' environment")
@click.option("--clips", type=click.IntRange(2), default=120, show_default=True, help="clips to keep, 6 MB each")
@click.option("--picks", type=click.IntRange(1), default=60, show_default=True, help="windows read a round")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="turns; medians are told")
@click.option("--size", type=click.Choice(["full", "small"]), default="full", show_default=True, help="small: a toy")
@click.option("--folder", type=click.Path(path_type=Path), help="where to keep the clips; default: a temporary folder")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write")
def main(
    peers: Path | None, clips: int, picks: int, rounds: int, size: str, folder: Path | None, out: Path | None
) -> None:
    """Our store against other loaders."""
    with tempfile.TemporaryDirectory(prefix="dualforce-loader-", dir=folder) as kept:
        report = measure(Setting(size, clips, Path(kept), peers), picks, rounds)
    if out is not None:
        write_json(out, report.model_dump(mode="json"))
    click.echo(report.text())


class Setting:
    """The data, where they are kept, and with which Python each way runs."""

    def __init__(self, size: str, num_clips: int, folder: Path, peers: Path | None) -> None:
        self.size, self.num_clips, self.folder, self.peers = size, num_clips, folder, peers

    def home(self, way: str) -> Path:
        """Folder of a way's files; some ways read those of another."""
        return self.folder / (WAYS[way].kept_as or way).replace(", ", "-").replace(" ", "-")

    def files(self, way: str) -> list[Path]:
        """All files of a way."""
        return sorted(path for path in self.home(way).rglob("*") if path.is_file())

    def command(self, action: str, way: str) -> list[str]:
        """Command of a worker."""
        python = sys.executable if way in HERE else str(self.peers)
        return [
            python, "-m", "benchmarks.peers.worker", action, way, self.size, str(self.num_clips), str(self.home(way))
        ]  # fmt: skip


def measure(setting: Setting, picks: int, rounds: int) -> Report:
    """All ways in turns."""
    left_out = {}
    for way in WAYS:
        if why := prepare(setting, way):
            left_out[way] = why
            click.echo(f"{way} is left out: {why}", err=True)
    ways = [way for way in WAYS if way not in left_out]
    assert OURS in ways, left_out
    times: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    for number in range(rounds):
        drawn = draw_picks(picks, setting.num_clips, seed=number)
        for way in ways if number % 2 == 0 else ways[::-1]:
            times[way].append(one_round(setting, way, drawn))
            cold, warm, _ = times[way][-1]
            click.echo(f"round {number}: {way} {1e3 * cold:.2f} ms cold, {1e3 * warm:.2f} warm", err=True)
    return Report(
        date=datetime.now(UTC).date().isoformat(),
        clips=setting.num_clips,
        clip_mb=clip_bytes(setting.size) / 1e6,
        picks=picks,
        rounds=rounds,
        left_out=left_out,
        rows=tuple(summary(setting, way, times[way], times[OURS]) for way in ways),
    )


def prepare(setting: Setting, way: str) -> str:
    """Write a way's files and check what it reads of them; why it has to be left out, or nothing."""
    if way not in HERE and setting.peers is None:
        return "no --peers given"
    if not WAYS[way].kept_as and (why := write(setting, way)):
        return why
    with reader(setting, way) as worker:
        found = ask(worker, draw_picks(min(CHECKED, setting.num_clips), setting.num_clips, seed=1), check=True)
    if found["wrong"]:
        raise RuntimeError(f"{way} reads something else: {found['wrong']}; its times would say nothing")
    return ""


def write(setting: Setting, way: str) -> str:
    """Write a way's files; why it has to be left out, or nothing."""
    setting.home(way).mkdir(parents=True)
    click.echo(f"{way}: writing", err=True)
    done = subprocess.run(setting.command("write", way), cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    if "ModuleNotFoundError" in done.stderr:
        return f"{done.stderr.strip().splitlines()[-1:]}; see benchmarks/peers/requirements.txt"
    raise RuntimeError(f"{way} cannot be written:\n{done.stderr}")


def one_round(setting: Setting, way: str, picks: Sequence[Pick]) -> tuple[float, float, float]:
    """Seconds per window cold and warm, and bytes per window that came from the disk when cold."""
    with reader(setting, way) as worker:
        drop_pages(setting.files(way))
        cold, warm = ask(worker, picks), ask(worker, picks)
    return cold["seconds"] / len(picks), warm["seconds"] / len(picks), cold["disk_bytes"] / len(picks)


def summary(
    setting: Setting, way: str, times: Sequence[tuple[float, float, float]], ours: Sequence[tuple[float, float, float]]
) -> Row:
    """Medians over the rounds."""
    compared = WAYS[way].compared
    cold, warm, disk = (statistics.median(each[place] for each in times) for place in range(3))
    ratios = [
        statistics.median(each[place] / base[place] for each, base in zip(times, ours, strict=True))
        for place in range(2)
    ]
    files = setting.files(way)
    return Row(
        way=way,
        cold_ms=1e3 * cold,
        cold_ratio=ratios[0] if compared else None,
        cold_mb=disk / 1e6,
        warm_ms=1e3 * warm,
        warm_ratio=ratios[1] if compared else None,
        files=len(files),
        stored_mb=sum(path.stat().st_size for path in files) / 1e6,
    )


@contextmanager
def reader(setting: Setting, way: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that has opened a way's files and waits for picks."""
    with tempfile.TemporaryFile("w+") as said:
        worker = subprocess.Popen(
            setting.command("read", way),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            if not worker.stdout.readline():
                said.seek(0)
                raise RuntimeError(f"{way} cannot be opened:\n{said.read()}")
            yield worker
        finally:
            worker.stdin.close()
            worker.wait(60)
            worker.stdout.close()


def ask(worker: "subprocess.Popen[str]", picks: Sequence[Pick], *, check: bool = False) -> dict[str, Any]:
    """Answer of a worker to these picks."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps({"picks": picks, "check": check}) + "\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        raise RuntimeError(f"a reader ended with {worker.wait(60)}: {worker.args!r}")
    return dict(json.loads(answer))


def drop_pages(files: Sequence[Path]) -> None:
    """Take the files' pages out of the cache, as far as no process maps them."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    main()
