"""Clips and rows, on both databases: nothing lost, nothing mixed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.ledger import Ledger, LedgerError, Relisting, Row
from tasks.records import Clip, FailureClass, Reason, Span, Stage

DATASET = "demo"


def clip(name: str, parent: str | None = None) -> Clip:
    return Clip(clip_id=name, source="folder", video_id=f"v-{name}", location=f"/videos/{name}.mp4", parent_id=parent)


def done(name: str, key: str = "k", feature: str = "", stage: Stage = Stage.CURATE) -> Row:
    return Row(
        clip_id=name, stage=stage, feature=feature, state="done", key=key, value={"path": f"{name}.mp4", "n": 1.5}
    )


def failed(name: str, attempts: int, stage: Stage = Stage.CURATE) -> Row:
    what = FailureClass.CRASH
    return Row(clip_id=name, stage=stage, state="failed", failure=what, key="k", detail="a\x00b", attempts=attempts)


def impossible(name: str, reason: Reason, stage: Stage = Stage.CURATE) -> Row:
    return Row(clip_id=name, stage=stage, state="impossible", reason=reason, key="k", detail="0 of 10 frames")


def record(ledger: Ledger, *rows: Row, run_id: str = "run-1") -> None:
    with ledger.lease(DATASET, rows[0].stage, run_id) as lease:
        ledger.record(lease, rows)


def test_clips_keep_their_order_and_their_newest_values(ledger: Ledger) -> None:
    first = [clip(name) for name in ("z", "a", "m")]
    assert ledger.add_clips(DATASET, first) == 3
    assert list(ledger.clips(DATASET)) == first
    moved = first[0].model_copy(
        update={"location": "https://x/z.mp4", "span": Span(start_s=1, end_s=2.5), "identity": "Ада"}
    )
    assert ledger.add_clips(DATASET, [clip("new"), moved]) == 1
    assert list(ledger.clips(DATASET)) == [moved, first[1], first[2], clip("new")]
    assert ledger.datasets() == [DATASET]
    assert list(ledger.clips("other")) == []


def relist(ledger: Ledger, *found: Clip, source: str = "folder") -> Relisting:
    with ledger.lease(DATASET, Stage.ACQUIRE, "run-1") as lease:
        return ledger.relist(lease, source, found)


def known(ledger: Ledger) -> tuple[list[str], list[str]]:
    """Ids of clips, and of clips with rows."""
    return [one.clip_id for one in ledger.clips(DATASET)], sorted({row.clip_id for row in ledger.rows(DATASET)})


def test_a_clip_that_leaves_the_list_is_left_out_with_its_pieces_and_comes_back_as_it_was(ledger: Ledger) -> None:
    other = clip("other").model_copy(update={"source": "urls"})
    ledger.add_clips(DATASET, [other])
    assert relist(ledger, clip("a"), clip("b")) == Relisting(new=2)
    ledger.add_clips(DATASET, [clip("a-1", "a"), clip("a-2", "a")])
    record(ledger, done("a", stage=Stage.ACQUIRE), done("b", stage=Stage.ACQUIRE))
    record(ledger, done("a-1"), done("b"), done("other"))
    before = (list(ledger.clips(DATASET)), ledger.rows(DATASET))
    assert relist(ledger, clip("b"), clip("c")) == Relisting(new=1, left=1)
    assert known(ledger) == (["other", "b", "c"], ["b", "other"])
    assert [row.clip_id for row in ledger.rows(DATASET, Stage.CURATE, "done")] == ["b", "other"]
    everything = ledger.rows(DATASET, Stage.CURATE, unlisted=True)
    assert [row.clip_id for row in everything] == ["a-1", "b", "other"]
    assert relist(ledger, clip("b")) == Relisting(left=1)
    assert relist(ledger, clip("a"), clip("b")) == Relisting(returned=1)
    assert (list(ledger.clips(DATASET)), ledger.rows(DATASET)) == before
    assert relist(ledger, clip("a"), clip("b")) == Relisting()


@settings(max_examples=20)
@given(st.lists(st.sets(st.sampled_from("abcd")), min_size=1, max_size=6))
def test_what_is_listed_is_what_the_list_had_last(
    tmp_path_factory: pytest.TempPathFactory, lists: list[set[str]]
) -> None:
    with Ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/l.db") as ledger:
        before, ever = set[str](), set[str]()
        for names in lists:
            changed = relist(ledger, *[clip(name) for name in sorted(names)])
            assert (changed.new, changed.left) == (len(names - ever), len(before - names))
            assert changed.returned == len((names & ever) - before)
            assert {one.clip_id for one in ledger.clips(DATASET)} == names
            before, ever = names, ever | names


def test_who_only_looks_makes_nothing(ledger_url: str, tmp_path: Path) -> None:
    with Ledger(ledger_url, missing="empty") as nothing:
        assert (list(nothing.clips(DATASET)), nothing.rows(DATASET), nothing.holders(DATASET)) == ([], [], [])
    with pytest.raises(LedgerError, match=r"there is none; check the URL"):
        Ledger(ledger_url, missing="refuse")
    assert list(tmp_path.iterdir()) == []
    with Ledger(ledger_url) as made:
        made.add_clips(DATASET, [clip("a")])
    with Ledger(ledger_url, missing="empty") as found, Ledger(ledger_url, missing="refuse") as same:
        assert list(found.clips(DATASET)) == list(same.clips(DATASET)) == [clip("a")]


def test_rows_come_back_as_they_went_in_and_are_overwritten_by_id(ledger: Ledger) -> None:
    ledger.add_clips(DATASET, [clip(name) for name in "abc"])
    started = time.time()
    record(ledger, done("a"), impossible("b", Reason.NO_FACE), failed("c", 1))
    rows = ledger.rows(DATASET)
    assert [row.state for row in rows] == ["done", "impossible", "failed"]
    assert rows[0].value == {"path": "a.mp4", "n": 1.5}
    assert rows[2].detail == "a\ufffdb"
    assert all(row.run_id == "run-1" and row.updated_at >= started - 1 for row in rows)
    record(ledger, done("c", "k2"), run_id="run-2")
    assert [row.clip_id for row in ledger.rows(DATASET, Stage.CURATE, "done")] == ["a", "c"]
    assert ledger.rows(DATASET, Stage.EXTRACT) == []
    assert ledger.rows(DATASET, stage=Stage.CURATE)[2].key == "k2"
    assert ledger.rows(DATASET, stage=Stage.CURATE)[2].attempts == 0


def test_a_record_is_all_or_nothing(ledger: Ledger) -> None:
    ledger.add_clips(DATASET, [clip("a")])
    with pytest.raises(LedgerError, match="never added"):
        record(ledger, done("a"), done("stranger"))
    with pytest.raises(ValueError, match="two rows for feature"):
        record(ledger, done("a"), done("a"))
    with pytest.raises(ValueError, match="under a lease on curate"):
        record(ledger, done("a"), done("a", stage=Stage.EXTRACT, feature="audio"))
    assert ledger.rows(DATASET) == []


RECORDING = """
import sys
from tasks.ledger import Ledger, Row
from tasks.records import Clip, Stage
with Ledger(sys.argv[1]) as ledger, ledger.lease("demo", Stage.CURATE, "victim") as lease:
    ledger.record(lease, [Row(clip_id=name, stage=Stage.CURATE, state="done", key="k") for name in "ab"])
"""


@pytest.mark.parametrize(("point", "kept"), [("ledger.before_commit", 0), ("ledger.after_commit", 2)])
def test_a_kill_around_the_commit_keeps_all_or_nothing(ledger: Ledger, ledger_url: str, point: str, kept: int) -> None:
    ledger.add_clips(DATASET, [clip("a"), clip("b")])
    killed = subprocess.run(
        [sys.executable, "-c", RECORDING, ledger_url], env={**os.environ, "DUALFORCE_KILL_AT": point}, check=False
    )
    assert killed.returncode == -9
    assert len(ledger.rows(DATASET)) == kept
    record(ledger, done("a"), done("b"))
    assert len(ledger.rows(DATASET)) == 2


def test_a_hundred_thousand_rows_are_no_matter(tmp_path: Path) -> None:
    number = 100_000
    with Ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        started = time.monotonic()
        ledger.add_clips(DATASET, (clip(f"c{index}") for index in range(number)))
        with ledger.lease(DATASET, Stage.CURATE, "run") as lease:
            ledger.record(lease, (done(f"c{index}") for index in range(number)))
        assert len(ledger.rows(DATASET, Stage.CURATE, "done")) == number
        assert time.monotonic() - started < 60


@pytest.mark.parametrize("state", ["done", "impossible", "failed"])
def test_a_row_says_why_exactly_when_it_must(state: str) -> None:
    base = {"clip_id": "a", "stage": "curate", "state": state, "key": "k"}
    reasons: dict[str, dict[str, str]] = {"done": {}, "impossible": {"reason": "no_face"}, "failed": {"failure": "bug"}}
    for name, why in reasons.items():
        build: Callable[[], Row] = lambda why=why: Row.model_validate({**base, **why})  # noqa: E731
        if name == state:
            assert build().state == state
        else:
            with pytest.raises(ValueError, match="exactly the impossible have a reason"):
                build()


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
VALUES = st.dictionaries(
    TEXT,
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(VALUES, TEXT, TEXT), min_size=1), st.integers(1, 3))
def test_whatever_is_recorded_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, tuple[dict[str, object], str, str]], times: int
) -> None:
    rows = [
        Row(
            clip_id=name,
            stage=Stage.CURATE,
            state="done",
            key=key,
            detail=detail,
            value=value,
            run_id="r",
            updated_at=1.0,
        )
        for name, (value, key, detail) in sorted(said.items())
    ]
    with Ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/l.db") as ledger:
        ledger.add_clips(DATASET, [clip(name) for name in "abcdef"])
        for _ in range(times):
            record(ledger, *rows)
        assert ledger.rows(DATASET) == rows
