"""What a structure encoder may say beside its rows: key points at rest, and the table that names the entries."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from dualforce_model.layout import Layout


class Measured(NamedTuple):
    """Structure of every frame."""

    motion: Float32[np.ndarray, "T m"]
    canonical: Float32[np.ndarray, "T k"] | None
    """Key points at rest: who it is, nearly the same in all frames. That of a window's reference is a condition."""


@runtime_checkable
class Resting(Protocol):
    """A structure encoder that tells who a face is from what it does."""

    def measure(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Measured:
        """Rows and key points at rest of every frame, in one go."""
        ...


def measure(encoder: Any, frames: UInt8[np.ndarray, "T H W 3"]) -> Measured:
    """What any structure encoder says of frames."""
    if isinstance(encoder, Resting):
        return encoder.measure(frames)
    return Measured(encoder(frames), None)


def layout_of(encoder: Any) -> Layout | None:
    """The encoder's table of entries. Where their names follow from its config alone (face_dct) there is none."""
    found = getattr(encoder, "layout", None)
    return found if isinstance(found, Layout) else None
