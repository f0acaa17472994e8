"""Children never outlive us; a folder has one owner at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.process import FolderBusy, Supervised, folder_lock, free_port, port_in_use

# A launcher whose rank starts a session of its own, ignores SIGTERM and notes its pid.
STUBBORN = """
import signal, subprocess, sys, time
rank = (
    "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
)
subprocess.Popen([sys.executable, "-c", rank, sys.argv[1]], start_new_session=True).wait()
"""


def wait_for(path: Path) -> int:
    """The pid written into a file, once it is there."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        if path.is_file() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} was never written")


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_output_and_exit_code_come_through() -> None:
    with Supervised([sys.executable, "-c", "print('one'); print('two'); raise SystemExit(7)"]) as process:
        assert list(process.lines()) == ["one", "two"]
        assert process.wait() == 7


def test_a_command_killed_by_a_signal_ends_with_128_plus_its_number() -> None:
    with Supervised([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) as process:
        assert process.wait() == 128 + signal.SIGKILL


def test_close_ends_a_rank_that_ignores_terminate_in_its_own_session(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    process = Supervised([sys.executable, "-c", STUBBORN, str(note)], grace_s=0.5)
    rank = wait_for(note)
    time.sleep(1.2)  # the supervisor looks for new descendants once a second
    process.close()
    assert gone(rank)


def test_the_tree_ends_when_we_are_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    ours = (
        "import sys, time\nfrom tasks.process import Supervised\n"
        "Supervised([sys.executable, '-c', sys.argv[1], sys.argv[2]], grace_s=0.5)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", ours, STUBBORN, str(note)])
    rank = wait_for(note)
    time.sleep(1.2)
    parent.kill()
    parent.wait()
    assert gone(rank)


def test_a_folder_has_one_owner_and_the_second_learns_who(tmp_path: Path) -> None:
    with folder_lock(tmp_path, "training"):
        words = rf"is in use by `training` \(process {os.getpid()} on \S+, since 20[\d-]+ [\d:]+\); wait"
        with pytest.raises(FolderBusy, match=words), folder_lock(tmp_path, "again"):
            pass
        (tmp_path / ".lock").write_text('{"what": "trai')
        with pytest.raises(FolderBusy, match="not given its name yet"), folder_lock(tmp_path, "again"):
            pass
    with folder_lock(tmp_path, "later"):
        assert (tmp_path / ".lock").is_file()


def test_ports() -> None:
    port = free_port()
    assert not port_in_use(port)
