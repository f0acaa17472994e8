"""How long each part of a run took, over all calls on its folder, whether they ended well, were killed or failed.

The time is noted in the folder while it passes, so that a killed call is known to a few seconds. A call that finds a
part done already adds nothing to it.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field

from dualforce_model.config import Frozen, validate
from dualforce_model.errors import InputError
from dualforce_model.storage import write_json

NAME = "seconds.json"
NOTE_EVERY_S = 5.0


class Seconds(Frozen):
    """seconds.json."""

    parts: dict[str, float] = Field({}, description="seconds spent on each part, over all calls")


class Spending:
    """One part while it runs. Set `idle` when it turns out that there was nothing to do: then it cost nothing."""

    def __init__(self) -> None:
        self.idle = False


def read_seconds(folder: Path) -> dict[str, float]:
    """Seconds of every part so far; none where nothing ran. Raises InputError for a file that is not ours."""
    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON: {error}; remove it, it only holds times") from error
    return dict(validate(Seconds, data, str(path)).parts)


@contextmanager
def spending(folder: Path, part: str) -> Iterator[Spending]:
    """Add the time of the block to a part of a run. One process at a time works in a folder."""
    before, started, spent, over = read_seconds(folder), time.monotonic(), Spending(), threading.Event()

    def note() -> None:
        seconds = 0.0 if spent.idle else time.monotonic() - started
        parts = {**before, part: round(before.get(part, 0.0) + seconds, 1)}
        write_json(folder / NAME, Seconds(parts=parts).model_dump(mode="json"))

    def note_now_and_then() -> None:
        with suppress(OSError):  # no room for a note: whoever works there finds out, and the end of the part says so
            while not over.wait(NOTE_EVERY_S):
                note()

    watcher = threading.Thread(target=note_now_and_then, name=f"seconds of {part}", daemon=True)
    watcher.start()
    try:
        yield spent
    except BaseException:
        _stop(watcher, over)
        with suppress(OSError):  # what ended the part is what is to be said
            note()
        raise
    _stop(watcher, over)
    note()


def _stop(watcher: threading.Thread, over: threading.Event) -> None:
    over.set()
    watcher.join()
