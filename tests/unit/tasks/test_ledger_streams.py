"""Rows one at a time say the same as all rows at once."""

from pathlib import Path

from dualforce_model.config import digest, digest_after
from tasks.extract import ExtractConfig, FeatureKeys, wanted_features
from tasks.ledger import Ledger, Row
from tasks.planning import plan
from tasks.records import Clip, FailureClass, Stage

CLIPS = [Clip(clip_id=f"c{number}", source="x", video_id="v", location="x") for number in range(5)]


def filled(ledger: Ledger) -> None:
    """Clips c0 to c4, c4 off the list; two features of each, those of c1 failed."""
    ledger.add_clips("d", CLIPS)
    failed = {"state": "failed", "failure": FailureClass.CRASH, "attempts": 2}
    with ledger.lease("d", Stage.EXTRACT, "r") as lease:
        for feature in ("audio", "video"):
            said = [failed if clip.clip_id == "c1" else {"state": "done", "value": {"n": 1}} for clip in CLIPS]
            rows = [
                Row.model_validate(
                    {"clip_id": c.clip_id, "stage": Stage.EXTRACT, "feature": feature, "key": "k", **more}
                )
                for c, more in zip(CLIPS, said, strict=True)
            ]
            ledger.record(lease, rows)
        ledger.relist(lease, "x", CLIPS[:4])


def test_a_stream_has_the_rows_of_the_list(ledger: Ledger) -> None:
    filled(ledger)
    for state in (None, "done", "failed", "impossible"):
        rows = ledger.rows("d", Stage.EXTRACT, state)  # type: ignore[arg-type]
        streamed = ledger.stream("d", Stage.EXTRACT, state)  # type: ignore[arg-type]
        assert sorted(streamed, key=lambda row: (row.clip_id, row.feature)) == rows
    assert len(ledger.rows("d", Stage.EXTRACT)) == 8
    assert list(ledger.stream("d", Stage.CURATE)) == []


def test_rows_of_some_clips_are_theirs_alone(ledger: Ledger) -> None:
    filled(ledger)
    found = ledger.rows_of("d", Stage.EXTRACT, ["c0", "c3", "c4", "none"])
    assert sorted(found, key=lambda row: (row.clip_id, row.feature)) == [
        row for row in ledger.rows("d", Stage.EXTRACT) if row.clip_id in ("c0", "c3")
    ]
    assert ledger.rows_of("d", Stage.CURATE, ["c0"]) == ledger.rows_of("d", Stage.EXTRACT, []) == []


def test_clips_that_a_run_made_something_of_are_found_by_its_id(ledger: Ledger) -> None:
    filled(ledger)
    assert ledger.clips_of_run("d", Stage.EXTRACT, "r", 10) == ["c0", "c2", "c3"], "c1 failed, c4 left the list"
    some = ledger.clips_of_run("d", Stage.EXTRACT, "r", 2)
    assert len(set(some)) == 2
    assert set(some) < {"c0", "c2", "c3"}
    assert (
        ledger.clips_of_run("d", Stage.EXTRACT, "another", 10) == ledger.clips_of_run("d", Stage.CURATE, "r", 1) == []
    )


def test_a_stream_without_values_is_the_same_but_for_them(ledger: Ledger) -> None:
    filled(ledger)
    bare = sorted(ledger.stream("d", Stage.EXTRACT, values=False), key=lambda row: (row.clip_id, row.feature))
    assert bare == [row.model_copy(update={"value": {}}) for row in ledger.rows("d", Stage.EXTRACT)]


def test_standings_are_enough_for_a_plan(ledger: Ledger) -> None:
    filled(ledger)
    rows = {f"{row.clip_id}/{row.feature}": row for row in ledger.rows("d", Stage.EXTRACT)}
    standings = {f"{found.clip_id}/{found.feature}": found for found in ledger.standings("d", Stage.EXTRACT)}
    assert set(rows) == set(standings)
    wanted = {**dict.fromkeys(rows, "k"), "c0/audio": "other", "c9/audio": "k"}
    for attempts in (2, 3):
        planned = plan(wanted, standings, attempts=attempts)
        assert planned == plan(wanted, rows, attempts=attempts)
        assert planned.total == len(wanted) == 9


def test_a_stream_that_is_let_go_half_way_leaves_the_ledger_free(tmp_path: Path) -> None:
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        filled(ledger)
        half = ledger.stream("d", Stage.EXTRACT)
        next(half)
        ledger.add_clips("d", CLIPS)  # a reader does not keep a writer out
        del half
        assert len(list(ledger.stream("d", Stage.EXTRACT))) == 10, "adding a clip puts it back on the list"


def test_keys_made_for_many_are_the_keys_made_one_by_one() -> None:
    assert digest_after("a", {"b": 1})("c", [None]) == digest("a", {"b": 1}, "c", [None])
    assert digest_after("a")("b") == digest("a", "b")
    config = ExtractConfig()
    keys, wanted = FeatureKeys(config), wanted_features(config, "d" * 64)
    assert keys("d" * 64) == {modality: key for modality, (key, _) in wanted.items()}
    assert keys.of("audio", "d" * 64) == wanted["audio"][0]
    assert keys.of("of_another_release", "d" * 64) is None
