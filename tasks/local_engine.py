"""The `local` engine: worker processes on this machine, fed over a socket pair.

A worker is a fresh interpreter in a session of its own (never a fork: libraries with threads do not survive one). When
the driver dies, however it dies, the socket closes and the worker kills its whole process group, helpers included.
"""

import faulthandler
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import NoReturn

from tasks.dispatch import WorkerDied
from tasks.worker import Performer, WorkerSpec

log = logging.getLogger(__name__)

LOG_TAIL_BYTES = 4000
KILL_S = 5.0  # time a killed process gets to be gone
STACK_S = 0.2  # time a process gets to write its stack
# The parent's module path comes first, and nothing of the working folder's, which may hold anybody's files.
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tasks.local_engine import serve; serve(int(sys.argv[2]), sys.argv[3])"
)


class LocalWorker:
    """One worker process, seen from the driver."""

    def __init__(self, spec: WorkerSpec, gpu: int | None = None) -> None:
        self.gpu = gpu
        self.pipe, theirs = Pipe()
        seen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
        paths = json.dumps([path for path in sys.path if path])
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-X",
                    "faulthandler",
                    "-c",
                    BOOT,
                    paths,
                    str(theirs.fileno()),
                    spec.model_dump_json(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **seen},
            )
        self._tail = b""
        self._drain = threading.Thread(target=self._keep_tail, name=f"log-{self._process.pid}", daemon=True)
        self._drain.start()

    def submit(self, message: str, count: int) -> None:
        """Hand over jobs; the answers come through the pipe, one after the other."""
        try:
            self.pipe.send_bytes(message.encode())
        except OSError:
            raise self._death() from None

    def receive(self) -> str:
        """The next reply; call it when `LocalEngine.wait` says there is one."""
        try:
            return self.pipe.recv_bytes().decode()
        except (EOFError, OSError):
            raise self._death() from None

    @property
    def ended(self) -> bool:
        """Whether it was killed, or found dead."""
        return self._process.returncode is not None

    def kill(self) -> None:
        """End the process and everything it started. Harmless when it is gone already."""
        if self._process.returncode is None:  # as long as it is not reaped, its number is nobody else's
            os.killpg(self._process.pid, signal.SIGKILL)
            try:
                self._process.wait(KILL_S)
            except subprocess.TimeoutExpired:
                log.warning("worker %d is killed but stuck in the kernel, as on a dead file server", self._process.pid)
        self._drain.join(timeout=1.0)  # a helper that left the process group may hold the output open
        self.pipe.close()

    def stack(self) -> str:
        """Where a silent worker is stuck: what its stack dump adds to its output."""
        if self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGUSR1)
            time.sleep(STACK_S)
        return self._said()

    def _death(self) -> WorkerDied:
        self.kill()
        code = self._process.returncode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        hint = " (nobody here sent it: the kernel does so when memory runs out)" if code == -signal.SIGKILL else ""
        return WorkerDied(f"the worker process ended with {how}{hint}{self._said()}")

    def _said(self) -> str:
        said = self._tail.decode("utf-8", "replace").strip()
        return f"; its last words:\n{said}" if said else ""

    def _keep_tail(self) -> None:
        """Read whatever the process prints, keep the end of it."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while data := os.read(output.fileno(), 65536):
                self._tail = (self._tail + data)[-LOG_TAIL_BYTES:]


class LocalEngine:
    """Starts local workers and waits for their answers. Where GPUs are named, each worker sees the least taken one."""

    def __init__(self, gpus: Sequence[int] = ()) -> None:
        self.gpus = tuple(gpus)
        self._workers: list[LocalWorker] = []

    def start(self, spec: WorkerSpec) -> LocalWorker:
        """Start a worker; it loads at once and answers when ready."""
        self._workers = [worker for worker in self._workers if not worker.ended]
        taken = Counter(worker.gpu for worker in self._workers)
        gpu = min(self.gpus, key=lambda number: taken[number], default=None)  # of equals the first: in turns
        self._workers.append(LocalWorker(spec, gpu))
        return self._workers[-1]

    def wait(self, workers: Sequence[LocalWorker], timeout_s: float) -> list[LocalWorker]:
        """Those of the workers that have something to say (or are dead), after at most `timeout_s`."""
        by_pipe = {worker.pipe: worker for worker in workers}
        return [by_pipe[pipe] for pipe in wait(list(by_pipe), timeout_s) if isinstance(pipe, Connection)]


def serve(descriptor: int, spec: str) -> NoReturn:
    """A worker process's main loop; ends when the driver closes its side."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    threading.Thread(target=_die_with_driver, args=(descriptor,), daemon=True).start()
    pipe = Connection(descriptor)
    performer = Performer(spec, [])
    try:
        pipe.send_bytes(performer.load().encode())
        while True:
            for _ in range(performer.begin(pipe.recv_bytes().decode())):
                pipe.send_bytes(performer.answer().encode())
    except (EOFError, OSError):  # the driver is gone; only the pipe can raise here
        _die()


def _die_with_driver(descriptor: int) -> None:
    """Wait for the other side to close, in a thread because a job may take hours; then end our whole group."""
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    while not any(event & (select.POLLRDHUP | select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
        continue
    _die()


def _die() -> NoReturn:
    os.killpg(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable: SIGKILL ends the caller too")
