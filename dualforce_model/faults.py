"""Named points at which a test may kill the process, or fill the disk: how "anything can be killed" is proved.

`DUALFORCE_KILL_AT=ledger.before_commit:3` makes the third visit of that point in any one process send SIGKILL to that
process. With `DUALFORCE_KILL_PID` that process goes first: points inside workers then take the whole run down, as a
power cut would. `DUALFORCE_DISK_FULL_AT` names a point in the same way, from which visit on the disk has no room.
Without these variables a point costs two dictionary look-ups.
"""

import errno
import os
import signal

POINTS = (
    "download.before_rename",
    "download.after_rename",
    "crop.before_rename",
    "crop.after_rename",
    "shard.before_rename",
    "shard.after_rename",
    "text.before_rename",
    "text.after_rename",
    "note.before_rename",
    "note.after_rename",
    "ledger.before_commit",
    "ledger.after_commit",
    "snapshot.before_manifest",
    "snapshot.before_head",
    "snapshot.after_head",
    "pack.before_head",
    "pack.after_head",
    "pack.after_manifest",
    "checkpoint.before_rename",
    "checkpoint.after_rename",
    "weights.before_rename",
    "weights.after_rename",
)

_visits: dict[str, int] = {}


def point(name: str) -> None:
    """Die here, or find the disk full, if the environment asks for it."""
    kill, full = os.environ.get("DUALFORCE_KILL_AT"), os.environ.get("DUALFORCE_DISK_FULL_AT")
    if kill is None and full is None:
        return
    assert name in POINTS, f"{name} is not a named point"
    _visits[name] = visit = _visits.get(name, 0) + 1
    if visit == _asked(kill, name):
        _die()
    if (first := _asked(full, name)) is not None and visit >= first:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (simulated at {name})")


def _asked(wanted: str | None, name: str) -> int | None:
    """Number of the visit that the environment names; none for another point."""
    target, _, count = (wanted or "").partition(":")
    return int(count or "1") if target == name else None


def _die() -> None:
    driver = os.environ.get("DUALFORCE_KILL_PID")
    if driver is not None and int(driver) != os.getpid():
        os.kill(int(driver), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
