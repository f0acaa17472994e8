"""What every test may use. Nothing outside the clone and temporary folders is touched."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on a busy two-core machine are ten times slower than one

import pytest
from hypothesis import settings

from dualforce_model.pretrained.vouchers import VARIABLE
from flows.server import PrefectServer, drain_clients, server_environment
from tasks.process import free_port

# No deadline: timings on a shared machine never decide a test. Found counterexamples stay out of the clone.
settings.register_profile("house", deadline=None, max_examples=60, database=None)
settings.load_profile("house")

# Started in the background by a shell we inherit deafness to Ctrl-C, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]

# Prefect reads its settings when it is imported, by whichever test comes first: point it at our server before that.
# The server itself starts only for tests that ask for it.
_prefect_home = Path(tempfile.mkdtemp(prefix="dualforce-test-prefect-"))
_prefect_port = free_port()
os.environ.update(server_environment(_prefect_home, _prefect_port))

# Files of torch are opened where this user vouches for them: tests do so in a folder of their own.
_vouched = Path(tempfile.mkdtemp(prefix="dualforce-test-vouched-"))
os.environ[VARIABLE] = str(_vouched)


def pytest_unconfigure() -> None:
    """Leave no folder behind."""
    shutil.rmtree(_prefect_home, ignore_errors=True)
    shutil.rmtree(_vouched, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[PrefectServer]:
    """One real Prefect server for all tests that need one."""
    server = PrefectServer(_prefect_home, _prefect_port)
    server.ready()
    yield server
    drain_clients()
    server.close()


@pytest.fixture
def forkable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked children end well: Prefect, once used in this process, trips over the fork when a child ends."""
    monkeypatch.setattr(threading, "_threading_atexits", [])


@pytest.fixture
def no_vouchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test alone notes for which files of torch somebody vouches: for none yet."""
    folder = tmp_path / "no vouchers yet"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, golden numbers and small models beside the project; tests that need it skip without."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared (real clips, golden numbers, small models), which is not here")
    return folder
