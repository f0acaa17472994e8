"""Named points at which a test may kill the process: how "anything can be killed at any moment" is proved.

`DUALFORCE_KILL_AT=ledger.before_commit:3` makes the third visit of that point send SIGKILL to the process itself.
Without the variable a point costs one dictionary look-up.
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
        os.kill(os.getpid(), signal.SIGKILL)
