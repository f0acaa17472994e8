"""Ends what lives in a scratch folder once its owner is done or dead: `python reaper.py FOLDER OWNER_PID`.

Ray's daemons die with their driver, but some of its agents take a minute over it. This process waits for its standard
input to close, which happens however the owner ends; then it kills every process that has a file of the folder open
(they all log there, and what they started inherits that), and removes the folder. Whoever ends a whole process tree
signals it too; it ignores that, since its work begins when the others have ended.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

PATIENCE_S = 10.0
PAUSE_S = 0.1


def inhabitants(folder: Path, owner: int) -> list[psutil.Process]:
    """Processes of ours, other than the owner, that have a file below the folder open."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in (owner, os.getpid()) and any(
                Path(file.path).is_relative_to(folder) for file in process.open_files()
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended meanwhile, or is not ours
    return found


def reap(folder: Path, owner: int) -> None:
    """Kill until nobody is left: a daemon may start another while it is looked for."""
    end = time.monotonic() + PATIENCE_S
    while (found := inhabitants(folder, owner)) and time.monotonic() < end:
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(PAUSE_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        continue
    reap(Path(sys.argv[1]), int(sys.argv[2]))
