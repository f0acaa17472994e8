"""The animated head: lips follow the sound in the truth and in the pixels, and a detector finds one face."""

import cv2
import numpy as np
import pytest

from tasks.synthetic import speech
from tasks.synthetic.animate import Acting, Look, TalkingHead, act, openness_of, render_clip
from tasks.synthetic.backgrounds import paint_background
from tasks.synthetic.portraits import MARGIN_UNITS, PORTRAITS

NAMES = sorted(PORTRAITS)


@pytest.fixture(scope="module")
def cascade() -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")


def faces(cascade: cv2.CascadeClassifier, frame: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return np.asarray(cascade.detectMultiScale(grey, 1.1, 5, minSize=(grey.shape[0] // 5,) * 2)).reshape(-1, 4)


def darkness(frames: np.ndarray, name: str) -> np.ndarray:
    """Share of dark pixels around and below the middle of the mouth, per frame."""
    scale = frames.shape[1] / 320
    x, y = np.array(PORTRAITS[name].lips[1]) - MARGIN_UNITS
    rows = slice(int((y - 12) * scale), int((y + 26) * scale))
    columns = slice(int((x - 16) * scale), int((x + 16) * scale))
    patch = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])[:, rows, columns]
    return (patch < 62).mean(axis=(1, 2))


@pytest.mark.parametrize("name", NAMES)
def test_the_mouth_follows_the_sound(name: str) -> None:
    sound = speech.synthesise(PORTRAITS[name].voice, 6.0, 5)
    clip = render_clip(name, sound, seed=5, size=192)
    loudness = speech.envelope(sound)
    assert clip.frames.shape == (150, 192, 192, 3)
    assert clip.frames.dtype == np.uint8
    assert np.corrcoef(clip.opening, loudness)[0, 1] > 0.93
    assert np.corrcoef(darkness(clip.frames, name), clip.opening)[0, 1] > 0.9
    assert np.corrcoef(darkness(clip.frames, name), loudness)[0, 1] > 0.85
    assert clip.opening[:6].max() < 0.3, "the first picture is one at rest"
    assert np.abs(np.diff(clip.opening)).max() < 0.6 * clip.opening.max(), "the mouth jumps"


@pytest.mark.parametrize("name", NAMES)
def test_the_opening_is_clearly_visible(name: str) -> None:
    """At a 96 px crop of 1.4 times the face (175 px) the gap spans about 8 px at its widest."""
    head = TalkingHead(name, Look(seed=1), 320)
    widest = Acting(np.ones(1, np.float32), np.zeros(1, np.float32), np.zeros((1, 4), np.float32))
    assert head.opening_px(widest)[0] * 96 / (1.4 * 175) > 7.5


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_finds_exactly_one_face(name: str, cascade: cv2.CascadeClassifier) -> None:
    found = []
    for seed in range(5):
        acting = act(np.linspace(0, 1, 100, dtype=np.float32), seed)
        some = Acting(acting.openness[::20], acting.blink[::20], acting.pose[::20])
        head = TalkingHead(name, Look.draw(seed), 320)
        found += [len(faces(cascade, frame)) for frame in head.frames(some)]
    assert np.mean(np.array(found) == 1) >= 0.95
    assert max(found) == 1


def test_equal_seeds_give_equal_pixels_and_others_do_not() -> None:
    sound = speech.synthesise(PORTRAITS["bob"].voice, 1.0, 1)
    one, again, other = (render_clip("bob", sound, seed, size=128) for seed in (1, 1, 2))
    assert np.array_equal(one.frames, again.frames)
    assert np.array_equal(one.opening, again.opening)
    assert np.abs(one.frames.astype(int) - other.frames).mean() > 5


def test_silence_keeps_the_mouth_closed_while_the_head_lives() -> None:
    clip = render_clip("cards", np.zeros(50 * 640, np.float32), seed=3, size=128)
    assert clip.opening.tolist() == [0.0] * 50
    assert np.abs(clip.frames[0].astype(int) - clip.frames[-1]).mean() > 0.3


def test_only_the_lower_face_moves_with_the_mouth() -> None:
    head = TalkingHead("astronaut", Look(seed=1), 320)
    still = np.zeros((2, 4), np.float32)
    closed, wide = head.frames(Acting(np.array([0, 1], np.float32), np.zeros(2, np.float32), still))
    moved = np.abs(closed.astype(int) - wide).max(axis=2) > 12
    assert moved[190:240, 130:190].mean() > 0.4
    assert not moved[:160].any()


def test_a_blink_closes_open_eyes() -> None:
    head = TalkingHead("astronaut", Look(seed=1), 320)
    acting = Acting(np.zeros(2, np.float32), np.array([0, 1], np.float32), np.zeros((2, 4), np.float32))
    open_eyes, closed = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in head.frames(acting))
    eye = (slice(112, 132), slice(112, 132))
    assert (open_eyes[eye] < 70).mean() > (closed[eye] < 70).mean() + 0.1


def test_acting_blinks_and_sways_smoothly() -> None:
    acting = act(np.zeros(500, np.float32), 4)
    assert 3 <= (np.diff((acting.blink > 0).astype(int)) == 1).sum() <= 12
    assert np.abs(acting.pose).max(axis=0) == pytest.approx([0.022, 0.012, 0.035, 0.015], rel=0.7)
    assert np.abs(np.diff(acting.pose, axis=0)).max() < 0.004


def test_openness_is_bounded_and_needs_no_future_beyond_one_frame() -> None:
    sound = speech.synthesise(PORTRAITS["lace"].voice, 4.0, 9)
    opened = openness_of(sound)
    assert opened.min() >= 0
    assert opened.max() <= 1
    assert np.array_equal(openness_of(sound[: 60 * 640])[:59], opened[:59])


def test_no_face_is_seen_in_an_empty_room(cascade: cv2.CascadeClassifier) -> None:
    assert sum(len(faces(cascade, paint_background(seed, 320))) for seed in range(12)) == 0
