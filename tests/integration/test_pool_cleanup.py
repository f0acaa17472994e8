"""Nothing of a pool outlives its driver, however the driver ends."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tasks.holder import Holder
from tasks.pool import Job, PoolConfig, WorkerSpec, WorkerUnusable, make_pool
from tasks.scratch import scratch_folder, sweep

WORKERS = Path(__file__).resolve().parents[1] / "unit" / "tasks"
DRIVER = """
import sys
sys.path.append(sys.argv[2])
from tasks.pool import Job, PoolConfig, WorkerSpec, make_pool
spec = WorkerSpec(target="pool_workers:Scripted", kwargs={"folder": sys.argv[3]})
with make_pool(PoolConfig(engine=sys.argv[1], workers=2)) as pool:
    jobs = [Job("quick", {"name": "quick", "do": "child"}), Job("a", {"name": "a", "do": "sleep=300"})]
    for attempt in pool.run(spec, jobs):
        print("running", flush=True)
        if sys.argv[4] == "leave":
            break
"""

STARTER = """
import os, signal, sys, threading, time
from tasks.pool import PoolConfig, make_pool

class Stop(BaseException):
    pass

def stop(number, frame):
    raise Stop

def when_ray_has_the_signal():
    while signal.getsignal(signal.SIGTERM) is stop:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, stop)
threading.Thread(target=when_ray_has_the_signal, daemon=True).start()
try:
    with make_pool(PoolConfig(engine="ray", workers=1)):
        print("started")
except Stop:
    print("stopped")
    sys.exit(7)
"""


def eventually(condition: Callable[[], bool], within_s: float = 15.0) -> bool:
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def alive(pids: set[int]) -> set[int]:
    living = {pid for pid in pids if psutil.pid_exists(pid)}
    return {pid for pid in living if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}


def below(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def ray_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("dualforce-ray-*"))


@pytest.mark.parametrize(
    ("engine", "ending"),
    [
        ("local", "leave"),
        ("local", "SIGKILL"),
        ("local", "SIGTERM"),
        pytest.param("ray", "SIGKILL", marks=pytest.mark.ray),
        pytest.param("ray", "leave", marks=[pytest.mark.ray, pytest.mark.slow]),
        pytest.param("ray", "SIGTERM", marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_no_process_and_no_folder_outlives_the_driver(engine: str, ending: str, tmp_path: Path) -> None:
    before = ray_folders()
    command = [sys.executable, "-c", DRIVER, engine, str(WORKERS), str(tmp_path), ending]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as driver:
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == b"running\n"
            started = below(driver.pid) | {int((tmp_path / "child").read_text())}
            if ending != "leave":
                driver.send_signal(signal.Signals[ending])
            driver.stdout.read()
            driver.wait(30)
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
    assert eventually(lambda: not alive(started)), [psutil.Process(pid).cmdline() for pid in alive(started)]
    assert eventually(lambda: ray_folders() <= before)


@pytest.mark.ray
def test_a_closed_ray_pool_leaves_nothing() -> None:
    before, folders = below(os.getpid()), ray_folders()
    shared_memory = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    with make_pool(PoolConfig(engine="ray", workers=1)) as pool:
        with pytest.raises(WorkerUnusable, match="ModuleNotFoundError"):
            list(pool.run(WorkerSpec(target="no_such_module:X"), [Job("a", {})]))
        started = below(os.getpid()) - before
        assert started
    assert eventually(lambda: not alive(started))
    assert ray_folders() == folders
    if shared_memory:
        assert set(os.listdir("/dev/shm")) <= shared_memory


class Stop(BaseException):
    """What a SIGTERM handler may raise: no Exception, as Prefect's is none."""


@pytest.fixture
def stopping() -> Iterator[Callable[[int, object], None]]:
    """A SIGTERM handler of ours that raises Stop, set for the test."""

    def stop(number: int, frame: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGTERM, stop)
    yield stop
    signal.signal(signal.SIGTERM, before)


@pytest.mark.ray
def test_a_signal_reaches_its_handler_while_ray_works(
    stopping: Callable[[int, object], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(WORKERS))
    spec = WorkerSpec(target="pool_workers:Scripted", kwargs={"folder": tmp_path})
    jobs = [Job("quick", {"name": "quick"}), Job("long", {"name": "long", "do": "sleep=300"})]
    with make_pool(PoolConfig(engine="ray", workers=1)) as pool:
        assert signal.getsignal(signal.SIGTERM) is stopping
        attempts = pool.run(spec, jobs)
        assert next(attempts).job_id == "quick"
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Stop):
            next(attempts)


@pytest.mark.ray
def test_a_signal_that_comes_while_ray_starts_reaches_its_handler() -> None:
    before = ray_folders()
    driver = subprocess.run([sys.executable, "-c", STARTER], capture_output=True, text=True, timeout=60)
    assert (driver.returncode, driver.stdout) == (7, "stopped\n"), driver.stderr
    assert eventually(lambda: ray_folders() <= before)


def reaper_of(folder: Path) -> psutil.Process:
    (found,) = [child for child in psutil.Process().children() if str(folder) in child.cmdline()]
    return found


def test_whoever_lives_in_a_scratch_folder_ends_with_it() -> None:
    with scratch_folder("test") as folder:
        with open(folder / "log", "wb") as log:
            daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], stdout=log)
        time.sleep(0.5)  # so that the reaper has begun
        for number in (signal.SIGTERM, signal.SIGINT):
            reaper_of(folder).send_signal(number)  # as whoever ends a whole process tree does
    assert daemon.wait(5) == -signal.SIGKILL
    assert not folder.exists()


def test_only_folders_of_dead_owners_are_swept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = Holder.current().model_copy(update={"pid": dead.pid, "started_at": psutil.Process(dead.pid).create_time()})
    assert not owner.is_gone()
    folders = {name: tmp_path / f"dualforce-test-{name}" for name in ("dead", "living", "unnamed", "elsewhere")}
    for folder in folders.values():
        folder.mkdir()
    (folders["dead"] / "owner.json").write_text(owner.model_dump_json())
    (folders["living"] / "owner.json").write_text(Holder.current().model_dump_json())
    (folders["elsewhere"] / "owner.json").write_text(owner.model_copy(update={"host": "another"}).model_dump_json())
    dead.communicate()
    assert owner.is_gone()
    sweep(tmp_path, "dualforce-test-")
    assert {name for name, folder in folders.items() if folder.exists()} == {"living", "unnamed", "elsewhere"}
