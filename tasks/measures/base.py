"""What every measure is: scores that take weights, beside those that every clip gets without."""

from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.pretrained import Weights
from tasks.evidence import Evidence
from tasks.records import Score


class MeasureConfig(Frozen):
    """What a measure is told."""

    weights: Path | None = Field(
        None, description="the weights' file, or the folder that holds it; none: below ~/.cache/dualforce/weights"
    )


class Measure(Protocol):
    """One way to take scores. Built cheaply (the driver asks for fingerprints); `load` reads weights, in the worker.

    `version` rises whenever an equal clip would get other scores. What it cannot measure on a clip is a score without
    a value, its method saying why: every name in `scores` is in every answer.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    weights: ClassVar[Weights]
    scores: ClassVar[tuple[str, ...]]  # names it gives; they go before the weight-free scores of these names
    needs_face: ClassVar[bool]  # it cannot be asked for in `mode: general`
    needs_landmarks: ClassVar[bool]  # nor with a detector that gives none

    def __init__(self, config: MeasureConfig) -> None:
        """Raises InputError for weights or packages that are not here, so that a run is refused before it starts."""
        ...

    def fingerprint(self) -> str:
        """32 hex digits over name, version and digest of the weights."""
        ...

    def load(self) -> None:
        """Make ready to measure. Raises InputError for weights that are gone or cannot be used."""
        ...

    def __call__(self, clip: Evidence) -> dict[str, Score]:
        """A score for every name in `scores`."""
        ...
