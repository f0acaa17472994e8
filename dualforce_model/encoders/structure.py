"""What a structure encoder may say beside its rows: key points at rest, and the table that names the entries."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from dualforce_model.encoders.base import NoFaceError
from dualforce_model.layout import Layout


class FaceSquare(NamedTuple):
    """An upright square around a face: its centre and side in pixels of the frame."""

    x: float
    y: float
    side: float


class Measured(NamedTuple):
    """Structure of every frame."""

    motion: Float32[np.ndarray, "T m"]
    canonical: Float32[np.ndarray, "T k"] | None
    """Key points at rest: who it is, nearly the same in all frames. That of a window's reference is a condition."""
    square: FaceSquare | None = None
    """What the rows' places and sizes are told in, where the encoder chooses it by the face; else it is the frame."""


@runtime_checkable
class Resting(Protocol):
    """A structure encoder that tells who a face is from what it does."""

    def measure(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Measured:
        """Rows and key points at rest of every frame, in one go."""
        ...


@runtime_checkable
class Squared(Protocol):
    """A structure encoder that tells places and sizes in a square of its own choice, which it names."""

    def in_square(self, motion: Float32[np.ndarray, "T m"], told_in: FaceSquare, wanted: FaceSquare) -> np.ndarray:
        """The same rows [T, m], told in another square of the same frames."""
        ...


def of_pictures(
    encoder: Any, whole: Measured, frames: Sequence[int], alone: Sequence[Measured | NoFaceError]
) -> Measured:
    """What an encoder says of some frames of a clip as pictures alone, told in the clip's square.

    That is what it says of a picture at generation. `whole` is the clip's and fills in where a picture by itself shows
    no face.
    """
    rows = [
        _one(whole, frame) if isinstance(each, NoFaceError) else _told_in(encoder, each, whole.square)
        for frame, each in zip(frames, alone, strict=True)
    ]
    canonical = [each.canonical for each in rows if each.canonical is not None]
    return Measured(np.concatenate([each.motion for each in rows]), np.concatenate(canonical) if canonical else None)


def _one(whole: Measured, frame: int) -> Measured:
    canonical = None if whole.canonical is None else whole.canonical[frame : frame + 1]
    return Measured(whole.motion[frame : frame + 1], canonical)


def _told_in(encoder: Any, found: Measured, wanted: FaceSquare | None) -> Measured:
    if wanted is None:
        return found
    assert isinstance(encoder, Squared), "who names a square can tell rows in another"
    assert found.square is not None, "an encoder names squares always or never"
    return found._replace(motion=encoder.in_square(found.motion, found.square, wanted), square=wanted)


def measure(encoder: Any, frames: UInt8[np.ndarray, "T H W 3"]) -> Measured:
    """What any structure encoder says of frames."""
    if isinstance(encoder, Resting):
        return encoder.measure(frames)
    return Measured(encoder(frames), None)


def layout_of(encoder: Any) -> Layout | None:
    """The encoder's table of entries. Where their names follow from its config alone (face_dct) there is none."""
    found = getattr(encoder, "layout", None)
    return found if isinstance(found, Layout) else None
