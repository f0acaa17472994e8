"""Scores against what is known: closed forms, made curves, and real clips where they are at hand."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from dualforce_model import media
from tasks import quality
from tasks.detectors import DetectorConfig, make_detector
from tasks.faces import Track, link
from tasks.head_pose import FACE_MM
from tasks.records import Score

RATE = 16000


def value(score: Score) -> float:
    assert score.value is not None, score.method
    return score.value


def speechlike(seconds: float, seed: int = 0, pause_s: float = 0.4) -> np.ndarray:
    """Syllables of band-limited noise with pauses: 0.8 s on, `pause_s` off."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    t = np.arange(n) / RATE
    syllables = 0.55 - 0.45 * np.cos(2 * np.pi * 4 * t)
    talking = (t % (0.8 + pause_s)) < 0.8
    noise = rng.normal(0, 0.2, n)
    return (noise * syllables * talking).astype(np.float32)


def test_duration_and_loudness_have_closed_forms() -> None:
    assert value(quality.duration_s(50)) == 2.0
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    assert value(quality.loudness_db(tone)) == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert value(quality.loudness_db(np.zeros(RATE, np.float32))) == quality.SILENCE_DB
    assert value(quality.loudness_db(np.zeros(0, np.float32))) == quality.SILENCE_DB


@pytest.mark.parametrize("pause_s", [0.4, 1.2])
def test_speech_share_is_the_time_with_speech(pause_s: float) -> None:
    rng = np.random.default_rng(1)
    sound = speechlike(9.6, pause_s=pause_s) + rng.normal(0, 0.001, int(9.6 * RATE)).astype(np.float32)
    assert value(quality.speech_share(sound)) == pytest.approx(0.8 / (0.8 + pause_s), abs=0.08)


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(2 * RATE, np.float32),
        np.zeros(0, np.float32),
        np.zeros(100, np.float32),
        (0.3 * np.sin(np.arange(2 * RATE) / 5)).astype(np.float32),
        np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32),
        speechlike(2.0) * 1e-4,
    ],
    ids=["silence", "nothing", "six milliseconds", "tone", "noise", "far too quiet"],
)
def test_what_is_no_speech_has_none(sound: np.ndarray) -> None:
    assert value(quality.speech_share(sound)) < 0.05
    assert quality.snr_db(sound).value is None


@pytest.mark.parametrize("snr", [5.0, 15.0, 30.0])
def test_snr_is_speech_over_background(snr: float) -> None:
    speech = speechlike(9.6, pause_s=0.8)
    power = float(np.mean(speech[speech != 0] ** 2))
    noise = np.random.default_rng(1).normal(0, np.sqrt(power / 10 ** (snr / 10)), len(speech)).astype(np.float32)
    assert value(quality.snr_db(speech + noise)) == pytest.approx(snr, abs=3.5)


def moving_picture(seed: int, num_frames: int) -> list[np.ndarray]:
    """A textured scene under a panning, shaking camera."""
    rng = np.random.default_rng(seed)
    texture = cv2.resize(rng.integers(0, 255, (12, 12, 3), np.uint8), (320, 320), interpolation=cv2.INTER_CUBIC)
    shake = rng.integers(-3, 4, (num_frames, 2))
    return [np.roll(texture, (i + int(a), 2 * i + int(b)), axis=(0, 1))[:240] for i, (a, b) in enumerate(shake)]


def cuts(frames: list[np.ndarray]) -> float:
    return value(quality.shot_cuts([quality.glance(media.Picture.of(frame)) for frame in frames]))


def test_cuts_are_counted_and_camera_movement_is_none() -> None:
    shots = [moving_picture(seed, 20) for seed in range(3)]
    assert cuts(shots[0]) == 0
    assert cuts(shots[0] + shots[1]) == 1
    assert cuts(shots[0] + shots[1] + shots[2] + shots[0]) == 3
    assert cuts([frame for frame in shots[0] + shots[1] for _ in range(3)]) == 1  # 8 fps shown at 25
    assert cuts(shots[0][:1] + shots[1][:1]) == 1
    assert cuts(shots[0][:1]) == 0


def test_fades_and_flicker_are_no_cuts() -> None:
    scene = moving_picture(0, 50)
    assert cuts([(frame * (i / 50)).astype(np.uint8) for i, frame in enumerate(scene)]) == 0
    rng = np.random.default_rng(0)
    assert cuts([np.clip(frame * rng.uniform(0.95, 1.05), 0, 255).astype(np.uint8) for frame in scene]) == 0


def test_sharpness_falls_with_blur_and_ignores_contrast_and_size() -> None:
    face = np.ascontiguousarray(data.astronaut()[60:180, 165:285])
    scores = [value(quality.sharpness([cv2.GaussianBlur(face, (0, 0), sigma)])) for sigma in (0.3, 1.0, 2.0, 4.0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 8 * scores[-1]
    dim = (face * 0.4 + 60).astype(np.uint8)
    assert value(quality.sharpness([dim])) == pytest.approx(value(quality.sharpness([face])), rel=0.15)
    large = cv2.resize(face, (480, 480), interpolation=cv2.INTER_CUBIC)
    assert value(quality.sharpness([large])) == pytest.approx(value(quality.sharpness([face])), rel=0.35)
    assert value(quality.sharpness([np.full((50, 50, 3), 90, np.uint8)])) < 0.1


def test_brightness_is_the_median_luma_of_the_face() -> None:
    grey = [np.full((40, 30, 3), level, np.uint8) for level in (20, 60, 200)]
    assert value(quality.brightness(grey)) == 60
    assert value(quality.brightness(grey[:2])) == 40
    green = np.zeros((40, 30, 3), np.uint8)
    green[..., 1] = 200
    assert value(quality.brightness([green])) == round(0.587 * 200)
    lamp = np.full((40, 30, 3), 50, np.uint8)
    lamp[:10] = 255  # a quarter of the face is overexposed
    assert quality.brightness([lamp]) == Score(method="median luma", value=50.0)


def person(first: int, last: int) -> Track:
    return Track(np.array([first, last]), np.tile([10.0, 10.0, 50.0, 50.0], (2, 1)))


def test_people_share_is_the_part_of_the_looks_with_company() -> None:
    looks = list(range(0, 100, 10))
    assert value(quality.people_share([person(0, 90)], looks, 95)) == 0
    assert value(quality.people_share([person(0, 90), person(0, 90)], looks, 95)) == 1
    assert value(quality.people_share([person(0, 90), person(30, 60)], looks, 95)) == 0.4
    assert value(quality.people_share([person(0, 40), person(50, 90)], looks, 95)) == 0  # one after the other
    crowd = [person(0, 90), person(0, 20), person(10, 30)]
    assert value(quality.people_share(crowd, looks, 95)) == 0.4


def head(yaws: list[float | None]) -> Track:
    """A head turned to these sides, seen from afar; None: a look without landmarks."""
    marks = np.full((len(yaws), 5, 2), np.nan)
    for row, yaw in enumerate(yaws):
        if yaw is not None:
            cos, sin = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
            marks[row] = np.stack([FACE_MM[:, 0] * cos + FACE_MM[:, 2] * sin, FACE_MM[:, 1]], axis=1) + 100
    boxes: np.ndarray = np.tile([50.0, 80.0, 150.0, 190.0], (len(yaws), 1))
    return Track(np.arange(len(yaws)) * 5, boxes, marks)


def test_a_head_that_turns_from_side_to_side_is_turned() -> None:
    still = quality.head_angles(head([0.0, 1.0, -1.0]))
    assert value(still["yaw_deg"]) < 3
    swinging = quality.head_angles(head([50.0, -50.0, None, 50.0, -50.0, 0.0]))
    assert value(swinging["yaw_deg"]) == pytest.approx(50, abs=3)
    assert value(swinging["pitch_deg"]) < 4
    assert value(swinging["roll_deg"]) < 4
    assert {score.method for score in swinging.values()} == {"five landmarks"}


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("Panda-70M/YemkZ7DLOBU.15.mp4", 48, 70),  # a profile, which people put at 54
        ("ditto-train/Clip+uWZRSkqJ--g+P0+C2+F8754-8865.mp4", 14, 30),  # 20 to 30
        ("LivePortrait/s32.mp4", 10, 30),  # about 20
        ("dreamtalk/M030_front_neutral_level1_001.mp4", 0, 8),  # into the camera
    ],
)
def test_real_heads_are_turned_as_people_say(shared: Path, name: str, least: float, most: float) -> None:
    weights = shared / "models/face_detection_yunet_2023mar.onnx"
    detector = make_detector(DetectorConfig(name="yunet", min_score=0.7, weights=weights))
    detector.load()
    frames = enumerate(media.read_frames(shared / "realdata/video" / name, 0.0, 2.0))
    sightings = [(index, detector(frame)[:1]) for index, frame in frames if index % 8 == 0]
    angles = quality.head_angles(link(sightings, 50)[0])
    assert least <= value(angles["yaw_deg"]) <= most
    assert value(angles["pitch_deg"]) < 10


def test_head_angles_need_landmarks_of_a_head() -> None:
    assert quality.head_angles(person(0, 5)) == dict.fromkeys(quality.HEAD_ANGLES, quality.not_measured("landmarks"))
    flat = head([0.0, 0.0])
    assert flat.landmarks is not None
    flat.landmarks[:] = 70.0
    (score,) = set(quality.head_angles(flat).values())
    assert score == Score(method="five landmarks: those of no look are a head's")


def talking(num_frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mouth opening and envelope of one utterance: syllables at irregular times."""
    rng = np.random.default_rng(seed)
    envelope = np.zeros(num_frames + 20, np.float32)
    start = 0
    while start < num_frames:
        length = int(rng.integers(3, 8))
        envelope[start : start + length] += rng.uniform(0.03, 0.1) * np.hanning(length + 2)[1:-1]
        start += length + int(rng.choice([0, 1, 2, 9]))
    envelope = envelope[:num_frames]
    return (0.1 + 1.2 * envelope + rng.normal(0, 0.002, num_frames)).astype(np.float32), envelope


@pytest.mark.parametrize("seed", range(3))
def test_lips_that_follow_the_sound_score_high_and_others_low(seed: int) -> None:
    opening, envelope = talking(250, seed)
    others = talking(250, seed + 100)[0]
    still = (0.1 + np.random.default_rng(seed).normal(0, 0.0015, 250)).astype(np.float32)
    good = value(quality.lip_motion(opening, envelope))
    assert good > 0.5
    assert value(quality.lip_motion(others, envelope)) < 0.6 * good
    assert value(quality.lip_motion(still, envelope)) < 0.2
    assert quality.lip_motion(opening, np.zeros(250, np.float32)).value is None
    assert quality.lip_motion(opening[:5], envelope[:5]).value is None


@pytest.mark.parametrize("lag", [-9, -3, 0, 1, 4, 12])
def test_the_offset_is_where_the_sound_went(lag: int) -> None:
    opening, envelope = talking(300, 0)
    late = opening[20:-20], envelope[20 - lag : len(envelope) - 20 - lag]
    scores = quality.sound_sync(*late)
    assert value(scores["sound_offset_ms"]) == pytest.approx(40 * lag, abs=12)
    assert value(scores["sync_confidence"]) > 2


def test_the_offset_is_not_guessed() -> None:
    opening, envelope = talking(250, 0)
    strangers = [quality.sound_sync(talking(250, seed)[0], envelope) for seed in range(100, 120)]
    guesses = [scores["sound_offset_ms"].value for scores in strangers]
    assert sum(offset is not None for offset in guesses) <= 4  # syllables have a rhythm, so chance has a chance
    for curves, why in (
        ((np.full(250, 0.1, np.float32), envelope), "needs a mouth that moves"),
        ((opening, np.zeros(250, np.float32)), "needs sound and 1.2 s"),
        ((opening[:20], envelope[:20]), "needs sound and 1.2 s"),
    ):
        scores = quality.sound_sync(*curves)
        assert scores == dict.fromkeys(quality.SYNC_SCORES, Score(method=f"mouth opening and envelope: {why}"))


def test_confidence_is_the_best_correlation_over_chance() -> None:
    opening, envelope = talking(300, 0)
    own = quality.sound_sync(opening, envelope)["sync_confidence"]
    assert own.method == "mouth opening and envelope, over chance"
    assert 0.9 * np.sqrt(300) / quality.OFFSET_CHANCE < value(own) <= np.sqrt(300) / quality.OFFSET_CHANCE
    for seed in range(100, 120):
        scores = quality.sound_sync(talking(300, seed)[0], envelope)
        assert value(scores["sync_confidence"]) < 0.6 * value(own)
        if scores["sound_offset_ms"].value is not None:
            assert value(scores["sync_confidence"]) >= 1
        else:
            assert scores["sound_offset_ms"].method == "mouth opening and envelope: they agree at no lag"


def test_what_cannot_be_measured_says_what_it_would_take() -> None:
    assert quality.not_measured("landmarks") == Score(method="none: needs landmarks", value=None)
    assert quality.no_face_sought() == Score(method="mode general: no face is looked for", value=None)


def listed_speech(shared: Path) -> list[tuple[str, float]]:
    """Sound files of the shared folder with the share of speech that a voice-activity network measured."""
    found = re.findall(
        r"^\| `([^`]+)` \| [\d.]+ \| [^|]+\| [-\d.]+ \| ([\d.]+) \|", (shared / "realdata/README.md").read_text(), re.M
    )
    return [(name, float(share)) for name, share in found]


def test_speech_share_of_real_sound_agrees_with_a_network(shared: Path) -> None:
    files = listed_speech(shared)
    assert len(files) >= 12
    errors = {
        name: value(quality.speech_share(media.read_sound(shared / "realdata/audio" / name))) - share
        for name, share in files
        if "opus" not in name  # a hum whose level wavers: energy alone takes it for speech
    }
    assert max(abs(error) for error in errors.values()) < 0.12, errors


def test_snr_of_real_speech_orders_the_same_sentence(shared: Path) -> None:
    folder = shared / "realdata/audio/dreamtalk"
    clean, noisy = (quality.snr_db(media.read_sound(folder / f"noisy_audio_meeting_snr_{n}.wav")) for n in (20, 0))
    assert value(clean) > value(noisy) + 10


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("face_recognition/short_hamilton_clip.mp4", 3),
        ("smirk/dafoe.mp4", 0),
        ("batch-face/ross.mp4", 0),
        ("MARLIN/video05.mp4", 0),
        ("Panda-70M/aCx99cgrkVY.22.mp4", 0),
    ],
)
def test_cuts_of_real_clips(shared: Path, name: str, number: int) -> None:
    assert cuts(list(media.read_frames(shared / "realdata/video" / name))) == number
