"""`mode: general`: clips without faces, of any shape, with and without sound."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dualforce_model import media, storage
from tasks.curation import FACE_SETTINGS, CurateConfig, Curated, CurateJob, Curator, crop_key, crop_picture, unmeasured
from tasks.detectors import DetectorConfig
from tasks.policy import judge, load_policy
from tasks.records import Impossible, Quarantined, Reason, Span
from tasks.scores import FACE_SCORES

CONFIG = CurateConfig(mode="general", crop_px=64)
SPAN = Span(start_s=0, end_s=4)
RATE_HZ = 16000


def scene(width: int, height: int, num_frames: int, seed: int = 0) -> list[np.ndarray]:
    """A slowly moving landscape, its left, right, upper and lower edges in colours of their own."""
    rng = np.random.default_rng(seed)
    texture = cv2.resize(rng.integers(40, 200, (6, 6, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    frames = []
    for index in range(num_frames):
        frame = np.roll(texture, index // 2, axis=1)
        if width > height:
            margin = (width - height) // 2
            frame[:, : margin - 2], frame[:, width - margin + 2 :] = (255, 0, 0), (0, 0, 255)
        elif height > width:
            margin = (height - width) // 2
            frame[: margin - 2], frame[height - margin + 2 :] = (255, 0, 0), (0, 0, 255)
        frames.append(frame)
    return frames


def hum(num_frames: int) -> np.ndarray:
    return (0.2 * np.sin(np.arange(num_frames * 640) / 20)).astype(np.float32)


Run = Callable[..., Curated]


@pytest.fixture
def curate(tmp_path: Path) -> Run:
    worker = Curator(CONFIG, tmp_path)
    worker.load()

    def run(frames: list[np.ndarray], sound: np.ndarray | None, span: Span | None = None) -> Curated:
        media.write_video(tmp_path / "raw/a.mp4", frames, sound)
        found = storage.file_digest(tmp_path / "raw/a.mp4")
        job = CurateJob(
            job_id="a",
            source_path="raw/a.mp4",
            source_digest=found,
            span=span or Span(),
            key="k",
            target="crops/a.mp4",
        )
        return Curated.model_validate(worker(job))

    return run


@pytest.mark.parametrize(("width", "height"), [(192, 108), (108, 192), (96, 96), (200, 130), (66, 130)])
def test_a_clip_without_a_face_is_the_middle_of_its_picture(
    tmp_path: Path, curate: Run, width: int, height: int
) -> None:
    frames = scene(width, height, 55)
    done = curate(frames, hum(55))
    side = min(width, height)
    x, y = (width - side) // 2, (height - side) // 2
    assert done.box == (x, y, x + side, y + side)
    assert (done.num_frames, done.dropped_frames, done.has_sound) == (53, 2, True)
    crops = list(media.read_frames(tmp_path / done.path))
    assert np.stack(crops).shape == (53, 64, 64, 3)
    for index in (0, 20, 52):
        shown = frames[index][y : y + side, x : x + side]
        assert not (shown == (255, 0, 0)).all(axis=2)[4:-4, 4:-4].any()
        expected = cv2.resize(shown, (64, 64), interpolation=cv2.INTER_AREA)
        assert float(np.abs(crops[index].astype(int) - expected).mean()) < 6
    assert len(media.read_sound(tmp_path / done.path)) == 53 * 640
    assert media.read_image(tmp_path / done.thumbnail).shape[0] > 128 + 22


def test_sound_is_optional_and_the_pretraining_policy_passes(tmp_path: Path, curate: Run) -> None:
    done = curate(scene(192, 108, 53), None)
    assert not done.has_sound
    assert len(media.read_sound(tmp_path / done.path)) == 0
    for name in FACE_SCORES:
        assert (done.scores[name].method, done.scores[name].value) == ("mode general: no face is looked for", None)
    assert done.scores["duration_s"].value == 53 / 25
    assert judge(load_policy("configs/policy/pretrain.yaml"), "a", done.scores) == 1.0
    verdict = judge(load_policy("configs/policy/default.yaml"), "a", done.scores)
    assert isinstance(verdict, Quarantined)
    assert verdict.reason is Reason.NOT_MEASURED
    assert verdict.measured == "people could not be measured here (mode general: no face is looked for)"


def test_cuts_and_length_are_what_the_pretraining_policy_judges(curate: Run) -> None:
    policy = load_policy("configs/policy/pretrain.yaml")
    cut = judge(policy, "a", curate(scene(192, 108, 30) + scene(192, 108, 30, seed=5), None).scores)
    assert isinstance(cut, Quarantined)
    assert cut.reason is Reason.SHOT_CUT
    brief = judge(policy, "a", curate(scene(192, 108, 30), None).scores)
    assert isinstance(brief, Quarantined)
    assert brief.reason is Reason.TOO_SHORT
    with pytest.raises(Impossible) as caught:
        curate(scene(192, 108, 60), None, Span(start_s=0.0, end_s=0.12))
    assert caught.value.reason is Reason.TOO_SHORT


def test_a_span_is_cut_out_and_curating_again_gives_equal_bytes(tmp_path: Path, curate: Run) -> None:
    frames = scene(108, 192, 100)
    first = curate(frames, hum(100), Span(start_s=1.0, end_s=3.0))
    assert first.num_frames == 49
    shown = next(iter(media.read_frames(tmp_path / first.path)))
    expected = cv2.resize(frames[25][42:150], (64, 64), interpolation=cv2.INTER_AREA)
    assert float(np.abs(shown.astype(int) - expected).mean()) < 6
    assert curate(frames, hum(100), Span(start_s=1.0, end_s=3.0)) == first


def test_no_detector_is_made_not_even_one_whose_weights_are_missing(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"detector": DetectorConfig(name="yunet", weights=tmp_path / "none.onnx")})
    worker = Curator(config, tmp_path)
    worker.load()
    assert worker.detector is None
    assert crop_key(config, "a" * 64, SPAN) == crop_key(CONFIG, "a" * 64, SPAN)


def test_the_key_holds_what_a_general_crop_is_made_from_and_nothing_else() -> None:
    base = crop_key(CONFIG, "a" * 64, SPAN)
    assert base != crop_key(CurateConfig(crop_px=64), "a" * 64, SPAN)
    assert base != crop_key(CONFIG, "b" * 64, SPAN)
    assert base != crop_key(CONFIG, "a" * 64, Span(start_s=0, end_s=5))
    changed = {
        "crop_px": 96,
        "crf": 20,
        "max_clip_s": 5.0,
        "limits": CONFIG.limits.model_copy(update={"max_side_px": 640}),
    }
    assert {"mode", "measures", *changed, *FACE_SETTINGS} == set(CurateConfig.model_fields)
    for name, value in changed.items():
        assert base != crop_key(CONFIG.model_copy(update={name: value}), "a" * 64, SPAN), name
    for name, value in {
        "expand": 2.0,
        "detect_every": 3,
        "min_looks": 1,
        "detector": DetectorConfig(min_face=0.3),
    }.items():
        assert base == crop_key(CONFIG.model_copy(update={name: value}), "a" * 64, SPAN), name


def test_nothing_about_faces_can_be_asked_of_it() -> None:
    assert set(unmeasured(CONFIG)) == set(FACE_SCORES)
    assert not {"duration_s", "shot_cuts", "loudness_db", "speech_share", "snr_db"} & set(FACE_SCORES)


def test_a_reference_picture_is_cropped_to_its_middle() -> None:
    picture = scene(200, 130, 1)[0]
    crop = crop_picture(picture, CONFIG, "a.png")
    expected = cv2.resize(picture[:, 35:165], (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(crop, expected)
