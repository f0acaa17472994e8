"""How everything here is measured: all ways in turns, so that whatever slows the machine slows them alike.

On the CPU one thread is used and its own seconds are counted, not the clock's: neighbours matter less.
"""

import gc
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import click
import diffusers
import torch
from pydantic import Field
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dualforce_model.config import Frozen
from dualforce_model.storage import write_json
from tasks.tables import table

# Dense bf16 TFLOP/s as the makers state them; MFU is a share of these.
TOO_SLOW = 6  # exit code, as the product's own commands end when they find a problem
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}


class Row(Frozen):
    """One way of doing one piece of work."""

    work: str
    way: str
    milliseconds: float = Field(description="median over the rounds")
    ratio: float = Field(description="median over the rounds of time over the first way's time in the same round")
    peak_mb: float = Field(description="memory beyond what stood before, at the fullest moment")
    tokens_per_s: float | None = None
    mfu: float | None = Field(default=None, description="share of the GPU's stated bf16 peak; useful FLOPs only")


class Report(Frozen):
    """One benchmark's outcome, and where it was had."""

    name: str
    device: str
    precision: str
    threads: int
    rounds: int
    date: str
    versions: dict[str, str]
    rows: tuple[Row, ...]

    def text(self) -> str:
        """For people."""
        head = ("work", "way", "ms", "ratio", "peak MB", "tokens/s", "MFU")
        cells = [
            (
                row.work,
                row.way,
                f"{row.milliseconds:.1f}",
                f"{row.ratio:.2f}",
                f"{row.peak_mb:.1f}",
                f"{row.tokens_per_s:,.0f}" if row.tokens_per_s is not None else "",
                f"{row.mfu:.1%}" if row.mfu is not None else "",
            )
            for row in self.rows
        ]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        where = f"{self.name}: {self.device}, {self.precision}, {self.threads} threads, {self.date}, {versions}"
        return f"{where}\n\n{table(head, cells)}"


class Way(Frozen):
    """A way to do a piece of work."""

    name: str
    run: Callable[[], object]
    tokens: int = 0
    useful_flops: int = 0


class Verdict(NamedTuple):
    """Whether a way is fast enough."""

    passed: bool
    text: str


def verdict(rows: Sequence[Row], way: str, allowed: float) -> Verdict | None:
    """The largest ratio of a way over all works against the allowed one; None where nothing is demanded of it."""
    own = [row for row in rows if row.way == way]
    if not own or allowed == math.inf:
        return None
    worst = max(own, key=lambda row: row.ratio)
    passed = worst.ratio <= allowed
    base = next(row.way for row in rows if row.work == worst.work)
    said = f"{way}, at worst {worst.ratio:.3f} of the time of {base} ({worst.work}); {allowed:g} allowed"
    return Verdict(passed, f"{'OK' if passed else 'PROBLEM'}: {said}")


class Bench:
    """Where to measure, how often, and the rows so far."""

    def __init__(self, name: str, gpu: bool, rounds: int, out: Path | None) -> None:
        if gpu and not torch.cuda.is_available():
            raise click.UsageError("--gpu: torch finds no CUDA device here")
        self.name, self.rounds, self.out = name, rounds, out
        self.device = torch.device("cuda" if gpu else "cpu")
        if not gpu:
            torch.set_num_threads(1)
        self.dtype = torch.bfloat16 if gpu else torch.float32
        self.rows: list[Row] = []

    def compare(self, work: str, ways: Sequence[Way], rounds: int | None = None) -> None:
        """Time all ways in turns; the first is what the others are divided by."""
        for way in ways:
            way.run()  # compiles, fills caches
        times: dict[str, list[float]] = {way.name: [] for way in ways}
        for number in range(rounds or self.rounds):
            for way in ways if number % 2 == 0 else list(reversed(ways)):
                times[way.name].append(self._seconds(way.run))
        first = times[ways[0].name]
        for way in ways:
            taken = times[way.name]
            ratios = [each / base for each, base in zip(taken, first, strict=True)]
            self.rows.append(self._row(work, way, taken, ratios))
            click.echo(f"{work}: {way.name} {self.rows[-1].milliseconds:.1f} ms", err=True)

    def finish(self, way: str = "", allowed: float = math.inf) -> None:
        """Print the table; write it as JSON where asked. Ends with exit code 6 if a way's ratio exceeds the allowed."""
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "python": platform.python_version()}
        report = Report(
            name=self.name,
            device=torch.cuda.get_device_name() if self.device.type == "cuda" else platform.machine() + " CPU",
            precision=str(self.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            rounds=self.rounds,
            date=datetime.now(UTC).date().isoformat(),
            versions=versions,
            rows=tuple(self.rows),
        )
        if self.out is not None:
            write_json(self.out, report.model_dump(mode="json"))
        click.echo(report.text())
        told = verdict(self.rows, way, allowed)
        if told is not None:
            click.echo(f"\n{told.text}")
            if not told.passed:
                raise SystemExit(TOO_SLOW)

    def _row(self, work: str, way: Way, seconds: list[float], ratios: list[float]) -> Row:
        median = statistics.median(seconds)
        gpu = self.device.type == "cuda"
        peak = next((tera for name, tera in PEAK_TFLOPS.items() if gpu and name in torch.cuda.get_device_name()), None)
        return Row(
            work=work,
            way=way.name,
            milliseconds=1000 * median,
            ratio=statistics.median(ratios),
            peak_mb=self._peak_bytes(way) / 1e6,
            tokens_per_s=way.tokens / median if way.tokens else None,
            mfu=way.useful_flops / median / (peak * 1e12) if peak is not None and way.useful_flops else None,
        )

    def _seconds(self, run: Callable[[], object]) -> float:
        self._wait()
        gc.collect()
        gc.disable()
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        started = clock()
        run()
        self._wait()
        taken = clock() - started
        gc.enable()
        return taken

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _peak_bytes(self, way: Way) -> int:
        if self.device.type == "cuda":
            self._wait()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            way.run()
            self._wait()
            return torch.cuda.max_memory_allocated() - before
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            way.run()
        changes = [event.nbytes() for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
        return max(accumulate(changes), default=0)


def conclude(report: Any, out: Path | None, told: Verdict) -> None:
    """Write and print a report (a model with a `text`) and how it was judged; ends the command where that is bad."""
    if out is not None:
        write_json(out, report.model_dump(mode="json"))
    click.echo(report.text())
    click.echo(f"\n{told.text}")
    if not told.passed:
        raise SystemExit(TOO_SLOW)


def benchmark(function: Callable[..., None]) -> click.Command:
    """A command with the options that all benchmarks have."""
    options = (
        click.option("--gpu", is_flag=True, help="on CUDA in bf16, at the sizes of a real model"),
        click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="turns; medians are told"),
        click.option("--out", type=click.Path(path_type=Path), help="JSON file to write"),
    )
    for option in reversed(options):
        function = option(function)
    return click.command(help=function.__doc__)(function)


@contextmanager
def fixed_gradients(model: nn.Module) -> Iterator[None]:
    """Gradients stay allocated, so that only the first pass pays for them."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    yield
    for parameter in model.parameters():
        parameter.grad = None
