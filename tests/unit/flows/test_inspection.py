"""What `plan` says of reasons, and `failures` of captions without a text."""

from pathlib import Path
from typing import Any

from dualforce_model.config import validate
from flows.inspection import CaptionFate, FailureReport, StagePlan, plan_pipeline
from flows.pipeline import PipelineRun
from tasks.acquiring import AcquireWork
from tasks.ledger import Ledger, Row
from tasks.planning import PlanPart
from tasks.records import FailureClass, Stage


def failed(caption: str, why: str, failure: FailureClass = FailureClass.BUG) -> CaptionFate:
    return CaptionFate(caption=caption, outcome="failed", failure=failure, why=why)


def test_captions_that_begin_alike_keep_their_tracebacks() -> None:
    alike = "a person is talking to the camera in front of a white wall, " * 2
    captions = (failed(f"{alike} one", "Traceback\nof one"), failed(f"{alike} two", "Traceback\nof two"))
    text = FailureReport(policy="p", fates=(), tracebacks={"c1": "of a clip"}, captions=captions).text(True)
    assert all(f"Traceback\nof {which}" in text for which in ("one", "two"))
    assert "c1\nof a clip" in text


def test_of_what_says_itself_why_it_is_temporary_a_row_has_the_message_alone() -> None:
    why = "Traceback\ntasks.records.Temporary: disk: no room"
    assert failed("a man", why, FailureClass.DISK).row() == ("'a man'", "failed", "disk", "no room")


def planned_run(folder: Path) -> PipelineRun:
    """Four listed videos: one never tried, one edited since it was read, one that failed once, one too often."""
    (folder / "videos").mkdir()
    for name in ("new", "edited", "failed", "exhausted"):
        (folder / f"videos/{name}.mp4").write_bytes(b"video")
    settings = {
        "place": {"dataset": "mine", "home": str(folder / "run")},
        "acquire": {"source": {"name": "folder", "folder": str(folder / "videos")}},
        "stage": {"attempts": 2},
    }
    run = validate(PipelineRun, settings, "test")
    rows: dict[str, dict[str, Any]] = {
        "edited": {"state": "done", "value": {"num_bytes": 4, "mtime_ns": 0, "digest": "d", "duration_s": 1.0}},
        "failed": {"state": "failed", "failure": "crash", "attempts": 1},
        "exhausted": {"state": "failed", "failure": "crash", "attempts": 2},
    }
    with Ledger(run.place.ledger_url) as ledger, ledger.lease("mine", Stage.ACQUIRE, "r") as lease:
        work = AcquireWork(run.acquire, run.place, ledger)
        work.enlist(lease)
        for target in work.targets():
            for name, said in rows.items():
                if name in target.clip_id:
                    key = "another" if name == "edited" else target.key
                    row = {"clip_id": target.clip_id, "stage": Stage.ACQUIRE, "key": key, **said}
                    ledger.record(lease, [Row.model_validate(row)])
    return run


def test_a_plan_says_why(tmp_path: Path) -> None:
    found = plan_pipeline(planned_run(tmp_path))
    lines = found.text().splitlines()
    assert lines[:2] == ["acquire  1 new, 1 changed, 1 retryable, 1 exhausted", "  changed: a file of another size"]
    assert [line.split(":")[0] for line in lines[-2:]] == ["retryable", "exhausted"]
    assert "`rerun` tries again" in lines[-1]
    acquire = found.model_dump(mode="json")["stages"]["acquire"]
    assert acquire["parts"] == [
        {
            "feature": "",
            "numbers": {"new": 1, "changed": 1, "retryable": 1, "exhausted": 1},
            "changed_for": {"a file of another size": 1},
            "looked_at": 1,
        }
    ]
    assert acquire["why"].keys() == {"retryable", "exhausted"}


def test_each_feature_of_a_plan_has_a_line_below_its_stage() -> None:
    part = PlanPart(feature="audio", numbers={"new": 1})
    planned = StagePlan(
        new=("c/audio",), done=("c/video",), parts=(part, PlanPart(feature="video", numbers={"done": 1}))
    )
    assert planned.text().splitlines() == ["1 new, 1 done", "  audio     1 new"]
