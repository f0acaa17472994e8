"""Several clips at once: all in one call where an encoder takes them, else one by one; no face is one clip's own."""

from collections.abc import Sequence

import pytest

from dualforce_model.encoders.base import Batching, NoFaceError, or_no_face, said_of_each, sure


class Plain:
    """Doubles; sees no face in a 0."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def __call__(self, clip: int) -> int:
        self.asked.append(clip)
        if not clip:
            raise NoFaceError("no face in any of 5 frames")
        return 2 * clip


class Together(Plain):
    """The same for several clips at once."""

    def many(self, clips: Sequence[int]) -> list[int]:
        self.asked.append(tuple(clips))
        return [2 * clip for clip in clips]


def test_an_encoder_that_gains_is_asked_once() -> None:
    encoder = Together()
    assert isinstance(encoder, Batching)
    assert said_of_each(encoder, encoder, [1, 2, 3]) == [2, 4, 6]
    assert encoder.asked == [(1, 2, 3)]


def test_any_other_is_asked_one_by_one_and_no_face_is_one_clip_s_own() -> None:
    encoder = Plain()
    assert not isinstance(encoder, Batching)
    first, lacking, last = said_of_each(encoder, encoder, [1, 0, 3])
    assert (first, last) == (2, 6)
    assert isinstance(lacking, NoFaceError)
    assert encoder.asked == [1, 0, 3]


def test_what_stands_for_no_face_holds_no_frames_and_can_be_raised() -> None:
    lacking = or_no_face(Plain(), 0)
    assert isinstance(lacking, NoFaceError)
    assert lacking.__traceback__ is None, "it would keep all that the frames of the call hold"
    with pytest.raises(NoFaceError, match="no face in any of 5 frames"):
        sure(lacking)
    assert sure(or_no_face(Plain(), 2)) == 4


def test_other_errors_are_raised() -> None:
    def broken(_: int) -> int:
        raise ValueError("of all things")

    with pytest.raises(ValueError, match="of all things"):
        or_no_face(broken, 1)
