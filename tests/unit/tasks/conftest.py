"""A ledger on both databases: SQLite, and a private PostgreSQL server where its programs are installed."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.ledger import Ledger


def server_program(name: str) -> str | None:
    """One of PostgreSQL's programs: Debian keeps them off the PATH, in a folder for each version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))


@pytest.fixture(scope="session")
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


@pytest.fixture
def administer() -> Callable[[str], sa.Engine]:
    """`administration` for tests, which cannot import this file."""
    return administration


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
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
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with Ledger(ledger_url) as opened:
        yield opened
