"""Named points at which a test may kill the process: how "anything can be killed at any moment" is proved.

`DUALFORCE_KILL_AT=ledger.before_commit:3` makes the third visit of that point in any one process send SIGKILL to that
process. With `DUALFORCE_KILL_PID` that process goes first: points inside workers then take the whole run down, as a
power cut would. Without the first variable a point costs one dictionary look-up.
"""

import os
import signal

POINTS = (
    "download.before_rename",
    "download.after_rename",
    "crop.before_rename",
    "crop.after_rename",
    "shard.before_rename",
    "shard.after_rename",
    "ledger.before_commit",
    "ledger.after_commit",
    "snapshot.before_manifest",
    "snapshot.before_head",
    "snapshot.after_head",
    "checkpoint.before_rename",
    "checkpoint.after_rename",
)

_visits: dict[str, int] = {}


def point(name: str) -> None:
    """Die here if the environment asks for it."""
    wanted = os.environ.get("DUALFORCE_KILL_AT")
    if wanted is None:
        return
    assert name in POINTS, f"{name} is not a named kill point"
    target, _, count = wanted.partition(":")
    if target != name:
        return
    _visits[name] = _visits.get(name, 0) + 1
    if _visits[name] == int(count or "1"):
        driver = os.environ.get("DUALFORCE_KILL_PID")
        if driver is not None and int(driver) != os.getpid():
            os.kill(int(driver), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
