"""What every metric is: a pure function of frames and sound, behind a thin class that carries its name."""

from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8


class JudgedClip(NamedTuple):
    """What a metric may look at: the picture and the sound of one clip, nothing else."""

    frames: UInt8[np.ndarray, "T H W 3"]
    samples: Float[np.ndarray, " n"]  # 16 kHz mono


@runtime_checkable
class Metric(Protocol):
    """One number per clip. `load` readies what the metric needs (weights); metrics without weights do nothing there."""

    name: ClassVar[str]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]

    def load(self) -> None:
        """Ready the metric once per process."""
        ...

    def __call__(self, clip: JudgedClip) -> float:
        """The clip's value."""
        ...
