"""A worker whose outcome is written in the clip's id. Imported by pool processes, so it stands in a file of its own."""

import errno
import time
from pathlib import Path
from typing import Any

from tasks.records import FailureClass, Impossible, Reason, Temporary


class Scripted:
    """`good...` passes, `gone...` is impossible, `bug...` raises, `net...` fails until `healed` exists.

    `patient-NAME` passes once NAME was begun. While `full` exists nothing can be written.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self, payload: dict[str, Any]) -> dict[str, Any]:
        name = payload["job_id"]
        with open(self.folder / "calls", "a", encoding="utf-8") as log:
            log.write(name + "\n")
        if (self.folder / "full").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        if name.startswith("gone"):
            raise Impossible(Reason.GONE, "404")
        if name.startswith("bug"):
            raise KeyError("no such thing")
        if name.startswith("net") and not (self.folder / "healed").exists():
            raise Temporary(FailureClass.NETWORK, "connection reset")
        if name.startswith("patient-"):
            self._await(name.removeprefix("patient-"))
        return {"seen": name}

    def _await(self, name: str) -> None:
        """Wait for another worker to begin a clip."""
        deadline = time.monotonic() + 20.0
        while name not in (self.folder / "calls").read_text(encoding="utf-8").split():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody began {name}")
            time.sleep(0.02)
