"""Child processes that never outlive us, and the lock that keeps two runs out of one folder."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from dualforce_model.errors import BusyError


class Supervised:
    """A command under `tasks.supervisor`: its tree ends when this object is closed or this process dies.

    Output goes to `log`, or to a pipe that `lines()` reads when no log is given.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        grace_s: float = 10.0,
        folder: Path | None = None,
    ) -> None:
        self.command = list(command)
        self.grace_s = grace_s
        output = open(log, "ab") if log else subprocess.PIPE  # noqa: SIM115  # closed below, the child holds its own
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tasks.supervisor", str(grace_s), "--", *self.command],
                stdin=subprocess.PIPE,  # the lifeline
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=folder,
                start_new_session=True,  # Ctrl-C reaches us alone; we then end the tree in order
            )
        finally:
            if log:
                output.close()  # type: ignore[union-attr]  # a file when there is a log

    def lines(self) -> Iterator[str]:
        """Lines of the output as they come, without line ends."""
        assert self.process.stdout is not None, "lines() needs a process without a log file"
        for raw in self.process.stdout:
            yield raw.decode("utf-8", "replace").rstrip("\r\n")

    def alive(self) -> bool:
        """Whether the supervisor, and so the command, still runs."""
        return self.process.poll() is None

    def wait(self) -> int:
        """Exit code of the command."""
        return self.process.wait()

    def close(self) -> int:
        """End the whole tree, kindly first; returns the exit code."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        if self.process.stdin:
            self.process.stdin.close()
        try:
            code = self.process.wait(self.grace_s + 10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FolderBusy(BusyError):
    """Another living process works in the folder; the message names it."""


@contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for this process. The kernel releases it however we die. Raises FolderBusy naming the holder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(os.pread(handle, 4096, 0))
            raise FolderBusy(f"{folder} is in use by {holder}; wait for it to end or choose another folder") from None
        note = {
            "what": what,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(note).encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(note: bytes) -> str:
    """Who holds a folder, in words, from the note in its lock file: it may be caught half written."""
    try:
        told = json.loads(note)
        return f"`{told['what']}` (process {told['pid']} on {told['host']}, since {told['since']})"
    except (ValueError, KeyError, TypeError):
        return "a process that has not given its name yet"


def free_port() -> int:
    """A loopback port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_in_use(port: int) -> bool:
    """Whether something listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
