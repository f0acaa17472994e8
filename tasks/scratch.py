"""Private temporary folders for daemons: however the owner ends, the daemons and then the folder go.

A reaper process sees to it. Should that be killed as well, the folder names its owner, and the next start removes it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from dualforce_model.storage import write_json
from tasks.holder import Holder

MAX_BASE_CHARS = 10  # a socket path has at most 107 characters: Ray's part takes 65, our name 31
_OWNER = "owner.json"
_REAPER = Path(__file__).with_name("reaper.py")


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A new folder with a short path. At the end whoever still has a file open in it is killed and it is removed."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > MAX_BASE_CHARS:
        base = Path("/tmp")  # noqa: S108  # the folder made inside is private and its name random
    prefix = f"dualforce-{purpose}-"
    sweep(base, prefix)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=base))
    try:
        write_json(folder / _OWNER, Holder.current().model_dump(mode="json"))
        with subprocess.Popen(
            [sys.executable, "-P", str(_REAPER), str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,  # the lifeline: leaving the block closes it and waits for the reaper to finish
            start_new_session=True,
        ):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(base: Path, prefix: str) -> None:
    """Remove this user's scratch folders whose owner is gone."""
    for folder in base.glob(f"{prefix}*"):
        owner = folder / _OWNER
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            if Holder.model_validate(json.loads(owner.read_text(encoding="utf-8"))).is_gone():
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError, ValidationError):
            continue  # just being made, or not one of ours: without a named owner it stays
