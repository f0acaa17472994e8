"""Tracks, boxes and crops, on faces whose way is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.detectors import Face
from tasks.faces import (
    SquareBox,
    Track,
    alive,
    centre_box,
    cut,
    lasting,
    link,
    main_track,
    most_at_once,
    overlap,
    patch,
    per_frame,
    stable_box,
)


def face(x: float, y: float, size: float = 40.0) -> Face:
    """A square face centred on a point."""
    return Face((x - size / 2, y - size / 2, x + size / 2, y + size / 2), 1.0)


def track(frames: list[int], centres: list[tuple[float, float]], size: float = 40.0) -> Track:
    return Track(np.array(frames), np.array([face(x, y, size).box for x, y in centres], float))


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 2, 2), (2, 0, 4, 2)) == 0


def test_a_moving_face_is_one_track_and_two_faces_are_two() -> None:
    sightings = [(5 * i, [face(50 + 4 * i, 60), face(200, 60 + i)][:: 1 if i % 2 else -1]) for i in range(10)]
    tracks = link(sightings, max_gap=10)
    assert [list(item.frames) for item in tracks] == [list(range(0, 50, 5))] * 2
    ways = sorted(tracks, key=lambda item: float(item.boxes[0, 0]))
    assert ways[0].boxes[-1, 0] - ways[0].boxes[0, 0] == 36
    assert ways[1].boxes[-1, 1] - ways[1].boxes[0, 1] == 9


def test_landmarks_stay_with_their_face_through_the_looks() -> None:
    def marked(x: float) -> Face:
        return Face(face(x, 60).box, 1.0, ((x - 8, 50), (x + 8, 50), (x, 60), (x - 6, 70), (x + 6, 70)))

    sightings = [
        (0, [marked(50), face(200, 60)]),
        (5, [face(200, 60), face(52, 60)]),
        (10, [face(200, 60), marked(54)]),
    ]
    left, right = sorted(link(sightings, max_gap=10), key=lambda item: float(item.boxes[0, 0]))
    assert right.landmarks is None
    assert left.landmarks is not None
    assert left.landmarks.shape == (3, 5, 2)
    np.testing.assert_array_equal(left.landmarks[0], marked(50).landmarks)
    assert np.isnan(left.landmarks[1]).all()
    np.testing.assert_array_equal(left.landmarks[2], marked(54).landmarks)


def test_a_detector_that_gives_other_than_five_landmarks_is_named() -> None:
    wrong = Face(face(50, 60).box, 1.0, ((40, 50), (60, 50)))
    with pytest.raises(ValueError, match="frame 5: a face with 2 landmarks, not 5"):
        link([(0, [face(50, 60)]), (5, [wrong])], max_gap=10)


def test_a_face_lost_for_long_is_another_one() -> None:
    seen = [(0, [face(50, 50)]), (5, []), (10, [face(50, 50)]), (40, [face(50, 50)])]
    assert [list(item.frames) for item in link(seen, max_gap=10)] == [[0, 10], [40]]


def test_what_comes_and_goes_is_no_person() -> None:
    steady = track([0, 5, 10, 15], [(50, 50)] * 4)
    brief = track([0, 5], [(200, 50)] * 2)
    flicker = track([0, 15, 30, 60], [(300, 50)] * 4)
    assert lasting([steady, brief, flicker], every=5, min_looks=3, min_density=0.5) == (steady,)


def test_the_main_face_is_large_for_long() -> None:
    small_always = track(list(range(0, 100, 5)), [(50, 50)] * 20, size=20)
    large_briefly = track([0, 5], [(150, 50)] * 2, size=90)
    large_always = track(list(range(0, 100, 5)), [(150, 50)] * 20, size=60)
    assert main_track([small_always, large_briefly, large_always]) is large_always
    with pytest.raises(ValueError, match="no main face"):
        main_track([])


def test_people_are_counted_when_they_are_there_together() -> None:
    first, second = track([0, 20], [(50, 50)] * 2), track([30, 60], [(50, 50)] * 2)
    third = track([40, 70], [(200, 50)] * 2)
    assert most_at_once([first, second], 80) == 1
    assert most_at_once([first, second, third], 80) == 2
    assert most_at_once([], 80) == 0
    present = alive([first, second, third], 80)
    assert present.shape == (80,)
    assert [int(present[frame]) for frame in (0, 20, 21, 29, 30, 39, 40, 60, 61, 70, 71)] == [
        1,
        1,
        0,
        0,
        1,
        1,
        2,
        2,
        1,
        1,
        0,
    ]


def test_boxes_between_looks_lie_on_straight_lines() -> None:
    boxes = per_frame(track([5, 10], [(50, 50), (60, 50)]), 15)
    assert boxes.shape == (15, 4)
    np.testing.assert_allclose(boxes[:6, 0], 30)
    np.testing.assert_allclose(boxes[7, 0], 34)
    np.testing.assert_allclose(boxes[10:, 0], 40)


def test_the_box_of_a_still_face_is_its_median_expanded() -> None:
    centres = [(100.0, 90.0)] * 30 + [(130.0, 90.0)]  # one stray look moves nothing
    box = stable_box(track(list(range(31)), centres), 1.5, 320, 240)
    assert box == SquareBox(70, 60, 60)


def test_the_box_of_a_wandering_face_holds_all_its_way() -> None:
    way = [(80.0 + 10 * i, 120.0) for i in range(15)]
    box = stable_box(track(list(range(15)), way), 1.5, 400, 300)
    assert box.x <= 75
    assert box.corners[2] >= 225
    assert box.side < 240


@given(st.data())
def test_the_box_is_inside_where_it_fits(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(40, 400)), data.draw(st.integers(40, 400))
    x, y = data.draw(st.integers(0, 400)), data.draw(st.integers(0, 400))
    size, expand = data.draw(st.integers(10, 200)), data.draw(st.floats(1.0, 3.0))
    box = stable_box(track([0, 1, 2], [(x % width, y % height)] * 3, size), expand, width, height)
    assert box.side == pytest.approx(expand * size, abs=1)
    if box.side <= min(width, height):
        x1, y1, x2, y2 = box.corners
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= width
        assert y2 <= height


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (320, 180, SquareBox(70, 0, 180)),
        (180, 320, SquareBox(0, 70, 180)),
        (101, 98, SquareBox(1, 0, 98)),
        (7, 101, SquareBox(0, 47, 7)),
        (64, 64, SquareBox(0, 0, 64)),
    ],
)
def test_the_middle_of_a_picture_is_its_largest_square(width: int, height: int, box: SquareBox) -> None:
    assert centre_box(width, height) == box


def test_cutting_pads_with_the_edge() -> None:
    frame = np.zeros((20, 30, 3), np.uint8)
    frame[:, 0] = 200
    frame[:, -1] = 100
    crop = cut(frame, SquareBox(-10, -5, 50), 50)
    assert crop.shape == (50, 50, 3)
    assert (crop[:, :11] == 200).all()
    assert (crop[:, 39:] == 100).all()
    np.testing.assert_array_equal(crop[10:20, 10:40], frame[5:15])


@pytest.mark.parametrize("size_px", [16, 64, 96])
def test_cutting_shows_the_square_at_the_size_asked_for(size_px: int) -> None:
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[20:52, 40:56] = 255  # left half of the square
    crop = cut(frame, SquareBox(40, 20, 32), size_px)
    assert crop.shape == (size_px, size_px, 3)
    assert crop[:, : size_px // 2 - 2].min() > 240
    assert crop[:, size_px // 2 + 2 :].max() < 15


def test_scaled_boxes_and_patches() -> None:
    assert SquareBox(-10, 20, 31).scaled(0.5) == SquareBox(-5, 10, 16)
    frame = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    np.testing.assert_array_equal(patch(frame, np.array([4.0, 3.0, 10.0, 12.0])), frame[3:12, 4:10])
    assert patch(frame, np.array([-5.0, -5.0, 4.2, 3.0])).shape == (3, 5, 3)
    assert patch(frame, np.array([40.0, 40.0, 50.0, 50.0])).shape == (1, 1, 3)
