"""Captions of a list through the real flows: into the ledger, the store, and a snapshot that names them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dualforce_model import media
from dualforce_model.config import ConfigError, validate
from dualforce_model.data import SnapshotDataset
from dualforce_model.storage import Storage
from dualforce_model.text_features import text_key
from flows.acquire import acquire
from flows.curate import curate
from flows.extract import extract
from flows.pipeline import PipelineRun
from tasks.ledger import Ledger
from tasks.snapshotting import verified
from tests.tiny_umt5 import save_tiny_umt5

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


def landscape(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    texture = cv2.resize(rng.integers(0, 255, (6, 6, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    return [np.roll(texture, index // 2, axis=1) for index in range(55)]


@pytest.mark.timeout(600)
def test_captions_become_text_features_once_and_a_snapshot_names_them(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    save_tiny_umt5(tmp_path / "umt5")
    for seed in range(3):
        media.write_video(tmp_path / "videos" / f"{seed}.mp4", landscape(seed), None)
    umt5 = {"name": "umt5", "config": {"weights": str(tmp_path / "umt5"), "precision": "fp32"}}
    values: dict[str, Any] = {
        "place": {"dataset": "told", "home": str(tmp_path / "run")},
        "pool": {"engine": "local", "workers": 1},
        "stage": {"attempts": 1, "backoff_s": 0.0},
        "acquire": {"source": {"name": "folder", "folder": str(tmp_path / "videos")}},
        "curate": {"mode": "general", "crop_px": 64},
        "policy": "configs/policy/pretrain.yaml",
        "extract": {"modalities": ["video"]},
        "snapshot": {"tag": "told", "split": {"validation": 0.0}},
    }
    silent = validate(PipelineRun, values, "test").runs()
    acquire(silent["acquire"])
    with Ledger(silent["extract"].place.ledger_url) as ledger:  # as a list with captions would have it
        first, *others = ledger.clips("told")
        ledger.add_clips("told", [first.model_copy(update={"caption": "a man is talking"})])
    curate(silent["curate"])
    before = extract(silent["extract"])
    assert before.captions is None
    assert before.snapshot.snapshot.text is None

    config = validate(PipelineRun, {**values, "extract": {"modalities": ["video"], "text": {"encoder": umt5}}}, "test")
    assert config.check() == ()
    told = extract(config.runs()["extract"])
    assert told.summary.planned == 0, "features of clips are what they were"
    assert told.captions is not None
    assert (told.captions.distinct, told.captions.made) == (2, 2)
    assert "text: 2 captions" in told.text()
    assert told.snapshot.snapshot.id != before.snapshot.snapshot.id
    store = Storage(config.place.store_url)
    assert len(store.list("text")) == 2
    data = SnapshotDataset(store.url(), "told", 3)
    names = {row.clip_id: row.text for row in data.rows}
    assert names[others[0].clip_id] == names[others[1].clip_id] != names[first.clip_id]
    assert data[0, 0]["text"].shape == (512, 32)
    again = extract(config.runs()["extract"])
    assert (again.captions and again.captions.made, again.snapshot.written) == (0, False)

    lost = text_key(str(names[first.clip_id]))
    store.write(lost, store.read(lost)[:-1] + b"x")
    (problem,) = verified(store.url(), "told").problems
    assert lost in problem
    store.delete(lost)
    mended = extract(config.runs()["extract"])
    assert mended.captions is not None
    assert (mended.captions.made, mended.snapshot.snapshot.id) == (1, told.snapshot.snapshot.id)
    assert verified(store.url(), "told").problems == ()

    wrong = {**values, "extract": {"text": {"encoder": {"name": "log_mel"}}}}
    with pytest.raises(ConfigError, match="log_mel encodes audio, not text"):
        validate(PipelineRun, wrong, "test").check()
