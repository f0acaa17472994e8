"""What is known of each clip at each stage: an SQLite file, or PostgreSQL when there is more than one machine.

    with Ledger("sqlite:///runs/demo/ledger.db") as ledger, ledger.lease("demo", Stage.CURATE, run_id) as lease:
        ledger.record(lease, rows)

Rows are written under a lease, in one transaction that checks the lease's fence: a run that lost its lease, to a
takeover it slept through, stores nothing. SQLite runs in WAL mode, so the file must be on a local disk.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from dualforce_model import faults
from tasks import leases
from tasks.holder import Holder
from tasks.leases import FencedOut, Lease, LeaseHeld
from tasks.ledger_engine import LedgerError, engine_of, make_folder, parse
from tasks.ledger_tables import (
    REVISIONS,
    Holding,
    Relisting,
    Row,
    State,
    clip_of,
    clip_values,
    clips,
    revision_of,
    row_of,
    row_values,
    runs,
    states,
    upgrade,
)
from tasks.planning import Standing
from tasks.records import Clip, Stage

__all__ = ["FencedOut", "Holding", "Lease", "LeaseHeld", "Ledger", "LedgerError", "Relisting", "Row"]

CHUNK = 2000  # rows that travel to or from the database at a time
UPGRADE_LOCK = 0x6475616C  # PostgreSQL's advisory lock while tables are made or changed
FILE_REMEDY = "check that the disk has room, the file is sound and writable and no other program keeps it locked"
SERVER_REMEDY = "check that the server is up, within reach and has room, and that the user may use the database"


Missing = Literal["make", "empty", "refuse"]  # what to do where no ledger is


class Ledger:
    """All data sets' clips and their states. Usable from several threads; one process writes a stage at a time."""

    def __init__(self, url: str, *, missing: Missing = "make", renew_s: float = 30.0) -> None:
        """Open or upgrade the ledger at a SQLAlchemy URL. Leases are renewed every `renew_s` seconds.

        One that is not there yet is made, or counts as empty and stays away (for who only looks), or is refused.
        """
        self._url = parse(url)
        self._renew_s = renew_s
        self._engine = engine_of(self._url)
        try:
            if missing == "make":
                make_folder(self._url)
            elif not self._is_there():
                self._do_without(missing)
            self._bring_up_to_date()
        except sa.exc.SQLAlchemyError as error:
            self.close()
            raise LedgerError(f"{self}: cannot be opened: {self._without_secrets(error)}") from None
        except LedgerError:
            self.close()
            raise

    def __str__(self) -> str:
        return f"ledger {self._url.set(query={}).render_as_string(hide_password=True)}"

    def __repr__(self) -> str:
        return f"<{self}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def add_clips(self, dataset: str, found: Iterable[Clip]) -> int:
        """Add clips in their order; known ones are updated and keep their place. Returns how many were new."""
        with self._writing() as connection:
            return self._add(connection, dataset, found)

    def relist(self, lease: Lease, source: str, found: Iterable[Clip]) -> Relisting:
        """Make a source's clips those that its list has now; nothing is forgotten of the ones that leave.

        Until they are back, clips that left and the pieces cut from them are not among `clips` and `rows`.
        """
        of_source = (clips.c.dataset == lease.dataset, clips.c.source == source)
        listed = sa.select(clips.c.clip_id, clips.c.listed).where(*of_source, clips.c.parent_id.is_(None))
        with self._writing() as connection:
            leases.check(connection, lease)
            before = {clip_id: is_listed for clip_id, is_listed in connection.execute(listed)}
            now: set[str] = set()
            new = self._add(connection, lease.dataset, _noted(found, now))
            left = [clip_id for clip_id, is_listed in before.items() if is_listed and clip_id not in now]
            returned = [clip_id for clip_id, is_listed in before.items() if not is_listed and clip_id in now]
            for clip_ids, is_listed in ((left, False), (returned, True)):
                for _, chunk in _chunks(clip_ids):
                    these = clips.c.clip_id.in_(chunk) | clips.c.parent_id.in_(chunk)
                    connection.execute(sa.update(clips).where(*of_source, these).values(listed=is_listed))
        return Relisting(new=new, left=len(left), returned=len(returned))

    def clips(self, dataset: str) -> Iterator[Clip]:
        """All listed clips in the order they were added, read in pages: nothing stays open between two of them."""
        position = -1
        page = sa.select(clips).where(clips.c.dataset == dataset, clips.c.listed)
        page = page.order_by(clips.c.position).limit(CHUNK)
        while True:
            with self._reading() as connection:
                found = connection.execute(page.where(clips.c.position > position)).mappings().all()
            if not found:
                return
            yield from (clip_of(columns) for columns in found)
            position = found[-1]["position"]

    def clips_of(self, dataset: str, clip_ids: Iterable[str]) -> list[Clip]:
        """Those of these clips that are listed, in no order."""
        found: list[Clip] = []
        for _, chunk in _chunks(clip_ids):
            query = sa.select(clips).where(clips.c.dataset == dataset, clips.c.listed, clips.c.clip_id.in_(chunk))
            found += [clip_of(columns) for columns in self._each(query)]
        return found

    def datasets(self) -> list[str]:
        """Names of the data sets that have clips."""
        with self._reading() as connection:
            return list(connection.execute(sa.select(clips.c.dataset).distinct().order_by(clips.c.dataset)).scalars())

    def rows(
        self, dataset: str, stage: Stage | None = None, state: State | None = None, *, unlisted: bool = False
    ) -> list[Row]:
        """Rows of a data set, ordered by stage, clip and feature; of one stage or state if asked.

        With `unlisted`, also those of clips that left the list.
        """
        query = self._states(list(states.columns), dataset, stage, state, unlisted)
        query = query.order_by(states.c.stage, states.c.clip_id, states.c.feature)
        return [row_of(columns) for columns in self._each(query)]

    def stream(
        self, dataset: str, stage: Stage, state: State | None = None, *, values: bool = True, unlisted: bool = False
    ) -> Iterator[Row]:
        """Rows of a stage in no order, one at a time: a large data set's do not fit into memory together.

        Without `values`, which are most of a row, these are empty; with `unlisted`, those of clips that left the list
        are among them. A read transaction is open until the last row.
        """
        columns = [sa.literal("{}").label("value") if c.name == "value" and not values else c for c in states.columns]
        return (row_of(found) for found in self._each(self._states(columns, dataset, stage, state, unlisted)))

    def rows_of(self, dataset: str, stage: Stage, clip_ids: Iterable[str]) -> list[Row]:
        """Rows of these clips at a stage."""
        found: list[Row] = []
        for _, chunk in _chunks(clip_ids):
            query = self._states(list(states.columns), dataset, stage, None, False)
            found += [row_of(columns) for columns in self._each(query.where(states.c.clip_id.in_(chunk)))]
        return found

    def clips_of_run(self, dataset: str, stage: Stage, run_id: str, limit: int) -> list[str]:
        """Some clips of which a run made something that is still there, at most `limit`; no values are read for it."""
        query = self._states([states.c.clip_id], dataset, stage, "done", False).where(states.c.run_id == run_id)
        with self._reading() as connection:
            return sorted(connection.execute(query.distinct().limit(limit)).scalars())

    def standings(self, dataset: str, stage: Stage) -> Iterator[Standing]:
        """What a plan asks of a stage's rows, in no order, one at a time."""
        columns = [states.c.clip_id, states.c.feature, states.c.key, states.c.state, states.c.attempts]
        query = self._states(columns, dataset, stage, None, False).execution_options(yield_per=CHUNK)
        with self._reading() as connection:
            for clip_id, feature, key, state, attempts in connection.execute(query):
                yield Standing(clip_id, sys.intern(feature), key, sys.intern(state), attempts)  # type: ignore[arg-type]

    def record(self, lease: Lease, rows: Iterable[Row]) -> None:
        """Store rows of the lease's stage in one transaction: all or none.

        Raises FencedOut if the lease was taken over, LedgerError for a clip that was never added, ValueError for a row
        of another stage or two rows of one thing.
        """
        now, seen = time.time(), set[tuple[str, str]]()
        try:
            with self._writing() as connection:
                leases.check(connection, lease)
                upsert = self._upsert(states)
                for _, chunk in _chunks(rows):
                    _refuse_strangers(lease, chunk, seen)
                    connection.execute(upsert, [row_values(lease.dataset, row, lease.run_id, now) for row in chunk])
                faults.point("ledger.before_commit")
        except sa.exc.IntegrityError as error:
            raise LedgerError(
                f"{self}: rows of {lease.dataset} name a clip that was never added: {self._without_secrets(error)}; "
                "add_clips comes before record"
            ) from None
        faults.point("ledger.after_commit")

    def forget(self, lease: Lease, clip_ids: Iterable[str]) -> None:
        """Drop training clips that are no longer cut: what later stages know of them, and the pieces themselves.

        Listed clips and their downloads stay. Features stay in the store as long as a snapshot names them.
        """
        with self._writing() as connection:
            leases.check(connection, lease)
            for _, chunk in _chunks(clip_ids):
                here = (states.c.dataset == lease.dataset, states.c.clip_id.in_(chunk))
                connection.execute(sa.delete(states).where(*here, states.c.stage != Stage.ACQUIRE.value))
                pieces = (clips.c.dataset == lease.dataset, clips.c.clip_id.in_(chunk), clips.c.parent_id.is_not(None))
                connection.execute(sa.delete(clips).where(*pieces))

    @contextmanager
    def lease(self, dataset: str, stage: Stage, run_id: str, wait_s: float = 0.0) -> Iterator[Lease]:
        """Hold the right to write a stage. Raises LeaseHeld, naming the holder, after waiting `wait_s` for it."""
        with leases.held(self._writing, dataset, stage, run_id, wait_s=wait_s, renew_s=self._renew_s) as lease:
            this = {"run_id": run_id, "dataset": dataset, "stage": stage.value}
            holder = Holder.current()
            began = {**this, "host": holder.host, "pid": holder.pid, "started_at": time.time(), "ended_at": None}
            with self._writing() as connection:
                connection.execute(self._upsert(runs, keep=("started_at",)), [began])  # a run may hold it twice
            try:
                yield lease
            finally:
                with self._writing() as connection:
                    connection.execute(runs.update().filter_by(**this).values(ended_at=time.time()))

    def holders(self, dataset: str) -> list[Holding]:
        """Who works on the data set right now, by stage."""
        with self._reading() as connection:
            return leases.holdings(connection, dataset)

    def _states(
        self, columns: list[Any], dataset: str, stage: Stage | None, state: State | None, unlisted: bool
    ) -> sa.Select[Any]:
        query = sa.select(*columns).where(states.c.dataset == dataset)
        if not unlisted:
            same = (clips.c.dataset == states.c.dataset) & (clips.c.clip_id == states.c.clip_id)
            query = query.join(clips, same).where(clips.c.listed)
        if stage is not None:
            query = query.where(states.c.stage == stage.value)
        return query if state is None else query.where(states.c.state == state)

    def _each(self, query: sa.Select[Any]) -> Iterator[sa.RowMapping]:
        with self._reading() as connection:
            yield from connection.execute(query.execution_options(yield_per=CHUNK)).mappings()

    def _add(self, connection: sa.Connection, dataset: str, found: Iterable[Clip]) -> int:
        number = sa.select(sa.func.count()).select_from(clips).where(clips.c.dataset == dataset)
        before = connection.execute(number).scalar_one()
        highest = sa.select(sa.func.max(clips.c.position)).where(clips.c.dataset == dataset)
        last = connection.execute(highest).scalar_one()
        upsert = self._upsert(clips, keep=("position",))
        for offset, chunk in _chunks(found):
            first = (-1 if last is None else last) + 1 + offset
            connection.execute(upsert, [clip_values(dataset, first + index, clip) for index, clip in enumerate(chunk)])
        return int(connection.execute(number).scalar_one() - before)

    def _is_there(self) -> bool:
        """Whether there is a ledger at the URL; looking makes none."""
        if self._url.get_backend_name() == "sqlite" and not Path(str(self._url.database)).is_file():
            return False
        with self._engine.connect() as connection:
            return revision_of(connection) is not None

    def _do_without(self, missing: Missing) -> None:
        """No ledger is there: nothing is known, which an empty one in memory says to whoever asks."""
        if missing == "refuse":
            raise LedgerError(f"{self}: there is none; check the URL")
        self._engine.dispose()
        self._engine = sa.create_engine(
            "sqlite://", poolclass=sa.pool.StaticPool, connect_args={"check_same_thread": False}
        )

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """One read transaction; a database that gives way is a LedgerError."""
        with self._naming("read"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One write transaction; a database that gives way is a LedgerError, a broken rule an IntegrityError."""
        with self._naming("written"), self._transaction() as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """SQLite's write lock is taken at the start of a write: a reader cannot always become a writer."""
        with self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def _naming(self, verb: str) -> Iterator[None]:
        """Whatever the database raises becomes a LedgerError that names the ledger, without secrets, and the remedy."""
        before = sys.exception()  # what ended a lease is not to be hidden by a release that fails
        try:
            yield
        except sa.exc.IntegrityError:
            raise
        except sa.exc.SQLAlchemyError as error:
            remedy = SERVER_REMEDY if self._engine.dialect.name == "postgresql" else FILE_REMEDY
            found = self._without_secrets(error)
            raise LedgerError(f"{self}: cannot be {verb}: {found}; {remedy}, then run the same again") from before

    def _bring_up_to_date(self) -> None:
        with self._engine.connect() as connection:
            found = revision_of(connection)
        if found == REVISIONS[-1]:
            return
        with self._transaction() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(UPGRADE_LOCK)))
            found = revision_of(connection)  # another process may have been faster
            if found is not None and found not in REVISIONS:
                raise LedgerError(
                    f"{self} has revision {found}, written by a newer release; this one knows up to {REVISIONS[-1]}: "
                    "use the newer release, or another ledger"
                )
            upgrade(connection)

    def _upsert(self, table: sa.Table, keep: Sequence[str] = ()) -> Any:
        """Insert that overwrites a row of the same primary key, except for the columns in `keep`."""
        insert = (postgresql_insert if self._engine.dialect.name == "postgresql" else sqlite_insert)(table)
        columns = [column.name for column in table.columns if not column.primary_key and column.name not in keep]
        changed = {name: insert.excluded[name] for name in columns}
        return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changed)

    def _without_secrets(self, error: Exception) -> str:
        text = str(getattr(error, "orig", None) or error)
        asked = (
            value for values in self._url.query.values() for value in ([values] if isinstance(values, str) else values)
        )
        secrets = [str(self._url.password or ""), *asked]
        for secret in secrets:
            text = text.replace(secret, "***") if secret else text
        return text


def _chunks(items: Iterable[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Chunks of at most CHUNK items with the number of items before each."""
    iterator, offset = iter(items), 0
    while chunk := list(islice(iterator, CHUNK)):
        yield offset, chunk
        offset += len(chunk)


def _noted(found: Iterable[Clip], clip_ids: set[str]) -> Iterator[Clip]:
    """The clips as they come, their ids noted: of a long list no two chunks are held."""
    for clip in found:
        clip_ids.add(clip.clip_id)
        yield clip


def _refuse_strangers(lease: Lease, rows: Sequence[Row], seen: set[tuple[str, str]]) -> None:
    for row in rows:
        if row.stage != lease.stage:
            raise ValueError(f"{row.clip_id}: a row of {row.stage} under a lease on {lease.stage}")
        if (row.clip_id, row.feature) in seen:
            raise ValueError(f"{row.clip_id}: two rows for feature {row.feature!r} of one clip in one record")
        seen.add((row.clip_id, row.feature))
