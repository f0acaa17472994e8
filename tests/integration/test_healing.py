"""A folder of real videos through the real flows: what leaves, changes, gets lost or damaged, and comes back."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dualforce_model import media
from dualforce_model.config import ConfigError, validate
from flows.acquire import acquire
from flows.curate import curate
from flows.extract import ExtractResult, extract
from flows.inspection import PipelinePlan, pipeline_status, plan_pipeline
from flows.pipeline import PipelineRun
from flows.rerun import RerunResult, RerunRun, rerun
from tasks.ledger import Ledger, Row
from tasks.records import FailureClass, Stage
from tasks.snapshot import SnapshotError
from tasks.snapshotting import build_from_ledger, verified
from tasks.stages import StageSummary
from tasks.synthetic.animate import render_clip
from tasks.synthetic.portraits import PORTRAITS
from tasks.synthetic.server import LoopbackServer
from tasks.synthetic.speech import synthesise

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]
SPEAKER = "astronaut"
Summaries = tuple[StageSummary, StageSummary, ExtractResult]


def talk(path: Path, seconds: float, seed: int) -> None:
    whole = int(np.ceil(seconds))
    sound = synthesise(PORTRAITS[SPEAKER].voice, whole, seed)
    frames = render_clip(SPEAKER, sound, seed).frames[: round(seconds * 25)]
    media.write_video(path, frames, sound[: len(frames) * 640])


def settings(home: Path) -> PipelineRun:
    values: dict[str, Any] = {
        "place": {"dataset": "mine", "home": str(home / "run")},
        "pool": {"engine": "local", "workers": 1},
        "stage": {"attempts": 2, "backoff_s": 0.0},
        "acquire": {"source": {"name": "folder", "folder": str(home / "videos")}},
        "curate": {"crop_px": 96, "max_clip_s": 2.5},
        "policy": str(home / "policy.yaml"),
        "snapshot": {"tag": "mine", "split": {"validation": 0.0}},
    }
    return validate(PipelineRun, values, "test")


def run(config: PipelineRun) -> Summaries:
    runs: dict[str, Any] = config.runs()
    return acquire(runs["acquire"]), curate(runs["curate"]), extract(runs["extract"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, prefect_server: object) -> Path:
    """A finished run over two videos: `long` is cut in two, `short` is one clip."""
    home = tmp_path_factory.mktemp("finished")
    talk(home / "videos/long.mp4", 5.0, 1)
    talk(home / "videos/short.mp4", 2.4, 2)
    policy = {"name": "any", "drop": {"duration_s": {"at_least": 1.0, "when_not_measured": "drop"}}}
    (home / "policy.yaml").write_text(yaml.safe_dump(policy))
    _, curated, extracted = run(settings(home))
    assert (curated.done, extracted.summary.done, extracted.failed_clips) == (3, 9, 0)
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    """The finished run's folder, moved to a place of its own; times of files stay."""
    shutil.copytree(finished, tmp_path / "home")
    return tmp_path / "home"


def rows(home: Path, stage: Stage) -> dict[str, Row]:
    with Ledger(settings(home).place.ledger_url) as ledger:
        return {f"{row.clip_id}/{row.feature}".rstrip("/"): row for row in ledger.rows("mine", stage)}


def only(names: Any, part: str) -> str:
    (found,) = [str(name) for name in names if part in str(name)]
    return found


def planned(found: Summaries) -> list[int]:
    return [found[0].planned, found[1].planned, found[2].summary.planned]


def test_a_folder_that_moved_is_done(home: Path) -> None:
    assert planned(run(settings(home))) == [0, 0, 0]


def test_a_video_that_leaves_is_left_out_and_back_without_work(home: Path) -> None:
    config = settings(home)
    before = build_from_ledger(config.place, config.policy, config.extract, config.snapshot).snapshot
    shutil.move(home / "videos/long.mp4", home / "long.mp4")
    plan = plan_pipeline(config).text().splitlines()
    assert (plan[0], plan[-1][:15]) == ("list     1 clip left it", "then a snapshot")
    left = run(config)
    assert (left[0].left, planned(left)) == (1, [0, 0, 0])
    assert "1 clip left the list, 0 came back" in left[0].text()
    assert left[2].snapshot.snapshot.num_rows == pipeline_status(config).clips.listed == 1
    shutil.move(home / "long.mp4", home / "videos/long.mp4")
    back = run(config)
    assert (back[0].returned, planned(back)) == (1, [0, 0, 0])
    assert back[2].snapshot.snapshot.id == before.id
    assert pipeline_status(config).clips.passed == 3


def test_a_video_edited_in_place_is_noticed_and_one_only_touched_makes_nothing_stale(home: Path) -> None:
    path = home / "videos/short.mp4"
    os.utime(path, (1, 1))
    assert planned(run(settings(home))) == [1, 0, 0]
    talk(path, 2.4, 3)
    changed = run(settings(home))
    assert planned(changed) == [1, 1, 3]
    assert changed[2].failed_clips == 0


def test_a_crop_of_a_video_that_changed_behind_the_ledger_is_refused(home: Path) -> None:
    run(settings(home))
    config = settings(home).model_copy(update={"curate": settings(home).curate.model_copy(update={"crf": 15})})
    talk(home / "videos/short.mp4", 2.4, 3)
    runs: dict[str, Any] = config.runs()
    summary = curate(runs["curate"])
    assert (summary.done, summary.failed, summary.failed_clips) == (2, {"disk": 1}, 1)
    row = next(row for row in rows(home, Stage.CURATE).values() if row.state == "failed")
    assert f"{home / 'videos/short.mp4'} is not the one that acquire read; run acquire" in row.detail
    assert planned(run(config)) == [1, 1, 9]


def heal(home: Path, *clip_ids: str, damaged: bool = False) -> RerunResult:
    return rerun(RerunRun(pipeline=settings(home), clip_ids=clip_ids, damaged=damaged))


def made(result: RerunResult) -> list[tuple[int, int]]:
    """Targets planned and lost, stage by stage."""
    return [(summary.planned, summary.lost) for summary in result.summaries]


def test_a_lost_crop_fails_with_its_remedy_and_a_rerun_heals_it(home: Path) -> None:
    clip_id = only(rows(home, Stage.CURATE), "short")
    crop = home / "run/media" / rows(home, Stage.CURATE)[clip_id].value["path"]
    whole = crop.read_bytes()
    crop.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # the same size
    extractor = settings(home).extract.model_dump(mode="json")
    extractor["structure"]["encoder"]["config"] = {"num_eye": 2}
    changed = settings(home).model_dump(mode="json") | {"extract": extractor}
    changed["train"]["encoders"]["structure"]["config"] = {"num_eye": 2}  # what training names is what extract uses
    config = validate(PipelineRun, changed, "test")
    runs: dict[str, Any] = config.runs()
    failed = extract(runs["extract"])
    assert (failed.summary.failed, failed.failed_clips) == ({"disk": 1}, 1)
    assert "1 clip failed (disk)" in failed.summary.text()
    row = rows(home, Stage.EXTRACT)[f"{clip_id}/structure"]
    assert (
        f"{clip_id}: the crop {crop} is not the one that curate wrote; `dualforce rerun` makes it again" in row.detail
    )
    healed = rerun(RerunRun(pipeline=config))
    assert (healed.tried, made(healed)) == ((clip_id,), [(0, 0), (1, 1), (1, 0)])
    assert crop.read_bytes() == whole
    assert healed.failed_clips == 0


def test_a_lost_shard_is_named_and_made_again(home: Path) -> None:
    config = settings(home)
    long = [clip_id for clip_id in rows(home, Stage.CURATE) if "long" in clip_id]
    shard = rows(home, Stage.EXTRACT)[f"{long[0]}/audio"].value["ref"]["shard"]
    path = home / "run/store" / shard
    before = build_from_ledger(config.place, config.policy, config.extract, config.snapshot).snapshot
    path.write_bytes(path.read_bytes()[:-1] + b"~")
    problems = verified(config.place.store_url, "mine").problems
    assert len(problems) == 1
    assert all(clip_id in problems[0] for clip_id in long)
    assert "`dualforce rerun --damaged` makes again" in problems[0]
    assert planned(run(config)) == [0, 0, 0], "a plain run trusts the ledger"
    found = heal(home, damaged=True)
    assert set(found.lost) == set(found.tried)
    assert 1 <= len(found.lost) <= 3
    assert made(found) == [(0, 0), (0, 0), (len(found.lost),) * 2]
    assert "Older versions that name a lost shard stay broken" in found.text()
    assert found.snapshot is not None
    assert (found.snapshot.snapshot.id, found.snapshot.snapshot.content) == (before.id, before.content)
    assert verified(config.place.store_url, "mine").problems == ()
    assert heal(home, damaged=True).tried == ()
    path = home / "run/store" / rows(home, Stage.EXTRACT)[f"{long[0]}/audio"].value["ref"]["shard"]
    path.unlink()
    with pytest.raises(SnapshotError, match=r"gone or damaged: .*`dualforce rerun --damaged --out"):
        build_from_ledger(config.place, config.policy, config.extract, config.snapshot)
    everyone = tuple(rows(home, Stage.CURATE))
    assert heal(home, *everyone).tried == everyone
    assert verified(config.place.store_url, "mine").problems == ()


def test_a_download_deleted_on_purpose_comes_back_only_if_a_crop_of_it_must_be_made(home: Path) -> None:
    web = home / "web"
    with LoopbackServer(home / "videos", {}) as server:
        web.mkdir()
        (web / "list.txt").write_text(server.url("short.mp4") + "\n")
        values = settings(home).model_dump(mode="json")
        values["place"]["home"] = str(web / "run")
        values["acquire"]["source"] = {"name": "urls", "file": str(web / "list.txt")}
        config = validate(PipelineRun, values, "test")
        run(config)
        (raw,) = (web / "run/media/raw").rglob("*.mp4")
        (crop,) = (web / "run/media/crops").rglob("*.mp4")
        with Ledger(config.place.ledger_url) as ledger:
            (clip,) = ledger.clips("mine")
        raw.unlink()
        kept = rerun(RerunRun(pipeline=config, clip_ids=(clip.clip_id,), damaged=True))
        assert (made(kept), raw.exists()) == ([(0, 0)] * 3, False)
        crop.unlink()
        runs: dict[str, Any] = config.runs()
        assert curate(runs["curate"]).planned == 0
        found = rerun(RerunRun(pipeline=config, damaged=True))
        assert (found.lost, made(found)) == ((clip.clip_id,), [(1, 1), (1, 1), (0, 0)])
        assert (raw.exists(), crop.exists()) == (True, True)


def test_named_clips_that_are_unknown_or_left_are_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="no clip 'nobody' in the list of mine"):
        heal(home, "nobody")


def test_parts_that_a_shard_holds_or_nobody_wants_are_swept_and_other_files_kept(home: Path) -> None:
    row = next(iter(rows(home, Stage.EXTRACT).values()))
    parts = home / "run/parts/mine"
    leak, stale, other = parts / row.value["part"], parts / "audio/unknown-0.safetensors", parts / "audio/notes.txt"
    for path in (leak, stale, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    run(settings(home))
    assert (leak.exists(), stale.exists(), other.exists()) == (False, False, True)


def test_a_clip_without_sound_has_its_other_features(home: Path) -> None:
    frames = list(media.read_frames(home / "videos/short.mp4"))
    media.write_video(home / "videos/silent.mp4", frames, None)
    summary = run(settings(home))[2].summary
    assert (summary.done, summary.impossible, summary.failed) == (2, {"no_sound": 1}, {})
    states = {name.split("/")[1]: row.state for name, row in rows(home, Stage.EXTRACT).items() if "silent" in name}
    assert states == {"audio": "impossible", "structure": "done", "video": "done"}
    assert pipeline_status(settings(home)).clips.quarantined == {"no_sound": 1}


def test_a_clip_whose_new_download_failed_is_counted_and_not_offered(home: Path) -> None:
    config = settings(home)
    with (
        Ledger(config.place.ledger_url) as ledger,
        ledger.lease(config.place.dataset, Stage.ACQUIRE, "r") as lease,
    ):
        (long,) = [row for row in ledger.rows(config.place.dataset, Stage.ACQUIRE) if "long" in row.clip_id]
        failed = {"state": "failed", "failure": FailureClass.NETWORK, "value": {}}
        ledger.record(lease, [long.model_copy(update=failed)])
    built = build_from_ledger(config.place, config.policy, config.extract, config.snapshot).snapshot
    standing = pipeline_status(config).clips
    assert (built.num_rows, standing.passed, standing.failed) == (1, 1, {"network": 1})


def test_a_plan_makes_nothing_and_says_what_waits(home: Path) -> None:
    shutil.rmtree(home / "run")
    before = sorted(home.rglob("*"))
    found: PipelinePlan = plan_pipeline(settings(home))
    assert sorted(home.rglob("*")) == before
    assert [len(found.stages[stage].todo) for stage in Stage] == [2, 0, 0]
    lines = found.text().splitlines()
    assert lines[1] == "curate   nothing to do; more when acquire has brought 2 clips"
    runs: dict[str, Any] = settings(home).runs()
    acquire(runs["acquire"])
    lines = plan_pipeline(settings(home)).text().splitlines()
    assert lines[2] == "extract  nothing to do; more when curate has brought 3 clips"
    assert pipeline_status(settings(home)).clips.waiting == 2
