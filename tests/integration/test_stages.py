"""A stage on a real Prefect server, a real ledger and real worker processes: nothing is lost, nothing done twice."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from prefect import flow

from flows.server import PrefectServer
from tasks.leases import Lease, LeaseHeld
from tasks.ledger import Ledger, Relisting, Row
from tasks.place import Place
from tasks.pool import Job, PoolConfig, WorkerSpec
from tasks.records import Clip, Stage
from tasks.stages import NOTHING_AGAIN, Selection, StageConfig, StageHalted, StageSummary, run_stage
from tasks.work import Target, Work

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]
CLIPS = ("good1", "good2", "gone1", "bug1", "net1", "good3")
CONFIG = StageConfig(attempts=3, batch_clips=4, backoff_s=0.0)


class ScriptedWork(Work):
    """Clips whose names say what becomes of them."""

    stage = Stage.ACQUIRE

    def __init__(self, ledger: Ledger, place: Place, version: str = "1", names: Sequence[str] = CLIPS) -> None:
        super().__init__(place, ledger)
        self.version, self.names = version, names

    def enlist(self, lease: Lease) -> Relisting:
        return self.ledger.relist(
            lease, "x", [Clip(clip_id=name, source="x", video_id=name, location="x") for name in self.names]
        )

    @property
    def spec(self) -> WorkerSpec:
        return WorkerSpec(target="stage_workers:Scripted", kwargs={"folder": str(self.place.folder)})

    def targets(self) -> list[Target]:
        return [Target(name, f"{name}-{self.version if name == 'good1' else '1'}") for name in self.names]

    def intact(self, row: Row) -> bool:
        return not (self.place.folder / f"lost-{row.clip_id}").exists()

    def jobs(self, targets: Sequence[Target]) -> Iterator[Job]:
        for target in targets:
            self.serving[target.clip_id] = (target,)
            yield Job(target.clip_id, {"job_id": target.clip_id})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert str(Path(__file__).parent) in sys.path
    return Place(dataset="t", home=str(tmp_path))


def run(
    place: Place,
    selection: Selection = NOTHING_AGAIN,
    version: str = "1",
    names: Sequence[str] = CLIPS,
    workers: int = 1,
) -> StageSummary:
    @flow(name="stage")
    def one_stage() -> StageSummary:
        pool = PoolConfig(engine="local", workers=workers)
        return run_stage(
            Stage.ACQUIRE,
            lambda ledger: ScriptedWork(ledger, place, version, names),
            place,
            pool,
            CONFIG,
            selection,
            run_id="r",
        )

    return one_stage()


def calls(place: Place) -> list[str]:
    """Names of the jobs done since the last look."""
    log = place.folder / "calls"
    found = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def test_every_clip_ends_and_a_second_run_does_only_what_may_change(
    place: Place, prefect_server: PrefectServer
) -> None:
    first = run(place)
    assert (first.planned, first.done, first.impossible, first.failed) == (6, 3, {"gone": 1}, {"bug": 1, "network": 1})
    assert sorted(calls(place)) == sorted([*CLIPS, "net1", "net1"]), "the network is tried three times, a bug once"

    second = run(place)
    assert calls(place) == ["bug1"], "exhausted and impossible clips are left alone"
    assert second.kept == 3

    changed = run(place, version="2")
    assert sorted(calls(place)) == ["bug1", "good1"], "a changed key makes one clip stale and nothing else"
    assert changed.done == 1

    (place.folder / "healed").touch()
    healed = run(place, Selection(again=frozenset({"net1"})))
    assert sorted(calls(place)) == ["good1", "net1"], "good1 is back at version 1; bug1 is exhausted by now"
    assert healed.done == 2
    with Ledger(place.ledger_url) as ledger:
        assert {row.clip_id: row.state for row in ledger.rows("t")} == {
            "good1": "done",
            "good2": "done",
            "good3": "done",
            "gone1": "impossible",
            "bug1": "failed",
            "net1": "done",
        }


def test_no_worker_waits_for_the_last_clip_of_a_batch(place: Place) -> None:
    names = ["patient-good14", *[f"good{number}" for number in range(15)]]  # in batches of four: the fourth has good14
    summary = run(place, names=names, workers=2)
    assert (summary.done, summary.failed) == (16, {})


def test_a_full_disk_halts_the_stage_and_no_clip_is_charged_for_it(place: Place) -> None:
    (place.folder / "full").touch()
    for _ in range(CONFIG.attempts + 1):
        with pytest.raises(StageHalted, match=r"acquire was halted after 3 clips .*No space left on device"):
            run(place)
        assert len(calls(place)) < len(CLIPS), "nobody goes on against a full disk"
    (place.folder / "full").unlink()
    assert run(place).done == 3
    assert len(calls(place)) == len(CLIPS) + 2, "every clip has all its attempts still"


def test_what_was_lost_is_made_again_where_it_is_looked_for(place: Place) -> None:
    run(place)
    calls(place)
    (place.folder / "lost-good2").touch()
    assert run(place).lost == 0, "a plain run trusts the ledger"
    assert "good2" not in calls(place)
    found = run(place, Selection(again=frozenset({"good1", "good2"})))
    assert (found.lost, found.kept) == (1, 2)
    assert [name for name in calls(place) if name.startswith("good")] == ["good2"]
    assert "2 there already, 1 had been lost" in found.text()


def test_a_second_run_is_refused_and_told_who_holds_the_stage(place: Place) -> None:
    with Ledger(place.ledger_url) as ledger, ledger.lease("t", Stage.ACQUIRE, "first-run", 0.0):
        with pytest.raises(LeaseHeld, match="first-run"):
            run(place)
    assert calls(place) == []
