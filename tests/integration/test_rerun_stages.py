"""Stages that were run by themselves are rerun from what their folder keeps, like a pipeline's."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from dualforce_model import media
from dualforce_model.config import ConfigError
from flows.inspection import failed_clips
from flows.registry import load_flow, load_run
from flows.rerun import RerunResult, RerunRun, rerun
from flows.single import keep, kept_stages, load_chain, load_kept
from tasks.ledger import Ledger
from tasks.records import FailureClass, Stage

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]
CHAIN = ("acquire", "curate", "extract")


def landscape(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    texture = cv2.resize(rng.integers(0, 255, (6, 6, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    return [np.roll(texture, index // 2, axis=1) for index in range(55)]


def run_stages(folder: Path, *names: str) -> Path:
    """What `dualforce run STAGE` does, stage by stage, over two videos in a folder."""
    home = folder / "run"
    for seed in (1, 2):
        media.write_video(folder / "videos" / f"{seed}.mp4", landscape(seed), None)
    shared = {
        "place": {"dataset": "mine", "home": str(home)},
        "pool": {"engine": "local", "workers": 1},
        "stage": {"attempts": 1, "backoff_s": 0.0},
    }
    own: dict[str, dict[str, Any]] = {
        "acquire": {"acquire": {"source": {"name": "folder", "folder": str(folder / "videos")}}},
        "curate": {"curate": {"mode": "general", "crop_px": 64}},
        "extract": {
            "policy": "configs/policy/pretrain.yaml",
            "extract": {"modalities": ["video"]},
            "snapshot": {"tag": "mine", "split": {"validation": 0.0}},
        },
    }
    for name in names:
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(shared | own[name]))
        config, _ = load_run(name, path)
        keep(name, config, home)
        load_flow(name)(config)
    return home


def again(home: Path, **asked: Any) -> RerunResult:
    """What `dualforce rerun --out` does with a folder of single stages."""
    return rerun(RerunRun(pipeline=load_chain(home), stages=kept_stages(home), **asked))


def fail(home: Path, stage: Stage) -> str:
    """Let the ledger say that the first clip of a stage ended as exhausted there."""
    with Ledger(f"sqlite:///{home / 'ledger.db'}") as ledger:
        row = next(iter(ledger.rows("mine", stage=stage)))
        broken = row.model_copy(
            update={"state": "failed", "failure": FailureClass.NETWORK, "attempts": 20, "detail": "gone", "value": {}}
        )
        with ledger.lease("mine", stage, "test") as lease:
            ledger.record(lease, [broken])
    return row.clip_id


@pytest.mark.parametrize("stage", [Stage.ACQUIRE, Stage.CURATE, Stage.EXTRACT])
def test_an_exhausted_clip_is_tried_again_and_passes_through_the_whole_chain(tmp_path: Path, stage: Stage) -> None:
    home = run_stages(tmp_path, *CHAIN)
    assert not again(home).tried
    clip_id = fail(home, stage)
    moved = home.rename(tmp_path / "moved")
    result = again(moved)
    assert (result.tried, result.failed_clips) == ((clip_id,), 0)
    assert [summary.stage for summary in result.summaries] == list(Stage)[:3]
    done = {summary.stage: summary.done for summary in result.summaries}
    assert done[stage] == 1
    assert result.snapshot is not None
    assert result.snapshot.snapshot.num_rows == 2
    assert not again(moved).tried


def test_only_the_stages_that_were_run_are_run_again(tmp_path: Path) -> None:
    home = run_stages(tmp_path, "acquire", "curate")
    clip_id = fail(home, Stage.CURATE)
    assert [fate.clip_id for fate in failed_clips(load_kept(home), quarantined=False).fates] == [clip_id]
    result = again(home)
    assert [summary.stage for summary in result.summaries] == [Stage.ACQUIRE, Stage.CURATE]
    assert (result.tried, result.summaries[1].done, result.snapshot) == ((clip_id,), 1, None)
    assert not (home / "store").exists()


def test_lost_crops_are_found_and_named_clips_are_taken(tmp_path: Path) -> None:
    home = run_stages(tmp_path, "acquire", "curate")
    with Ledger(f"sqlite:///{home / 'ledger.db'}") as ledger:
        row = next(iter(ledger.rows("mine", stage=Stage.CURATE)))
    (home / "media" / str(row.value["path"])).unlink()
    assert not again(home).tried, "a plain rerun trusts the ledger"
    result = again(home, damaged=True)
    assert (result.lost, result.summaries[1].done) == ((row.clip_id,), 1)
    assert (home / "media" / str(row.value["path"])).is_file()
    assert again(home, clip_ids=(row.clip_id,)).tried == (row.clip_id,)


def test_a_clip_that_failed_where_nothing_is_kept_is_not_passed_over(tmp_path: Path) -> None:
    home = run_stages(tmp_path, "acquire", "curate")
    clip_id = fail(home, Stage.CURATE)
    (home / "last_curate.yaml").unlink()
    with pytest.raises(ConfigError, match=rf"\({clip_id} first\) failed in curate, of which .* keeps no settings"):
        again(home)


def test_what_the_chain_cannot_do_still_fails(tmp_path: Path) -> None:
    home = run_stages(tmp_path, *CHAIN)
    fail(home, Stage.ACQUIRE)
    shutil.rmtree(tmp_path / "videos")
    with pytest.raises(ConfigError, match=r"acquire\.source\.folder"):
        again(home)
