"""Captions of a list through the real flows: into the ledger, the store, and a snapshot that names them."""

from pathlib import Path
from typing import Any, Literal

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
from flows.inspection import failed_clips, pipeline_status, plan_pipeline
from flows.pipeline import PipelineRun
from flows.rerun import RerunRun, rerun
from tasks.extractors.text import TextNames
from tasks.ledger import Ledger
from tasks.records import Clip, Stage
from tasks.snapshotting import verified
from tasks.text_notes import Refusal, write_note
from tests.tiny_umt5 import save_tiny_umt5

EXTRACT: tuple[Literal["extract"]] = ("extract",)  # a folder's list has no captions: acquire would take them away

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


def landscape(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    texture = cv2.resize(rng.integers(0, 255, (6, 6, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    return [np.roll(texture, index // 2, axis=1) for index in range(55)]


def settings(tmp_path: Path) -> dict[str, Any]:
    """Three videos of a landscape, and a run over them."""
    for seed in range(3):
        media.write_video(tmp_path / "videos" / f"{seed}.mp4", landscape(seed), None)
    return {
        "place": {"dataset": "told", "home": str(tmp_path / "run")},
        "pool": {"engine": "local", "workers": 1},
        "stage": {"attempts": 1, "backoff_s": 0.0},
        "acquire": {"source": {"name": "folder", "folder": str(tmp_path / "videos")}},
        "curate": {"mode": "general", "crop_px": 64},
        "policy": "configs/policy/pretrain.yaml",
        "extract": {"modalities": ["video"]},
        "snapshot": {"tag": "told", "split": {"validation": 0.0}},
    }


def with_text(values: dict[str, Any], tmp_path: Path) -> PipelineRun:
    """The same with text features of a small encoder."""
    pytest.importorskip("transformers")
    save_tiny_umt5(tmp_path / "umt5")
    umt5 = {"name": "umt5", "config": {"weights": str(tmp_path / "umt5"), "precision": "fp32"}}
    return validate(PipelineRun, {**values, "extract": {"modalities": ["video"], "text": {"encoder": umt5}}}, "test")


def cropped(run: PipelineRun, *captions: str) -> list[Clip]:
    """Acquire and curate; the first clips have these captions, as a list would say."""
    runs: dict[str, Any] = run.runs()
    acquire(runs["acquire"])
    with Ledger(run.place.ledger_url) as ledger:
        clips = list(ledger.clips("told"))
        said = [clip.model_copy(update={"caption": words}) for clip, words in zip(clips, captions, strict=False)]
        ledger.add_clips("told", said)
    curate(runs["curate"])
    return [*said, *clips[len(said) :]]


@pytest.mark.timeout(600)
def test_captions_become_text_features_once_and_a_snapshot_names_them(tmp_path: Path) -> None:
    values = settings(tmp_path)
    silent = validate(PipelineRun, values, "test").runs()
    first, *others = cropped(validate(PipelineRun, values, "test"), "a man is talking")
    before = extract(silent["extract"])
    assert before.captions is None
    assert before.snapshot.snapshot.text is None

    config = with_text(values, tmp_path)
    assert config.check() == ()
    plan = plan_pipeline(config)
    assert (plan.captions and plan.captions.todo, len(plan.stages[Stage.EXTRACT].todo)) == (2, 0)
    assert plan.text().splitlines()[-2:] == [
        "text     2 captions: 2 new",
        "then a snapshot; if it is a new version, training, generation and evaluation on it",
    ]
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

    assert plan_pipeline(config).text().splitlines()[-1] == "text     nothing to do, 2 done"

    lost = text_key(str(names[first.clip_id]))
    store.write(lost, store.read(lost)[:-1] + b"x")
    (problem,) = verified(store.url(), "told").problems
    assert lost in problem
    assert extract(config.runs()["extract"]).captions.made == 0, "a plain run trusts the store's list"
    healed = rerun(RerunRun(pipeline=config, damaged=True, stages=EXTRACT))
    assert (healed.tried, healed.lost_texts) == ((), (names[first.clip_id],))
    assert f"rerun: 1 text of captions gone or damaged: {names[first.clip_id]}\ntext: 1 captions, 1" in healed.text()
    assert healed.snapshot is not None
    assert (healed.snapshot.snapshot.id, healed.new_version) == (told.snapshot.snapshot.id, False)
    assert verified(store.url(), "told").problems == ()
    store.delete(lost)
    assert rerun(RerunRun(pipeline=config, damaged=True, stages=EXTRACT)).lost_texts == (names[first.clip_id],)
    assert rerun(RerunRun(pipeline=config, damaged=True, stages=EXTRACT)).text().startswith("rerun: nothing to do")

    wrong = {**values, "extract": {"text": {"encoder": {"name": "log_mel"}}}}
    with pytest.raises(ConfigError, match="log_mel encodes audio, not text"):
        validate(PipelineRun, wrong, "test").check()


@pytest.mark.timeout(600)
def test_a_caption_that_fails_leaves_its_clips_out_and_a_refused_one_says_the_prompt(tmp_path: Path) -> None:
    config = with_text(settings(tmp_path), tmp_path)
    broken, odd, _ = cropped(config, "a woman", "a man is smiling", "a person")
    assert config.extract.text is not None
    names = TextNames(config.extract.text)
    write_note(Storage(config.place.store_url), names(odd), Refusal(caption="a man is smiling", why="of a test"))
    place = Storage(config.place.store_url).local_path(text_key(names(broken)))
    assert place is not None
    place.mkdir(parents=True)  # nothing can be written there
    runs: dict[str, Any] = config.runs()
    found = extract(runs["extract"])
    assert found.captions is not None
    assert (found.failed_clips, found.captions.failed, found.captions.made) == (1, {"disk": 1}, 2)
    assert "text: failed: 'a woman': disk: [Errno 21] Is a directory" in found.text()
    assert (found.snapshot.snapshot.num_rows, found.snapshot.snapshot.failed) == (2, {"disk": 1})
    standing = pipeline_status(config)
    assert (standing.clips.passed, standing.clips.failed) == (2, {"disk": 1})
    said = failed_clips(config, quarantined=True)
    assert [fate.clip_id for fate in said.fates] == [broken.clip_id]
    assert "caption 'a woman': disk: " in said.fates[0].measured
    assert "Traceback" in said.text(with_traceback=True)
    assert plan_pipeline(config).text().splitlines()[-2] == "text     4 captions: 1 retryable, 2 done, 1 refused"

    place.rmdir()
    healed = rerun(RerunRun(pipeline=config, stages=EXTRACT))
    assert (healed.tried, healed.failed_clips, healed.new_version) == ((broken.clip_id,), 0, True)
    data = SnapshotDataset(config.place.store_url, "told", 3)
    assert len({row.text for row in data.rows}) == 3
    (left,) = failed_clips(config, quarantined=True).captions
    assert (left.caption, left.outcome, left.why) == ("a man is smiling", "refused", "of a test")
    assert failed_clips(config, quarantined=False).captions == ()
    assert pipeline_status(config).clips.passed == 3
