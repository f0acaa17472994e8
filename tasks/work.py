"""What a stage asks of the pool: which targets it wants under which keys, and the jobs that make them.

`tasks.stages` runs any Work; the three are in `tasks.acquiring`, `tasks.curating` and `tasks.extracting`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tasks.leases import Lease
from tasks.ledger import Ledger, Relisting, Row
from tasks.place import Place
from tasks.pool import Job, WorkerSpec
from tasks.records import Attempt, FailureClass, Reason, Stage


@dataclass(frozen=True, slots=True)
class Target:
    """One thing a stage should hold: a feature ("" outside extract) of a clip, made from what the key says."""

    clip_id: str
    key: str
    feature: str = ""

    @property
    def id(self) -> str:
        """Unique within the stage."""
        return f"{self.clip_id}/{self.feature}" if self.feature else self.clip_id


@dataclass(frozen=True)
class Refusal:
    """A target that can never be made, though others of its clip may be; with a picture that shows why, if any."""

    reason: Reason
    measured: str
    preview: str | None = None


@dataclass(frozen=True)
class Fault:
    """A target that was not made for want of something, or for a bug; it is charged, others of its clip are not."""

    failure: FailureClass
    traceback: str
    systemic: bool = False


Outcome = dict[str, Any] | Refusal | Fault  # what the ledger keeps of a done target, or why it is not


class Work(ABC):
    """One stage of one data set."""

    stage: ClassVar[Stage]

    def __init__(self, place: Place, ledger: Ledger) -> None:
        self.place = place
        self.ledger = ledger
        self.serving: dict[str, tuple[Target, ...]] = {}  # job id -> the targets it makes

    @property
    @abstractmethod
    def spec(self) -> WorkerSpec:
        """The worker that the pool builds."""

    def enlist(self, lease: Lease) -> Relisting:
        """Bring what the stage starts from up to date, before anything is recorded; what that did to the list."""
        return Relisting()

    @abstractmethod
    def targets(self) -> list[Target]:
        """Everything this stage should hold, done or not."""

    @abstractmethod
    def intact(self, row: Row) -> bool:
        """Whether what a done row speaks of is still there and whole."""

    @abstractmethod
    def jobs(self, targets: Sequence[Target]) -> Iterator[Job]:
        """Pool jobs that make these targets, noted in `serving`; one job may serve several."""

    def results(self, attempt: Attempt) -> list[tuple[Target, Outcome]]:
        """What an attempt says about each of its targets; values may be withheld until `flush`."""
        said = attempt.value if attempt.value is not None else not_made(attempt)
        return [(target, said) for target in self.serving[attempt.job_id]]

    def flush(self) -> list[tuple[Target, dict[str, Any]]]:
        """Results withheld so far, now safe."""
        return []

    def problems(self) -> tuple[str, ...]:
        """What of the list could not become a clip, one line each."""
        return ()

    def num_bytes(self, rows: Sequence[Row]) -> int:
        """Size of what was brought in by these done rows; 0 for a stage that brings nothing in."""
        return 0

    def recorded(self, rows: Sequence[Row]) -> None:
        """The ledger knows these rows now; what was kept in case it would not may go."""
        return


def not_made(attempt: Attempt) -> Refusal | Fault:
    """Why an attempt has no value."""
    if attempt.impossible is not None:
        return Refusal(*attempt.impossible, attempt.preview)
    assert attempt.failure is not None, "an attempt has exactly one outcome"
    return Fault(*attempt.failure, attempt.systemic)
