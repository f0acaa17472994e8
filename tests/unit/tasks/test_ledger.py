"""The ledger on both databases: nothing lost, nothing mixed, nothing told that should not be."""

import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given, settings
from hypothesis import strategies as st

from dualforce_model.errors import InfrastructureError
from tasks.holder import Holder
from tasks.ledger import FencedOut, LeaseHeld, Ledger, LedgerError, Row, StageCount
from tasks.ledger_tables import MIGRATIONS, REVISIONS, leases, metadata, upgrade
from tasks.records import Clip, FailureClass, Reason, Span, Stage

DATASET = "demo"


def server_program(name: str) -> str | None:
    """One of PostgreSQL's programs: Debian keeps them off the PATH, in a folder for each version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """URL, without database, of a private PostgreSQL server on a socket."""
    initdb, postgres = server_program("initdb"), server_program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("needs PostgreSQL's initdb and postgres, on the PATH or in /usr/lib/postgresql/*/bin")
    user = None
    if os.getuid() == 0:  # the server refuses to run as root
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("needs a user `postgres`, for the server refuses to run as root")
    with tempfile.TemporaryDirectory(prefix="dualforce-pg-") as folder:
        if user:
            shutil.chown(folder, user)
        base = {"user": user, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        data = f"{folder}/data"
        subprocess.run([initdb, "-D", data, "-U", "dualforce", "--no-sync", "-A", "trust"], check=True, **base)
        options = ["-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen([postgres, *options], **base)
        try:
            yield f"postgresql+psycopg://dualforce@/DATABASE?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # the fast way: it does not wait for clients
            server.wait(20)


def administration(url: str) -> sa.Engine:
    """The server's own database, for what cannot be done in a transaction or from within the database concerned."""
    return sa.create_engine(sa.make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of its own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/below/ledger.db"
    server = request.getfixturevalue("postgresql")
    name = f"t{time.monotonic_ns()}"
    engine = administration(server)
    end = time.monotonic() + 20
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
            break
        except sa.exc.OperationalError:
            assert time.monotonic() < end, "the server does not come up"
            time.sleep(0.1)
    engine.dispose()
    return str(server).replace("DATABASE", name)


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger(url) as opened:
        yield opened


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
    assert ledger.clip(DATASET, "z") == moved
    assert ledger.datasets() == [DATASET]
    assert list(ledger.clips("other")) == []
    with pytest.raises(KeyError, match="no clip nobody"):
        ledger.clip(DATASET, "nobody")


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


def test_counts_by_stage_reason_and_class(ledger: Ledger) -> None:
    ledger.add_clips(DATASET, [clip("a"), clip("b"), clip("c"), clip("a-0", "a"), clip("a-1", "a"), clip("a-2", "a")])
    record(
        ledger,
        done("a", stage=Stage.ACQUIRE),
        impossible("b", Reason.GONE, Stage.ACQUIRE),
        failed("c", 1, Stage.ACQUIRE),
    )
    record(ledger, done("a-0"), impossible("a-1", Reason.NO_FACE), failed("a-2", 3), failed("c", 2))
    record(ledger, done("a-0", feature="audio", stage=Stage.EXTRACT), done("a-0", feature="video", stage=Stage.EXTRACT))
    assert ledger.counts(DATASET) == [
        StageCount(stage=Stage.ACQUIRE, feature="", listed=3, done=1, impossible={"gone": 1}, failed={"crash": 1}),
        StageCount(
            stage=Stage.CURATE,
            feature="",
            listed=5,
            done=1,
            impossible={"no_face": 1},
            failed={"crash": 2},
            exhausted=1,
        ),
        StageCount(stage=Stage.EXTRACT, feature="audio", listed=5, done=1),
        StageCount(stage=Stage.EXTRACT, feature="video", listed=5, done=1),
    ]
    assert ledger.counts(DATASET, attempts=2)[1].exhausted == 2
    assert [count.listed for count in ledger.counts("nothing")] == [0, 0]


def test_a_second_run_is_refused_by_name_or_waits(ledger: Ledger, url: str) -> None:
    with Ledger(url) as other, ledger.lease(DATASET, Stage.CURATE, "run-1") as lease:
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
            with Ledger(url) as third, third.lease(DATASET, Stage.CURATE, "run-3", wait_s=20) as theirs:
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


def test_an_expired_lease_is_taken_over_and_its_writes_are_refused(ledger: Ledger, url: str) -> None:
    ledger.add_clips(DATASET, [clip("a"), clip("b")])
    with Ledger(url) as other, ledger.lease(DATASET, Stage.CURATE, "sleeper") as stale:
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


def test_a_lease_lives_as_long_as_it_is_renewed(url: str) -> None:
    with Ledger(url, renew_s=0.1) as quick, quick.lease(DATASET, Stage.CURATE, "run-1"):
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


def test_a_killed_holder_is_taken_over_at_once(ledger: Ledger, url: str) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING, url], stdout=subprocess.PIPE) as holder:
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


def test_many_takers_at_once_take_turns(url: str) -> None:
    Ledger(url).close()
    fences: list[int] = []

    def take(number: int) -> None:
        with Ledger(url) as one, one.lease(DATASET, Stage.ACQUIRE, f"run-{number}", wait_s=30) as lease:
            fences.append(lease.fence)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(fences) == [1, 2, 3, 4, 5]


RECORDING = """
import sys
from tasks.ledger import Ledger, Row
from tasks.records import Clip, Stage
with Ledger(sys.argv[1]) as ledger, ledger.lease("demo", Stage.CURATE, "victim") as lease:
    ledger.record(lease, [Row(clip_id=name, stage=Stage.CURATE, state="done", key="k") for name in "ab"])
"""


@pytest.mark.parametrize(("point", "kept"), [("ledger.before_commit", 0), ("ledger.after_commit", 2)])
def test_a_kill_around_the_commit_keeps_all_or_nothing(ledger: Ledger, url: str, point: str, kept: int) -> None:
    ledger.add_clips(DATASET, [clip("a"), clip("b")])
    killed = subprocess.run(
        [sys.executable, "-c", RECORDING, url], env={**os.environ, "DUALFORCE_KILL_AT": point}, check=False
    )
    assert killed.returncode == -9
    assert len(ledger.rows(DATASET)) == kept
    record(ledger, done("a"), done("b"))
    assert len(ledger.rows(DATASET)) == 2


def revised(url: str, revision: str) -> sa.Engine:
    """A database as an older release left it."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        upgrade(connection, revision)
    return engine


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_older_ledger_is_upgraded_and_keeps_its_data(url: str, revision: str) -> None:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir()
    engine = revised(url, revision)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO clips (dataset, clip_id, position, source, video_id, location, start_s, licence) "
                "VALUES ('demo', 'a', 0, 'folder', 'v-a', '/videos/a.mp4', 0.0, 'unknown')"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO states (dataset, clip_id, stage, feature, state, key, value, detail, attempts, "
                "run_id, updated_at) "
                "VALUES ('demo', 'a', 'curate', '', 'done', 'k', '{\"path\": \"a.mp4\"}', '', 0, 'old', 5.0)"
            )
        )
    engine.dispose()
    with Ledger(url) as ledger:
        assert list(ledger.clips(DATASET)) == [clip("a")]
        (row,) = ledger.rows(DATASET)
        assert (row.value, row.run_id, row.updated_at) == ({"path": "a.mp4"}, "old", 5.0)
        record(ledger, done("a", "k2"))
    with Ledger(url) as again:
        assert again.rows(DATASET)[0].key == "k2"


def test_the_migrations_make_exactly_the_tables_that_are_declared(ledger: Ledger) -> None:
    from alembic.autogenerate import compare_metadata

    script = ScriptDirectory(str(MIGRATIONS))
    assert [step.revision for step in reversed(list(script.walk_revisions()))] == list(REVISIONS)
    with ledger._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
        found = sa.inspect(connection)
        for name, table in metadata.tables.items():
            assert set(found.get_pk_constraint(name)["constrained_columns"]) == {key.name for key in table.primary_key}


def test_a_newer_ledger_is_refused_and_left_alone(url: str) -> None:
    with Ledger(url) as ledger, ledger._writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match=r"revision 9999, written by a newer release; this one knows up to 0002"):
        Ledger(url)


def test_an_upgrade_is_all_or_nothing(url: str) -> None:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir()
    revised(url, "0001").dispose()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE runs (x INTEGER)"))  # the second revision stumbles over it
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE runs"))
    engine.dispose()
    Ledger(url).close()


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
    monkeypatch.setattr("tasks.ledger.BUSY_S", 0)
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


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_server_that_drops_the_connection_or_the_database_is_one_clear_error(url: str) -> None:
    with Ledger(f"{url}&application_name=swordfish") as ledger:
        ledger.add_clips(DATASET, [clip("a")])
        engine, name = administration(url), str(sa.make_url(url).database)
        with engine.connect() as server:
            with pytest.raises(LedgerError, match=r"cannot be written: .*terminat.*check that the server is up"):
                ledger.add_clips(DATASET, (dropped(server, name) for _ in range(1)))
            assert ledger.add_clips(DATASET, [clip("b")]) == 1  # the next connection is a new one
            server.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        engine.dispose()
        with pytest.raises(LedgerError, match=r"cannot be written: .*does not exist") as caught:
            ledger.add_clips(DATASET, [clip("c")])
        assert "swordfish" not in str(caught.value)
        for read in (ledger.rows, ledger.counts, ledger.holders, lambda dataset: list(ledger.clips(dataset))):
            with pytest.raises(LedgerError, match=r"cannot be read: .*check that the server is up"):
                read(DATASET)


def test_tables_that_are_gone_are_one_clear_error_to_every_reader(ledger: Ledger) -> None:
    with ledger._writing() as connection:
        for table in ("states", "clips", "leases"):
            connection.execute(sa.text(f"DROP TABLE {table}"))
    readers: list[Callable[[], object]] = [
        lambda: list(ledger.clips(DATASET)),
        lambda: ledger.clip(DATASET, "a"),
        ledger.datasets,
        lambda: ledger.rows(DATASET),
        lambda: ledger.holders(DATASET),
        lambda: ledger.counts(DATASET),
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


def test_a_hundred_thousand_rows_are_no_matter(tmp_path: Path) -> None:
    number = 100_000
    with Ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        started = time.monotonic()
        ledger.add_clips(DATASET, (clip(f"c{index}") for index in range(number)))
        with ledger.lease(DATASET, Stage.CURATE, "run") as lease:
            ledger.record(lease, (done(f"c{index}") for index in range(number)))
        assert ledger.counts(DATASET)[1].done == number
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
