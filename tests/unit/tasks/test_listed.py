"""What a list says of a clip, held against the video."""

import numpy as np
import pytest

from tasks.faces import Track
from tasks.listed import exact_span, inside, listed_track
from tasks.records import Frames, Impossible, Reason, Span


def track(*box: float, looks: int = 5) -> Track:
    return Track(np.arange(looks) * 8, np.tile(np.array(box, float), (looks, 1)))


LARGE, SMALL = track(0, 0, 200, 200), track(400, 100, 460, 170)


@pytest.mark.parametrize(
    ("listed", "real"), [(23.98, 24000 / 1001), (29.97, 30000 / 1001), (25.0, 25.0), (59.94, 60000 / 1001)]
)
def test_frames_at_the_rate_of_the_video_are_exact(listed: float, real: float) -> None:
    frames = Frames(first=90_000, end=90_100, fps=listed)
    rounded = Span(start_s=90_000 / listed, end_s=90_100 / listed)
    assert exact_span(rounded, frames, real) == Span(start_s=90_000 / real, end_s=90_100 / real)


@pytest.mark.parametrize(("listed", "real"), [(24.0, 24000 / 1001), (30.0, 30000 / 1001), (25.0, 50.0), (25.0, 0.0)])
def test_frames_at_another_rate_are_seconds(listed: float, real: float) -> None:
    span = Span(start_s=4.0, end_s=8.0)
    assert exact_span(span, Frames(first=round(4 * listed), end=round(8 * listed), fps=listed), real) is span


def test_share_of_a_face_in_a_box() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 30], [-5, 0, 5, 10]], float)
    assert inside(boxes, (0, 0, 10, 10)).tolist() == [1.0, 0.25, 0.0, 0.5]


def test_the_listed_box_names_the_face_not_the_size() -> None:
    around_small = (350, 50, 510, 230)
    assert listed_track([LARGE, SMALL], around_small) is SMALL
    assert listed_track([LARGE, SMALL], (0, 0, 250, 250)) is LARGE
    assert listed_track([LARGE, SMALL], (0, 0, 640, 360)) is LARGE, "a box of all names nobody: the larger face"
    rival = track(470, 60, 620, 210)  # larger, and a quarter of it in the box
    assert listed_track([rival, SMALL], around_small) is SMALL


def test_a_face_that_stays_goes_before_one_that_passes_by() -> None:
    brief = track(400, 100, 470, 180, looks=2)
    assert listed_track([brief, SMALL], (350, 50, 510, 230)) is SMALL


def test_faces_elsewhere_are_no_clip() -> None:
    with pytest.raises(Impossible) as caught:
        listed_track([LARGE, SMALL], (150, 150, 300, 300))
    assert caught.value.reason is Reason.FACE_ELSEWHERE
    assert caught.value.measured == (
        "no face in the listed box 150, 150, 300, 300: the nearest of 2 lies in it to 6%; 50% are needed"
    )
