"""What runs and looks cost on a full ledger: the list again, plan, status, failures, every clip's scores, stages with
nothing to do, and the snapshot that is there already.

    python -m benchmarks.scale [--clips 35666 --clips 500000]

The list is one of URLs, five spans from each video. In the ledger every clip has ended: of each stage's clips one in
ten is impossible and one in twenty failed too often, the rest went on to the next stage, with the values that real
stages store. Those that are through make up a snapshot, whose shards are empty: none is read to find that it is there.
Every work is a process of its own: seconds are the process's own, imports left out, and memory is its peak, imports and
all.
"""

import hashlib
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click
from pydantic import Field

from benchmarks.listing import ROOT, write_urls
from dualforce_model.config import Frozen
from dualforce_model.schema import (
    SPLITS,
    FeatureRef,
    Snapshot,
    SnapshotRow,
    encode_head,
    encode_manifest,
    head_key,
    manifest_key,
)
from dualforce_model.storage import Storage, write_json
from flows.clip_report import clip_reports
from flows.inspection import failed_clips, pipeline_status, plan_pipeline
from flows.pipeline import PipelineRun
from tasks.accounting import AcrossClips
from tasks.acquiring import AcquireConfig, AcquireWork
from tasks.curating import CurateWork
from tasks.duplicates import NUM_DIGITS
from tasks.extract import wanted_features
from tasks.ledger import Ledger, Row
from tasks.place import Place
from tasks.planning import Plan
from tasks.policy import Policy, load_policy
from tasks.records import FailureClass, Reason, Stage
from tasks.scores import FACE_SCORES
from tasks.snapshot import decide, rows_id, tag_snapshot
from tasks.snapshotting import build_from_ledger, candidates
from tasks.sources import UrlsConfig
from tasks.stages import run_stage
from tasks.tables import table

SIZES = (35_666, 500_000)  # CelebV-HQ, and VoxCeleb2 with as much again
ATTEMPTS = 3
PART = 20_000  # rows written at once
TRACEBACK = "Traceback (most recent call last):\n" + '  File "worker.py", line 1, in call\n' * 12
SCORES = ("duration_s", "shot_cuts", "loudness_db", "speech_share", "snr_db", *FACE_SCORES)
VALUES = {  # the policy drops none
    "duration_s": 7.72,
    "people": 1.0,
    "face_px": 300.0,
    "loudness_db": -24.5,
    "speech_share": 0.81,
    "identity": 0.9,
}


class Cost(Frozen):
    """What one process took."""

    clips: int = Field(description="clips that it told about")
    seconds: float
    peak_mb: float


class Line(Frozen):
    """One work on one ledger."""

    clips: int
    work: str
    seconds: float
    peak_mb: float


class Report(Frozen):
    """The outcome, and where it was had."""

    machine: str
    python: str
    date: str
    rows: tuple[Line, ...]

    def text(self) -> str:
        """For people."""
        cells = [(f"{row.clips:,}", row.work, f"{row.seconds:.1f}", f"{row.peak_mb:.0f}") for row in self.rows]
        head = ("clips", "work", "s", "peak MB")
        return f"scale: {self.machine}, Python {self.python}, {self.date}\n\n{table(head, cells)}"


# ------------------------------------------------------------------------------------------------------- a full ledger


def run_at(folder: Path) -> PipelineRun:
    """The pipeline of a folder: a list of URLs, everything else as it is by default."""
    return PipelineRun(
        place=Place(dataset="scale", home=str(folder)),
        acquire=AcquireConfig(source=UrlsConfig(file=folder / "list.csv")),
    )


def fill(folder: Path, count: int) -> int:
    """A ledger in which every clip has ended, and a snapshot of those that are through."""
    run = run_at(folder)
    write_urls(folder / "list.csv", count)
    with Ledger(run.place.ledger_url) as ledger:
        with ledger.lease(run.place.dataset, Stage.ACQUIRE, "fill") as lease:
            acquiring = AcquireWork(run.acquire, run.place, ledger)
            acquiring.enlist(lease)
            targets = ((target.clip_id, target.key, "") for target in acquiring.targets())
            ledger.record(lease, _ended(Stage.ACQUIRE, targets, lambda clip_id: _download(acquiring, clip_id)))
        with ledger.lease(run.place.dataset, Stage.CURATE, "fill") as lease:
            curating = CurateWork(run.curate, run.place, ledger)
            targets = ((target.clip_id, target.key, "") for target in curating.targets())
            ledger.record(lease, _ended(Stage.CURATE, targets, _crop))
        with ledger.lease(run.place.dataset, Stage.EXTRACT, "fill") as lease:
            for rows in _in_parts(_features(run, ledger)):  # a lease is renewed between two transactions
                ledger.record(lease, rows)
        policy = load_policy(run.policy)
        across = AcrossClips(ledger, run.place.dataset, policy)
        rows, _ = decide(candidates(ledger, run.place.dataset, run.extract, across), policy, run.snapshot.split)
    _seal(run, policy, rows)
    return count


def _ended(
    stage: Stage, targets: Iterator[tuple[str, str, str]], value: Callable[[str], dict[str, Any]]
) -> Iterator[Row]:
    """A row for each target: in twenty one failed, two impossible, all others done."""
    for index, (clip_id, key, feature) in enumerate(targets):
        said: dict[str, Any] = {"state": "done", "value": value(clip_id)}
        if index % 20 == 7:
            said = {"state": "failed", "failure": FailureClass.CRASH, "detail": TRACEBACK, "attempts": ATTEMPTS}
        elif index % 20 in (3, 13):
            reason = Reason.GONE if stage == Stage.ACQUIRE else Reason.NO_FACE
            said = {"state": "impossible", "reason": reason, "detail": "no face in any of the 25 frames looked at"}
        yield Row(clip_id=clip_id, stage=stage, feature=feature, key=key, **said)


def _in_parts(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while part := list(islice(rows, PART)):
        yield part


def _digest(clip_id: str) -> str:
    return clip_id.encode().hex()[-64:].zfill(64)


def _download(work: AcquireWork, clip_id: str) -> dict[str, Any]:
    video_id = work.clips.video_id(clip_id)
    return {
        "path": f"raw/urls/{video_id}.mp4",
        "digest": _digest(video_id),
        "num_bytes": 20_000_000,
        "mtime_ns": 1_780_000_000_000_000_000,
        "duration_s": 60.0,
        "width_px": 1280,
        "height_px": 720,
        "fps": 25.0,
        "video_codec": "h264",
        "has_sound": True,
        "sound_duration_s": 60.0,
        "seconds": 3.1415,
    }


def _likeness(clip_id: str) -> str:
    """Digits by chance, like no other clip's; 0 would say that something is not there."""
    return hashlib.shake_256(clip_id.encode()).hexdigest(NUM_DIGITS)[:NUM_DIGITS].replace("0", "8")


def _crop(clip_id: str) -> dict[str, Any]:
    scores = {name: {"method": f"how {name} was measured", "value": VALUES.get(name, 0.0)} for name in SCORES}
    return {
        "path": f"crops/ab/{clip_id}-0123456789ab.mp4",
        "digest": _digest(clip_id),
        "num_frames": 193,
        "dropped_frames": 0,
        "has_sound": True,
        "box": [400, 100, 912, 612],
        "thumbnail": f"crops/ab/{clip_id}-0123456789ab.jpg",
        "likeness": _likeness(clip_id),
        "scores": scores,
        "seconds": 2.7183,
    }


def _features(run: PipelineRun, ledger: Ledger) -> Iterator[Row]:
    """Rows of all features of all crops; those of a clip are done, or not, together."""
    clip_ids = [row.clip_id for row in ledger.rows(run.place.dataset, stage=Stage.CURATE, state="done")]
    keys = {clip_id: wanted_features(run.extract, _digest(clip_id)) for clip_id in clip_ids}
    for modality in run.extract.modalities:
        targets = ((clip_id, wanted[modality][0], modality) for clip_id, wanted in keys.items())
        refs = {clip_id: _ref(clip_id, modality, *wanted[modality]) for clip_id, wanted in keys.items()}
        yield from _ended(Stage.EXTRACT, targets, lambda clip_id, refs=refs: {"ref": refs[clip_id], "part": "p"})  # type: ignore[misc]


def _ref(clip_id: str, modality: str, key: str, fingerprint: str) -> dict[str, str]:
    """Where a feature lies: in one of 256 shards."""
    shard = f"features/{modality}/{_digest(clip_id)[-4:].zfill(32)}.safetensors"
    return FeatureRef(modality=modality, fingerprint=fingerprint, key=key, shard=shard, clip_id=clip_id).model_dump()


def _seal(run: PipelineRun, policy: Policy, rows: tuple[SnapshotRow, ...]) -> None:
    """The snapshot of these rows as a build leaves it, but for what it reads from shards."""
    store, manifest = Storage(run.place.store_url), encode_manifest(rows)
    for shard in {ref.shard for row in rows for ref in row.features.values()}:
        store.write(shard, b"")
    snapshot = Snapshot(
        id=rows_id(rows, policy),
        content="unread",
        dataset=run.place.dataset,
        policy=policy.model_dump(mode="json"),
        modalities={},
        statistics={},
        num_rows=len(rows),
        num_frames=sum(row.num_frames for row in rows),
        splits={name: sum(row.split == name for row in rows) for name in SPLITS},
        quarantined={},
        failed={},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        manifest_digest=hashlib.sha256(manifest).hexdigest(),
    )
    store.write(manifest_key(snapshot.id), manifest)
    store.write(head_key(snapshot.id), encode_head(snapshot))
    tag_snapshot(store, snapshot.id, run.snapshot.tag)


# ---------------------------------------------------------------------------------------------------------- the works


def _relist(folder: Path) -> int:
    run = run_at(folder)
    with Ledger(run.place.ledger_url) as ledger, ledger.lease(run.place.dataset, Stage.ACQUIRE, "relist") as lease:
        work = AcquireWork(run.acquire, run.place, ledger)
        changes = work.enlist(lease)
        assert not any(changes.model_dump().values()), "the list has not changed"
        return len(work.clips)


def _plan(folder: Path) -> int:
    planned = plan_pipeline(run_at(folder))
    assert not any(stage.todo for stage in planned.stages.values()), "everything has ended"
    planned.text()
    return sum(len(getattr(planned.stages[Stage.ACQUIRE], group)) for group in Plan.model_fields)


def _status(folder: Path) -> int:
    found = pipeline_status(run_at(folder))
    found.text()
    return found.clips.listed


def _failures(folder: Path) -> int:
    found = failed_clips(run_at(folder), quarantined=True)
    found.text(with_traceback=False)
    return len(found.fates)


def _clips(folder: Path) -> int:
    return sum(bool(report.text()) for report in clip_reports(run_at(folder), None))


def _snapshot(folder: Path) -> int:
    run = run_at(folder)
    built = build_from_ledger(run.place, run.policy, run.extract, run.snapshot)
    assert not built.written, "it is there"
    return built.snapshot.num_rows


def _nothing(stage: Stage) -> Callable[[Path], int]:
    """A run of a stage that finds all of it there."""

    def run_again(folder: Path) -> int:
        run = run_at(folder)

        def work(ledger: Ledger) -> Any:
            return next(work for work in run.works(ledger) if work.stage == stage)

        summary = run_stage(stage, work, run.place, run.pool, run.stage, run_id="again")
        assert summary.planned == 0, "everything has ended"
        return summary.listed

    return run_again


WORKS: dict[str, Callable[[Path], int]] = {
    "relist": _relist,
    "plan": _plan,
    "status": _status,
    "failures": _failures,
    "clips": _clips,
    **{f"{stage} again": _nothing(stage) for stage in Stage},
    "snapshot again": _snapshot,
}


def child(work: str, folder: str, count: str) -> None:
    """One work, told on standard output."""
    started = time.process_time()
    clips = WORKS[work](Path(folder)) if work in WORKS else fill(Path(folder), int(count))
    seconds = time.process_time() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    sys.stdout.write(Cost(clips=clips, seconds=seconds, peak_mb=peak_mb).model_dump_json())


def _measure(work: str, folder: Path, count: int) -> Cost:
    code = "import sys; from benchmarks.scale import child; child(*sys.argv[1:])"
    command = [sys.executable, "-c", code, work, str(folder), str(count)]
    done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE)
    return Cost.model_validate(json.loads(done.stdout.splitlines()[-1]))


def measure(folder: Path, count: int) -> list[Line]:
    """All works on a ledger of so many clips. Raises RuntimeError if one does not see what it should."""
    _measure("fill", folder, count)
    lines = []
    for work in WORKS:
        cost = _measure(work, folder, count)
        if work in ("relist", "plan", "status", "clips", "acquire again") and cost.clips != count:
            raise RuntimeError(f"{work}: saw {cost.clips} clips of {count}")
        click.echo(f"{count:,} clips: {work} {cost.seconds:.1f} s, {cost.peak_mb:.0f} MB", err=True)
        lines.append(Line(clips=count, work=work, seconds=cost.seconds, peak_mb=cost.peak_mb))
    return lines


@click.command()
@click.option(
    "--clips", type=click.IntRange(1), multiple=True, default=SIZES, show_default=True, help="sizes of ledger"
)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write")
def main(clips: tuple[int, ...], out: Path | None) -> None:
    """What looks and runs with nothing to do cost on full ledgers."""
    rows: list[Line] = []
    for count in clips:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder), count)
    report = Report(
        machine=platform.machine(),
        python=platform.python_version(),
        date=datetime.now(UTC).date().isoformat(),
        rows=tuple(rows),
    )
    if out is not None:
        write_json(out, report.model_dump(mode="json"))
    click.echo(report.text())


if __name__ == "__main__":
    main()
