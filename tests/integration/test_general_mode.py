"""A folder without a single face through the real flows with the pretraining policy: a snapshot of video alone."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dualforce_model import media
from dualforce_model.config import validate
from flows.acquire import acquire
from flows.curate import curate
from flows.extract import extract
from flows.inspection import failed_clips
from flows.pipeline import PipelineRun, publish_account
from tasks import curation
from tasks.ledger import Ledger
from tasks.records import Reason, Stage

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


def landscape(width: int, height: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    texture = cv2.resize(rng.integers(0, 255, (6, 6, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return [np.roll(texture, index // 2, axis=1) for index in range(55)]


@pytest.mark.timeout(300)
def test_clips_without_faces_become_a_snapshot_of_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = tmp_path / "videos"
    hum = (0.2 * np.sin(np.arange(55 * 640) / 20)).astype(np.float32)
    media.write_video(videos / "wide.mp4", landscape(192, 108, 1), hum)
    smaller = [cv2.resize(frame, (128, 72), interpolation=cv2.INTER_AREA) for frame in landscape(192, 108, 1)]
    media.write_video(videos / "wider.mp4", smaller, hum, crf=26)
    media.write_video(videos / "tall.mp4", landscape(110, 194, 2), None)
    media.write_video(videos / "cut.mp4", landscape(128, 96, 3)[:28] + landscape(128, 96, 4)[:27], None)
    values: dict[str, Any] = {
        "place": {"dataset": "general", "home": str(tmp_path / "run")},
        "pool": {"engine": "local", "workers": 1},
        "stage": {"attempts": 1, "backoff_s": 0.0},
        "acquire": {"source": {"name": "folder", "folder": str(videos)}},
        "curate": {"mode": "general", "crop_px": 64},
        "policy": "configs/policy/pretrain.yaml",
        "extract": {"modalities": ["video"]},
        "snapshot": {"tag": "general", "split": {"validation": 0.0}},
    }
    config = validate(PipelineRun, values, "test")
    assert config.check() == ()
    runs: dict[str, Any] = config.runs()
    acquire(runs["acquire"])
    curated, extracted = curate(runs["curate"]), extract(runs["extract"])
    assert (curated.done, curated.impossible, curated.failed) == (4, {}, {})
    assert (extracted.summary.done, extracted.failed_clips) == (2, 0)
    assert extracted.snapshot.written
    account = publish_account(config)
    assert (account.listed, account.passed, account.quarantined) == (4, 2, {"duplicate": 1, "shot_cut": 1})
    assert extracted.snapshot.snapshot.quarantined == {"duplicate": 1, "shot_cut": 1}
    (copy,) = (fate for fate in failed_clips(config, quarantined=True).fates if fate.reason == Reason.DUPLICATE)
    assert copy.clip_id.startswith("folder-wider-")
    assert "(pictures and sound of folder-wide-" in copy.measured
    assert copy.measured in failed_clips(config, quarantined=True).text(with_traceback=False), "the id is whole"
    with Ledger(config.place.ledger_url) as ledger:
        crops = {row.value["has_sound"] for row in ledger.rows("general", stage=Stage.CURATE, state="done")}
    assert crops == {True, False}
    again = curate(runs["curate"])
    assert (again.planned, again.kept) == (0, 4)

    monkeypatch.setattr(curation, "VERSION", curation.VERSION + 1)  # as a release with other scores would
    rescored, kept = curate(runs["curate"]), extract(runs["extract"])
    assert (rescored.planned, rescored.done) == (4, 4)
    assert kept.summary.planned == 0, "crops of equal bytes keep their features"
    assert kept.snapshot.snapshot.id == extracted.snapshot.snapshot.id
