"""How the ledger's database is reached: its URL, its errors, and the ways of SQLite."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dualforce_model.errors import InfrastructureError

BUSY_S = 30  # how long a writer of the SQLite file waits for another


class LedgerError(InfrastructureError):
    """The ledger cannot be opened, read or written; the message names the cause and the remedy."""


def parse(url: str) -> sa.URL:
    """The URL with its driver; never quoted in an error, for it may hold a password."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # the latter quotes what it took for the port
        parsed = None
    if parsed is not None and "@" in (parsed.host or ""):
        raise LedgerError("the ledger's URL has an @ too many: write one in the password as %40")
    kind = "" if parsed is None else parsed.get_backend_name()
    if parsed is not None and kind in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed is not None and kind == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite+pysqlite")
    raise LedgerError(
        f"the ledger's URL is of no use (kind: {kind or 'unknown'}): expected sqlite:///FOLDER/ledger.db or "
        "postgresql://USER:PASSWORD@HOST/DATABASE"
    ) from None


def engine_of(url: sa.URL) -> sa.Engine:
    """An engine whose errors show no stored values: locations may carry tokens."""
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True)
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_S})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def make_folder(url: sa.URL) -> None:
    """The folder of a ledger that is a file."""
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).absolute().parent.mkdir(parents=True, exist_ok=True)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver's own idea of when to BEGIN is off; `_begin_sqlite` does it
    for pragma in (f"busy_timeout={BUSY_S * 1000}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
