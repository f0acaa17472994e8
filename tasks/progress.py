"""Progress of long work: a bar on a terminal, a line now and then elsewhere, a Prefect artifact inside a flow run.

The artifact says what the bar says: how many ended and how, how many a second of late, and when it will be over.
"""

import re
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from tqdm import tqdm

ARTIFACT_EVERY_S = 2.0  # the server stores each update
RATE_OVER_S = 120.0  # what "of late" means: loading weights and the slow start are soon forgotten
WORDS = {"impossible": "quarantined"}  # the ledger's state, and what people call it
PROGRESS_LINE = re.compile(r"^\w+\s+(?P<share>\d{1,3})%\|")


class Progress:
    """Counts items of one piece of work, each once however often it is tried. Use as a context manager."""

    def __init__(self, what: str, total: int, unit: str = "clip") -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.states: dict[str, str] = {}  # item -> how its latest attempt ended
        self.ends: Counter[str] = Counter()  # how many ended so: a large data set's are not counted anew each time
        self.marks = deque([(time.monotonic(), 0)])  # when how many had ended, over the last RATE_OVER_S
        interactive = sys.stderr.isatty()
        self.bar: tqdm = tqdm(
            total=total,
            desc=f"{what:<9}",
            unit=unit,
            file=sys.stderr,
            mininterval=0.2 if interactive else 5.0,
            dynamic_ncols=interactive,
            ncols=None if interactive else 100,
        )
        in_run = FlowRunContext.get() is not None
        self.artifact = _progress_artifact(what, 0.0) if in_run else None
        self.updated_at = time.monotonic()

    def ended(self, items: Iterable[str], state: str) -> None:
        """Some items ended in a state; the same item may end again, better, at another attempt."""
        before, word = len(self.states), WORDS.get(state, state)
        for item in items:
            self.ends[self.states.get(item, word)] -= item in self.states
            self.states[item] = word
            self.ends[word] += 1
        now = time.monotonic()
        self.marks.append((now, len(self.states)))
        while len(self.marks) > 2 and now - self.marks[1][0] > RATE_OVER_S:
            self.marks.popleft()
        self.bar.set_postfix_str(self.counts(), refresh=False)
        self.bar.update(len(self.states) - before)
        if time.monotonic() - self.updated_at > ARTIFACT_EVERY_S:
            self._publish()

    def counts(self) -> str:
        """How many ended in which state."""
        return ", ".join(f"{count} {name}" for name, count in self.ends.most_common() if count)

    def rate(self) -> float:
        """Items that ended per second, of late."""
        (since, before), (now, ended) = self.marks[0], self.marks[-1]
        return (ended - before) / max(now - since, 1e-3)

    def text(self) -> str:
        """For people: `120 of 500 clips: 110 done, 6 quarantined, 4 failed; 2.50 clips/s, 2 min 32 s left`."""
        head = f"{self.what}: {len(self.states)} of {self.total} {self.unit}s"
        if not self.states:
            return head
        rate, left = self.rate(), max(self.total - len(self.states), 0)
        over = f", {duration(left / rate)} left" if left and rate else ""
        return f"{head}: {self.counts()}; {rate:.2f} {self.unit}s/s{over}"

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        self.bar.write(f"{self.what}: {text}", file=sys.stderr)

    def _publish(self) -> None:
        self.updated_at = time.monotonic()
        if self.artifact is not None:
            share = min(100.0, 100.0 * len(self.states) / max(self.total, 1))
            update_progress_artifact(artifact_id=self.artifact, progress=share, description=self.text())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._publish()
        self.bar.close()


def duration(seconds: float) -> str:
    """A length of time for people, in its two largest units."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (whole % 60, "s")]
    first = next((index for index, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2])


class LineProgress:
    """Passes on the lines of a child that counts for itself, as `training  40%|####    | 120/300 [...]`."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.artifact: UUID | None = None
        self.updated_at = 0.0

    def line(self, text: str) -> None:
        """A line of the child; lines that are no progress go to its log only."""
        found = PROGRESS_LINE.match(text)
        if found is None:
            return
        end = "\r" if sys.stderr.isatty() and found["share"] != "100" else "\n"
        sys.stderr.write(text + end)
        sys.stderr.flush()
        if FlowRunContext.get() is None or time.monotonic() - self.updated_at < ARTIFACT_EVERY_S:
            return
        self.updated_at = time.monotonic()
        share = float(found["share"])
        if self.artifact is None:
            self.artifact = _progress_artifact(self.what, share)
        else:
            update_progress_artifact(artifact_id=self.artifact, progress=share)


def _progress_artifact(what: str, share: float) -> UUID:
    return create_progress_artifact(progress=share, key=f"{what}-progress", description=f"{what} progress")
