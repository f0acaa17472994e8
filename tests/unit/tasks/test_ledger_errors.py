"""What a ledger that gives way says: the cause, the remedy, and no secret."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from dualforce_model.errors import InfrastructureError
from tasks.ledger import Ledger, LedgerError, Row
from tasks.records import Clip, Stage

DATASET = "demo"


def clip(name: str, parent: str | None = None) -> Clip:
    return Clip(clip_id=name, source="folder", video_id=f"v-{name}", location=f"/videos/{name}.mp4", parent_id=parent)


def done(name: str, key: str = "k", feature: str = "", stage: Stage = Stage.CURATE) -> Row:
    return Row(
        clip_id=name, stage=stage, feature=feature, state="done", key=key, value={"path": f"{name}.mp4", "n": 1.5}
    )


def test_an_at_sign_in_the_password_does_not_show_half_of_it() -> None:
    with pytest.raises(LedgerError, match="as %40") as caught:
        Ledger("postgresql://me:hun@ter2@host/db")
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    ["", "nonsense", "mysql://me:hunter2@host/db", "sqlite://", "sqlite:///:memory:", "postgresql://me:hunter2@[::/db"],
)
def test_a_useless_url_is_refused_without_quoting_it(bad: str) -> None:
    with pytest.raises(LedgerError, match="expected sqlite:///FOLDER") as caught:
        Ledger(bad)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_secrets_of_the_url_are_never_shown() -> None:
    with pytest.raises(LedgerError, match="cannot be opened") as caught:
        Ledger("postgresql://me:hunter2@127.0.0.1:1/db?sslpassword=swordfish&connect_timeout=2")
    assert "hunter2" not in str(caught.value)
    assert "swordfish" not in str(caught.value)
    assert "me:***@127.0.0.1" in str(caught.value)


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, " * 100)
    with pytest.raises(LedgerError, match="cannot be opened: file is not a database"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db")


def test_a_full_disk_is_one_clear_error_and_the_ledger_goes_on_when_there_is_room(tmp_path: Path) -> None:
    full = True

    def limit(connection: sa.Connection) -> None:  # SQLite takes a number below the file's pages for that of its pages
        connection.exec_driver_sql(f"PRAGMA max_page_count={1 if full else 1_000_000}")

    many = [clip(f"c{index}") for index in range(5000)]
    with Ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        sa.event.listen(ledger._engine, "begin", limit)
        with pytest.raises(LedgerError, match=r"ledger\.db: cannot be written: .*disk is full; check that the disk"):
            ledger.add_clips(DATASET, many)
        assert list(ledger.clips(DATASET)) == []
        full = False
        assert ledger.add_clips(DATASET, many) == 5000
        rows = [done(one.clip_id) for one in many]
        with ledger.lease(DATASET, Stage.CURATE, "run-1") as lease:
            full = True
            with pytest.raises(LedgerError, match="disk is full"):
                ledger.record(lease, rows)
            full = False
            ledger.record(lease, rows)
        assert len(ledger.rows(DATASET)) == 5000


def test_a_file_that_another_program_keeps_locked_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.ledger_engine.BUSY_S", 0)
    with Ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger, sqlite3.connect(tmp_path / "ledger.db") as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match=r"cannot be written: database is locked; check .* no other program"):
            ledger.add_clips(DATASET, [clip("a")])
        with pytest.raises(LedgerError, match="database is locked"), ledger.lease(DATASET, Stage.CURATE, "run-1"):
            pass
        other.rollback()
        assert ledger.add_clips(DATASET, [clip("a")]) == 1
    other.close()


def dropped(server: sa.Connection, name: str) -> Clip:
    """A clip; while it is fetched the server drops everybody's connections to a database."""
    pids = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    server.execute(pids, {"name": name})
    return clip("dropped")


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
def test_a_server_that_drops_the_connection_or_the_database_is_one_clear_error(
    ledger_url: str, administer: Callable[[str], sa.Engine]
) -> None:
    with Ledger(f"{ledger_url}&application_name=swordfish") as ledger:
        ledger.add_clips(DATASET, [clip("a")])
        engine, name = administer(ledger_url), str(sa.make_url(ledger_url).database)
        with engine.connect() as server:
            with pytest.raises(LedgerError, match=r"cannot be written: .*terminat.*check that the server is up"):
                ledger.add_clips(DATASET, (dropped(server, name) for _ in range(1)))
            assert ledger.add_clips(DATASET, [clip("b")]) == 1  # the next connection is a new one
            server.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        engine.dispose()
        with pytest.raises(LedgerError, match=r"cannot be written: .*does not exist") as caught:
            ledger.add_clips(DATASET, [clip("c")])
        assert "swordfish" not in str(caught.value)
        for read in (ledger.rows, ledger.holders, lambda dataset: list(ledger.clips(dataset))):
            with pytest.raises(LedgerError, match=r"cannot be read: .*check that the server is up"):
                read(DATASET)


def test_tables_that_are_gone_are_one_clear_error_to_every_reader(ledger: Ledger) -> None:
    with ledger._writing() as connection:
        for table in ("states", "clips", "leases"):
            connection.execute(sa.text(f"DROP TABLE {table}"))
    readers: list[Callable[[], object]] = [
        lambda: list(ledger.clips(DATASET)),
        ledger.datasets,
        lambda: ledger.rows(DATASET),
        lambda: ledger.holders(DATASET),
    ]
    for read in readers:
        with pytest.raises(LedgerError, match="cannot be read") as caught:
            read()
        assert isinstance(caught.value, InfrastructureError)
        assert caught.value.__suppress_context__


def test_a_lease_that_cannot_be_released_does_not_hide_what_ended_the_run(ledger: Ledger) -> None:
    def stumble() -> None:
        with ledger.lease(DATASET, Stage.CURATE, "run-1"):
            with ledger._writing() as connection:
                connection.execute(sa.text("DROP TABLE leases"))
                connection.execute(sa.text("DROP TABLE runs"))
            raise ZeroDivisionError

    with pytest.raises(LedgerError, match="cannot be written") as caught:
        stumble()
    told: BaseException | None = caught.value
    while told is not None and not isinstance(told, ZeroDivisionError):
        told = told.__cause__
    assert told is not None, "the traceback shows the run's own error"
