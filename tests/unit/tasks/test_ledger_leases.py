"""Who may write a stage, on both databases."""

import os
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa

from tasks.holder import Holder
from tasks.ledger import FencedOut, LeaseHeld, Ledger, Row
from tasks.ledger_tables import leases, runs
from tasks.records import Clip, Stage

DATASET = "demo"


def clip(name: str, parent: str | None = None) -> Clip:
    return Clip(clip_id=name, source="folder", video_id=f"v-{name}", location=f"/videos/{name}.mp4", parent_id=parent)


def done(name: str, key: str = "k", feature: str = "", stage: Stage = Stage.CURATE) -> Row:
    return Row(
        clip_id=name, stage=stage, feature=feature, state="done", key=key, value={"path": f"{name}.mp4", "n": 1.5}
    )


def test_a_run_that_holds_a_stage_twice_began_with_the_first(ledger: Ledger, ledger_url: str) -> None:
    engine, noted = sa.create_engine(ledger_url), list[sa.Row[tuple[float, float]]]()
    for _ in range(2):
        with ledger.lease(DATASET, Stage.EXTRACT, "run-1"):
            pass
        with engine.connect() as connection:
            noted.append(connection.execute(sa.select(runs.c.started_at, runs.c.ended_at)).one())
    engine.dispose()
    assert noted[0].started_at == noted[1].started_at < noted[0].ended_at < noted[1].ended_at


def test_a_second_run_is_refused_by_name_or_waits(ledger: Ledger, ledger_url: str) -> None:
    with Ledger(ledger_url) as other, ledger.lease(DATASET, Stage.CURATE, "run-1") as lease:
        with pytest.raises(LeaseHeld, match=rf"held by process {os.getpid()} on .*, run run-1, since .* UTC"):
            with other.lease(DATASET, Stage.CURATE, "run-2", wait_s=0.3):
                pass
        with other.lease(DATASET, Stage.EXTRACT, "run-2"), other.lease("another", Stage.CURATE, "run-2"):
            held = other.holders(DATASET)
        assert [(holding.stage, holding.run_id) for holding in held] == [
            (Stage.CURATE, "run-1"),
            (Stage.EXTRACT, "run-2"),
        ]
        assert held[0].holder == Holder.current()
        assert lease.fence == 1
        waited: list[int] = []

        def wait() -> None:
            with Ledger(ledger_url) as third, third.lease(DATASET, Stage.CURATE, "run-3", wait_s=20) as theirs:
                waited.append(theirs.fence)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
    thread.join(20)
    assert waited == [2]
    assert ledger.holders(DATASET) == []


def age(ledger: Ledger, **values: object) -> None:
    """Change the lease behind everybody's back."""
    with ledger._writing() as connection:
        connection.execute(leases.update().values(**values))


def test_an_expired_lease_is_taken_over_and_its_writes_are_refused(ledger: Ledger, ledger_url: str) -> None:
    ledger.add_clips(DATASET, [clip("a"), clip("b")])
    with Ledger(ledger_url) as other, ledger.lease(DATASET, Stage.CURATE, "sleeper") as stale:
        ledger.record(stale, [done("a")])
        age(ledger, expires_at=time.time() - 1, host="elsewhere")
        assert ledger.holders(DATASET) == []
        with other.lease(DATASET, Stage.CURATE, "taker") as fresh:
            assert fresh.fence == stale.fence + 1
            with pytest.raises(FencedOut, match="run sleeper lost curate of demo to run taker"):
                ledger.record(stale, [done("a", "wrong"), done("b", "wrong")])
            other.record(fresh, [done("b")])
        with pytest.raises(FencedOut):
            ledger.record(stale, [done("b", "wrong")])
    assert [(row.clip_id, row.key) for row in ledger.rows(DATASET)] == [("a", "k"), ("b", "k")]


def test_a_lease_lives_as_long_as_it_is_renewed(ledger_url: str) -> None:
    with Ledger(ledger_url, renew_s=0.1) as quick, quick.lease(DATASET, Stage.CURATE, "run-1"):
        age(quick, host="elsewhere")  # not by its process: only its renewals say that it lives
        first = quick.holders(DATASET)[0].expires_at
        time.sleep(0.8)
        assert quick.holders(DATASET)[0].expires_at > first
        with pytest.raises(LeaseHeld), quick.lease(DATASET, Stage.CURATE, "run-2"):
            pass


HOLDING = """
import sys, time
from tasks.ledger import Ledger
from tasks.records import Stage
with Ledger(sys.argv[1]) as ledger, ledger.lease("demo", Stage.CURATE, "victim"):
    print("held", flush=True)
    time.sleep(300)
"""


def test_a_killed_holder_is_taken_over_at_once(ledger: Ledger, ledger_url: str) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING, ledger_url], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(LeaseHeld, match=f"process {holder.pid} .* run victim"):
                with ledger.lease(DATASET, Stage.CURATE, "next"):
                    pass
        finally:
            holder.kill()
    with ledger.lease(DATASET, Stage.CURATE, "next") as lease:
        assert lease.fence == 2


def test_a_process_with_a_recycled_number_is_not_the_holder(ledger: Ledger) -> None:
    with ledger.lease(DATASET, Stage.CURATE, "old"):
        age(ledger, started_at=Holder.current().started_at - 3600)
        with ledger.lease(DATASET, Stage.CURATE, "new") as lease:
            assert lease.fence == 2


def test_many_takers_at_once_take_turns(ledger_url: str) -> None:
    Ledger(ledger_url).close()
    fences: list[int] = []

    def take(number: int) -> None:
        with Ledger(ledger_url) as one, one.lease(DATASET, Stage.ACQUIRE, f"run-{number}", wait_s=30) as lease:
            fences.append(lease.fence)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(fences) == [1, 2, 3, 4, 5]
