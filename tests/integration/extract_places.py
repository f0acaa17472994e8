"""Folders with crops as curate leaves them, and the extract stage over them."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prefect import flow

from dualforce_model import media, storage
from dualforce_model.schema import FeatureRef
from dualforce_model.shards import load_feature
from dualforce_model.storage import Storage
from tasks.extract import ExtractConfig
from tasks.extracting import ExtractWork
from tasks.ledger import Ledger, Row
from tasks.place import Place
from tasks.policy import Policy
from tasks.pool import PoolConfig, WorkerSpec
from tasks.records import Clip, Stage
from tasks.stages import StageConfig, StageSummary, run_stage

FRAMES = 13
PASS_ALL = Policy(name="all")


def make_place(home: Path, clips: Sequence[str]) -> Place:
    """Crops of 64 px, each of other pictures and sound, in a ledger."""
    place = Place(dataset="d", home=str(home))
    rows = []
    for name in clips:
        rng = np.random.default_rng(sum(map(ord, name)))
        texture = rng.integers(60, 200, (1, 4, 4, 3)).repeat(16, axis=1).repeat(16, axis=2)
        frames = np.clip(texture + 3 * np.arange(FRAMES)[:, None, None, None], 0, 255).astype(np.uint8)
        path = place.media_root / f"crops/{name}.mp4"
        media.write_video(path, frames, (0.1 * rng.standard_normal(640 * FRAMES)).astype(np.float32))
        value = {"path": f"crops/{name}.mp4", "digest": storage.file_digest(path), "num_frames": FRAMES, "scores": {}}
        rows.append(Row(clip_id=name, stage=Stage.CURATE, state="done", key="k", value=value))
    with Ledger(place.ledger_url) as ledger:
        ledger.add_clips("d", [Clip(clip_id=name, source="x", video_id=name, location="x") for name in clips])
        with ledger.lease("d", Stage.CURATE, "r") as lease:
            ledger.record(lease, rows)
    return place


class ScriptedExtract(ExtractWork):
    """The extract stage with workers of `extract_workers`."""

    slow_s = 0.0

    @property
    def spec(self) -> WorkerSpec:
        plain = super().spec
        kwargs = {**plain.kwargs, "log": str(self.place.folder / "log"), "slow_s": self.slow_s}
        return plain.model_copy(update={"target": "extract_workers:ScriptedWorker", "kwargs": kwargs})


def run_extract(
    place: Place,
    pool: PoolConfig,
    config: ExtractConfig | None = None,
    stage: StageConfig | None = None,
    slow_s: float = 0.0,
) -> StageSummary:
    """One run of the stage in a flow of its own."""
    if (here := str(Path(__file__).parent)) not in sys.path:
        sys.path.append(here)  # the pool passes it on to its workers

    def work(ledger: Ledger) -> ExtractWork:
        made = ScriptedExtract(config or ExtractConfig(), PASS_ALL, place, ledger)
        made.slow_s = slow_s
        return made

    @flow(name="extract")
    def extracting() -> StageSummary:
        settings = stage or StageConfig(attempts=1, backoff_s=0.0)
        return run_stage(Stage.EXTRACT, work, place, pool, settings, run_id="r")

    return extracting()


def log_of(place: Place) -> Counter[str]:
    """What the workers did since the last look, and how often."""
    log = place.folder / "log"
    lines = Counter(log.read_text().splitlines()) if log.exists() else Counter[str]()
    log.unlink(missing_ok=True)
    return lines


def rows_of(place: Place) -> dict[tuple[str, str], Row]:
    """The ledger's rows of the stage, by clip and modality."""
    with Ledger(place.ledger_url) as ledger:
        return {(row.clip_id, row.feature): row for row in ledger.rows("d", stage=Stage.EXTRACT)}


def features_of(place: Place) -> dict[tuple[str, str], bytes]:
    """All bytes of every feature that is stored, by clip and modality."""
    store, found = Storage(place.store_url), {}
    for name, row in rows_of(place).items():
        if row.state == "done":
            feature = load_feature(store, FeatureRef.model_validate(row.value["ref"]))
            found[name] = b"".join(feature[array].tobytes() for array in sorted(feature))
    return found
