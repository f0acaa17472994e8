"""Runs one command and takes its whole process tree down with it: `python -m tasks.supervisor GRACE_S -- COMMAND...`

Launchers forward neither signals nor deaths: ranks started by torchrun live in sessions of their own and survive their
parent. So the supervisor
- ends when its standard input closes, which happens however its own parent dies;
- on SIGTERM or SIGINT sends SIGTERM to every descendant, waits for the grace period, then SIGKILL;
- has the kernel kill its child should it be killed itself;
- ends with the command's exit code (128 + signal for a killed one).
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import psutil

PR_SET_PDEATHSIG = 1
POLL_S = 0.1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends. Linux only; elsewhere a no-op."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(pid: int) -> list[psutil.Process]:
    """All living processes below `pid`, in whatever session they are."""
    try:
        return [process for process in psutil.Process(pid).children(recursive=True) if process.is_running()]
    except psutil.NoSuchProcess:
        return []


def terminate_tree(processes: list[psutil.Process], grace_s: float) -> None:
    """SIGTERM to all, wait up to `grace_s`, SIGKILL to the rest."""
    for process in processes:
        _send(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return  # it ended by itself, which is what was wanted


class Supervisor:
    """Waits for the command, or for a reason to end it."""

    def __init__(self, command: list[str], grace_s: float) -> None:
        self.grace_s = grace_s
        self.stop = threading.Event()
        self.known: dict[int, psutil.Process] = {}
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        # The child is started from the main thread: the death signal follows the starting thread, not the process.
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
            env={**os.environ, "DUALFORCE_SUPERVISOR": str(os.getpid())},  # lets a rank see that it is an orphan
        )
        threading.Thread(target=self._watch_lifeline, daemon=True).start()

    def _on_signal(self, number: int, frame: object) -> None:
        self.stop.set()

    def _watch_lifeline(self) -> None:
        while os.read(0, 4096):
            continue
        self.stop.set()

    def run(self) -> int:
        """Exit code of the command."""
        next_look = 0.0
        while self.child.poll() is None and not self.stop.wait(POLL_S):
            if time.monotonic() >= next_look:  # remember ranks while their launcher still lives
                self._remember()
                next_look = time.monotonic() + 1.0
        self._remember()
        alive = [process for process in self.known.values() if process.is_running()]
        # A launcher that ended by itself leaves nothing that deserves a grace period; one that was killed leaves ranks
        # that save. They have another parent by now, so it is the remembered ones that are waited for.
        killed = self.child.poll() is not None and self.child.returncode < 0
        terminate_tree(alive, self.grace_s if killed or self.stop.is_set() else 1.0)
        code = self.child.wait()
        return 128 - code if code < 0 else code

    def _remember(self) -> None:
        for process in descendants(os.getpid()):
            self.known.setdefault(process.pid, process)


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit code."""
    if len(arguments) < 3 or arguments[1] != "--":
        sys.stderr.write("usage: python -m tasks.supervisor GRACE_S -- COMMAND [ARGUMENT...]\n")
        return 2
    return Supervisor(arguments[2:], float(arguments[0])).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
