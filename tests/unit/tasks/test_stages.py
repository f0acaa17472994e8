"""What a stage run says it did."""

from tasks.artifacts import stage_markdown
from tasks.ledger import Row
from tasks.records import FailureClass, Reason, Stage
from tasks.stages import StageSummary, batch_result, by_clip, target_id
from tasks.work import Target


def row(clip_id: str, feature: str, state: str = "done") -> Row:
    return Row(
        clip_id=clip_id,
        stage=Stage.EXTRACT,
        feature=feature,
        state=state,  # type: ignore[arg-type]  # one of the three
        key="k",
        attempts=1 if state == "failed" else 0,
        reason=Reason.NO_SOUND if state == "impossible" else None,
        failure=FailureClass.DISK if state == "failed" else None,
    )


ROWS = [
    *[row("a", feature) for feature in ("audio", "video")],
    *[row("b", "audio", "impossible"), row("b", "video")],
    *[row("c", "audio", "impossible"), row("c", "structure", "failed"), row("c", "video", "failed")],
]


def test_a_clip_counts_once_by_its_worst_target() -> None:
    assert {clip_id: worst.state for clip_id, worst in by_clip(ROWS).items()} == {
        "a": "done",
        "b": "impossible",
        "c": "failed",
    }
    targets = [Target(one.clip_id, one.key, one.feature) for one in ROWS]
    result = batch_result(Stage.EXTRACT, targets, {target_id(one): one for one in ROWS})
    assert [len(group) for group in (result.done, result.quarantined, result.failed)] == [1, 1, 1]


def test_the_line_for_people_names_units() -> None:
    summary = StageSummary(
        stage=Stage.EXTRACT,
        planned=7,
        kept=2,
        lost=1,
        done=3,
        impossible={"no_sound": 1},
        failed={"disk": 2, "crash": 1},
        left=1,
        returned=2,
        seconds=1.0,
    )
    assert summary.failed_clips == 3
    assert summary.text().splitlines() == [
        "extract: 3 features, 1 clip no_sound, 2 clips failed (disk), 1 clip failed (crash), 2 there already, "
        "1 had been lost, 1.0 s",
        "  1 clip left the list, 2 came back",
    ]


def test_a_list_without_clips_is_no_quiet_success() -> None:
    empty = StageSummary(stage=Stage.ACQUIRE, planned=0, kept=0, done=0, seconds=0.0)
    assert empty.text() == "acquire: nothing to do, the list holds no clip"
    assert "no clip has come this far" in empty.model_copy(update={"stage": Stage.CURATE}).text()
    assert empty.model_copy(update={"kept": 3, "listed": 3}).text() == "acquire: nothing to do, 3 there already"


def test_what_came_in_is_told_with_its_speed_and_what_there_is_now() -> None:
    summary = StageSummary(
        stage=Stage.ACQUIRE,
        planned=3,
        kept=5,
        done=2,
        impossible={"private": 1},
        listed=8,
        num_bytes=30_000_000,
        seconds=4.0,
    )
    assert summary.text() == "acquire: 2 done, 1 clip private, 5 there already, 30.0 MB at 7.5 MB/s, 4.0 s"
    table = stage_markdown(summary)
    assert "3 to make, 4.0 s, 30.0 MB at 7.5 MB/s" in table
    assert "| **there now, of 8** | **7** (87.5%) |" in table
    assert "MB" not in summary.model_copy(update={"num_bytes": 0}).text()
