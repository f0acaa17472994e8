"""Curating whole clips: made ones whose truth is known, broken ones, and every real one at hand."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from dualforce_model import clock, media, storage
from dualforce_model.config import ConfigError, digest, validate
from dualforce_model.stamp import Stamp, is_same_file
from tasks.curation import VERSION, CurateConfig, Curated, CurateJob, Curator, crop_key, unmeasured
from tasks.detectors import DetectorConfig, Face, make_detector
from tasks.head_pose import FACE_MM
from tasks.records import FailureClass, Impossible, Reason, Span, Temporary
from tasks.sources.cutting import SHORTEST_PIECE_S
from tasks.synthetic.animate import render_clip
from tasks.synthetic.portraits import PORTRAITS
from tasks.synthetic.speech import synthesise

CONFIG = CurateConfig(crop_px=96)
SPEAKER = "astronaut"
SECONDS = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A media root with one good talking clip, raw/good.mp4: 3 s, 320 x 320."""
    folder = tmp_path_factory.mktemp("curation")
    sound = synthesise(PORTRAITS[SPEAKER].voice, SECONDS, 1)
    media.write_video(folder / "raw/good.mp4", render_clip(SPEAKER, sound, 1).frames, sound)
    return folder


@pytest.fixture(scope="module")
def frames(root: Path) -> list[np.ndarray]:
    return list(media.read_frames(root / "raw/good.mp4"))


@pytest.fixture(scope="module")
def sound(root: Path) -> np.ndarray:
    return media.read_sound(root / "raw/good.mp4")


@pytest.fixture(scope="module")
def curate(root: Path) -> Callable[..., Curated]:
    worker = Curator(CONFIG, root)
    worker.load()

    def run(name: str, start_s: float = 0.0, end_s: float | None = None, target: str = "crops/clip.mp4") -> Curated:
        span = Span(start_s=start_s, end_s=end_s)
        source_digest = storage.file_digest(root / name)
        job = CurateJob(job_id="clip", source_path=name, source_digest=source_digest, span=span, key="k", target=target)
        return Curated.model_validate(worker(job))

    return run


@pytest.fixture(scope="module")
def good(curate: Callable[..., Curated]) -> Curated:
    return curate("raw/good.mp4", target="crops/good.mp4")


def refusal(curate: Callable[..., Curated], *span: object) -> Impossible:
    with pytest.raises(Impossible) as caught:
        curate(*span)
    return caught.value


def test_a_good_clip_becomes_a_crop_of_4k_plus_1_frames_with_its_sound(root: Path, good: Curated) -> None:
    assert good.num_frames == clock.floor_frames(25 * SECONDS) == 73
    assert good.dropped_frames == 2
    crop = root / good.path
    assert good.digest == storage.file_digest(crop)
    crops, heard = np.stack(list(media.read_frames(crop))), media.read_sound(crop)
    assert crops.shape == (73, 96, 96, 3)
    assert heard.shape == (clock.num_samples(73),)
    original = media.read_sound(root / "raw/good.mp4", 0.0, 73 / 25)
    assert float(np.corrcoef(heard, original)[0, 1]) > 0.98


def test_the_crop_shows_the_square_that_was_reported(root: Path, good: Curated, frames: list[np.ndarray]) -> None:
    x1, y1, x2, y2 = good.box
    assert x2 - x1 == y2 - y1
    assert x1 >= 0
    assert y1 >= 0
    assert x2 <= 320
    assert y2 <= 320
    for index, crop in enumerate(media.read_frames(root / good.path)):
        expected = cv2.resize(frames[index][y1:y2, x1:x2], (96, 96), interpolation=cv2.INTER_AREA)
        assert float(np.abs(crop.astype(int) - expected).mean()) < 4


def test_a_good_clip_scores_well(good: Curated) -> None:
    scores = {name: score.value for name, score in good.scores.items()}
    assert scores.pop("occlusion") is None
    assert [scores.pop(name) for name in ("yaw_deg", "pitch_deg", "roll_deg")] == [None] * 3
    assert good.scores["yaw_deg"].method == "none: needs landmarks"
    assert scores["people_share"] == 0
    assert 60 < scores["brightness"] < 200
    assert scores["duration_s"] == SECONDS
    assert scores["people"] == 1
    assert scores["shot_cuts"] == 0
    assert 100 < scores["face_px"] < 250
    assert scores["sharpness"] > 2
    assert scores["speech_share"] > 0.4
    assert scores["lip_motion"] > 0.5
    assert abs(scores["sound_offset_ms"]) < 30


def test_curating_again_gives_equal_bytes(root: Path, curate: Callable[..., Curated], good: Curated) -> None:
    again = curate("raw/good.mp4", target="crops/again.mp4")
    assert again.digest == good.digest
    assert again.scores == good.scores
    assert again.likeness == good.likeness
    assert (root / again.thumbnail).read_bytes() == (root / good.thumbnail).read_bytes()


def test_the_thumbnail_shows_four_frames_and_their_crops(root: Path, good: Curated) -> None:
    assert good.thumbnail == "crops/good.jpg"
    assert media.read_image(root / good.thumbnail).shape[1] == 4 + 4 * (173 + 4)
    assert (root / good.thumbnail).stat().st_size < 60_000


def test_a_span_is_cut_where_the_list_says(
    root: Path, curate: Callable[..., Curated], frames: list[np.ndarray]
) -> None:
    part = curate("raw/good.mp4", 1.0, 3.0, "crops/part.mp4")
    assert part.num_frames == 49
    x1, y1, x2, y2 = part.box
    first = next(iter(media.read_frames(root / part.path)))
    expected = cv2.resize(frames[25][y1:y2, x1:x2], (96, 96), interpolation=cv2.INTER_AREA)
    assert float(np.abs(first.astype(int) - expected).mean()) < 4


def test_blur_silence_still_lips_cuts_and_company_show_in_their_scores(
    root: Path, curate: Callable[..., Curated], good: Curated, frames: list[np.ndarray], sound: np.ndarray
) -> None:
    def scored(name: str, pictures: list[np.ndarray], voice: np.ndarray | None) -> dict[str, float | None]:
        media.write_video(root / f"raw/{name}.mp4", pictures, voice)
        curated = curate(f"raw/{name}.mp4", target=f"crops/{name}.mp4")
        return {score: found.value for score, found in curated.scores.items()}

    sharpness, lips = good.scores["sharpness"].value, good.scores["lip_motion"].value
    assert sharpness is not None
    assert lips is not None
    blurred = scored("blurred", [cv2.GaussianBlur(frame, (0, 0), 6) for frame in frames], sound)
    assert blurred["sharpness"] < sharpness / 5
    silent = scored("silent", frames, np.zeros_like(sound))
    assert silent["loudness_db"] == -120
    assert silent["speech_share"] == 0
    assert silent["lip_motion"] is None
    assert scored("mute", frames, None)["loudness_db"] == -120
    still = scored("still", [np.roll(frames[10], i % 3, axis=1) for i in range(len(frames))], sound)
    assert still["lip_motion"] < lips / 2
    other = np.ascontiguousarray(cv2.resize(data.astronaut(), (320, 320))[:, ::-1] // 2 + 100)
    assert scored("cut", frames[:40] + [other] * 35, sound)["shot_cuts"] == 1
    pair = scored("pair", [np.concatenate([frame, frame[:, ::-1]], axis=1) for frame in frames], sound)
    assert pair["people"] == 2
    assert pair["people_share"] == 1
    wall = np.full_like(frames[0], 90)
    visit = [np.concatenate([f, wall if i < 38 else f[:, ::-1]], axis=1) for i, f in enumerate(frames)]
    # The whole picture is searched at frame 40: the visitor is there in 5 of 10 looks.
    assert scored("visit", visit, sound)["people_share"] == 0.5
    dark = scored("dark", [frame // 4 for frame in frames], sound)
    assert dark["brightness"] == pytest.approx((good.scores["brightness"].value or 0.0) / 4, abs=3)


class Marked:
    """A detector written by hand: one face at a known place, turned to a known side, in every look."""

    def __init__(self, yaw_deg: float) -> None:
        cos, sin = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
        points = np.stack([160 + FACE_MM[:, 0] * cos + FACE_MM[:, 2] * sin, 100 + FACE_MM[:, 1]], axis=1)
        self.landmarks = tuple((float(x), float(y)) for x, y in points)

    def __call__(self, frame: np.ndarray, near: object = ()) -> list[Face]:
        return [Face((100.0, 60.0, 220.0, 200.0), 1.0, self.landmarks)]


@pytest.mark.parametrize("yaw_deg", [-40.0, 0.0, 25.0])
def test_landmarks_of_a_detector_become_angles(root: Path, yaw_deg: float, good: Curated) -> None:
    worker = Curator(CONFIG, root)
    worker.detector = Marked(yaw_deg)  # type: ignore[assignment]
    name = "raw/good.mp4"
    job = CurateJob(
        job_id="a",
        source_path=name,
        source_digest=storage.file_digest(root / name),
        span=Span(end_s=1.0),
        key="k",
        target=f"crops/marked{yaw_deg}.mp4",
    )
    scores = Curated.model_validate(worker(job)).scores
    assert scores["yaw_deg"].value == pytest.approx(abs(yaw_deg), abs=3)
    assert scores["pitch_deg"].value == pytest.approx(0, abs=4)
    assert scores["roll_deg"].value == pytest.approx(0, abs=3)
    assert scores["yaw_deg"].method == "five landmarks"
    assert set(scores) == set(good.scores), "the detector decides on values, not on names"


def test_what_can_be_no_clip_is_impossible_with_its_reason(
    root: Path, curate: Callable[..., Curated], frames: list[np.ndarray]
) -> None:
    (root / "raw/page.mp4").write_text("<html><body>403</body></html>")
    assert refusal(curate, "raw/page.mp4").reason is Reason.NOT_MEDIA
    media.write_wav(root / "raw/voice.wav", np.zeros(16000, np.float32))
    assert refusal(curate, "raw/voice.wav").reason is Reason.NOT_MEDIA
    cut_short = (root / "raw/good.mp4").read_bytes()
    (root / "raw/short.mp4").write_bytes(cut_short[: len(cut_short) // 2])
    assert refusal(curate, "raw/short.mp4").reason is Reason.UNDECODABLE
    assert refusal(curate, "raw/good.mp4", 60.0, 64.0).reason is Reason.SPAN_OUTSIDE
    brief = refusal(curate, "raw/good.mp4", 0.0, 0.12)
    assert (brief.reason, brief.measured) == (Reason.TOO_SHORT, "3 frames; a clip has at least 5")
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (320, 320))
    media.write_video(root / "raw/wall.mp4", [wall] * 50, None)
    nobody = refusal(curate, "raw/wall.mp4")
    assert (nobody.reason, nobody.measured) == (Reason.NO_FACE, "no face in any of the 7 frames looked at")
    media.write_video(root / "raw/glimpse.mp4", frames[:10] + [wall] * 90, None)
    glimpse = refusal(curate, "raw/glimpse.mp4")
    assert glimpse.reason is Reason.NO_FACE
    assert "30% are needed" in glimpse.measured


@pytest.mark.parametrize("target", ["/etc/x.mp4", "../x.mp4", "a/../../x.mp4", "crops/x.avi"])
def test_a_target_stays_below_the_root(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        CurateJob(job_id="a", source_path="a.mp4", source_digest="0", span=Span(), key="k", target=target)


def test_the_key_changes_with_all_that_a_crop_is_made_from() -> None:
    base = crop_key(CONFIG, "a" * 64, Span(start_s=0, end_s=4))
    assert base == crop_key(CurateConfig(crop_px=96), "a" * 64, Span(start_s=0.0, end_s=4.0))
    others = [
        crop_key(CurateConfig(crop_px=128), "a" * 64, Span(start_s=0, end_s=4)),
        crop_key(CurateConfig(crop_px=96, detector=DetectorConfig(min_face=0.2)), "a" * 64, Span(start_s=0, end_s=4)),
        crop_key(CONFIG, "b" * 64, Span(start_s=0, end_s=4)),
        crop_key(CONFIG, "a" * 64, Span(start_s=0, end_s=5)),
    ]
    assert len({base, *others}) == 5


def test_the_key_of_a_face_crop_holds_the_same_as_ever() -> None:
    """Every setting added to face mode makes all crops stale that anybody has; new ones must keep this digest."""
    assert digest(CurateConfig()) == "fe60aac9e86f153ff6543eff8e7f37ad"
    config, span = CurateConfig(), Span(start_s=0, end_s=4)
    detector = make_detector(config.detector).fingerprint()
    assert crop_key(config, "a" * 64, span) == digest("crop", VERSION, detector, config, "a" * 64, span)
    assert VERSION == 3, "2 had no identity, occlusion, sync_confidence, duplicates nor listed crops"
    assert digest("crop", VERSION, "detector", config, "a" * 64, span) == "0ad26864553ed064422619c707d7335e"


def test_where_weights_lie_is_not_in_the_key(shared: Path, tmp_path: Path) -> None:
    weights = shared / "models/face_detection_yunet_2023mar.onnx"
    shutil.copyfile(weights, tmp_path / weights.name)
    here, there = (
        crop_key(CurateConfig(detector=DetectorConfig(name="yunet", weights=path)), "a" * 64, Span())
        for path in (weights, tmp_path / weights.name)
    )
    assert here == there


def test_what_cannot_be_measured_is_known_before_a_run() -> None:
    cascade = CurateConfig()
    assert set(unmeasured(cascade)) == {"occlusion", "identity", "yaw_deg", "pitch_deg", "roll_deg"}
    assert unmeasured(cascade)["yaw_deg"] == "landmarks, and opencv_cascade gives none"
    landmarks = CurateConfig(detector=DetectorConfig(name="yunet"))
    assert set(unmeasured(landmarks)) == {"occlusion", "identity"}
    assert not unmeasured(None)


def test_a_video_that_is_not_the_one_acquire_read_is_refused(tmp_path: Path, root: Path) -> None:
    worker, path = Curator(CONFIG, tmp_path), tmp_path / "raw/a.mp4"
    worker.load()
    path.parent.mkdir()
    shutil.copyfile(root / "raw/good.mp4", path)
    job = CurateJob(
        job_id="clip-1",
        source_path="raw/a.mp4",
        source_digest=storage.file_digest(path),
        source_stamp=Stamp.of(path),
        span=Span(end_s=1.0),
        key="k",
        target="crops/a.mp4",
    )
    worker(job)
    os.utime(path, (1, 1))
    worker(job)  # copied elsewhere, say: another time, the same bytes
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(Temporary, match=r"clip-1: the video .*raw/a\.mp4 is not the one .*`dualforce rerun` downloads"):
        worker(job)
    local = job.model_copy(update={"source_path": str(path)})
    path.write_bytes(good[:-1])
    with pytest.raises(Temporary, match=r"raw/a\.mp4 is not the one that acquire read; run acquire"):
        worker(local)
    path.unlink()
    with pytest.raises(Temporary, match=r"raw/a\.mp4 is gone") as caught:
        worker(job)
    assert caught.value.failure is FailureClass.DISK


def test_a_video_with_its_recorded_size_and_time_is_not_read_to_the_end_first(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "a.mp4"
    shutil.copyfile(root / "raw/good.mp4", path)
    assert is_same_file(path, "0" * 64, Stamp.of(path))
    assert not is_same_file(path, "0" * 64)


@pytest.mark.parametrize("moment", ["crop.before_rename", "crop.after_rename"])
def test_killed_at_any_moment_there_is_a_whole_crop_or_none(root: Path, good: Curated, moment: str) -> None:
    target = f"crops/killed-{moment}.mp4"
    script = (
        "import sys; from pathlib import Path; from tasks.curation import *; from tasks.records import Span\n"
        "source, target = 'raw/good.mp4', sys.argv[2]\n"
        "digest = storage.file_digest(Path(sys.argv[1]) / source)\n"
        "job = CurateJob(job_id='a', source_path=source, source_digest=digest, span=Span(), key='k', target=target)\n"
        "Curator(CurateConfig(crop_px=96), Path(sys.argv[1]))(job)\n"
    )
    environment = {**os.environ, "DUALFORCE_KILL_AT": moment}
    done = subprocess.run([sys.executable, "-c", script, str(root), target], env=environment, timeout=90, check=False)
    assert done.returncode == -signal.SIGKILL
    if moment == "crop.after_rename":
        assert storage.file_digest(root / target) == good.digest
    else:
        assert not (root / target).exists()
        leftovers = storage.sweep_temporaries(root / "crops", older_than_s=0.0)
        assert len(leftovers) == 1


# What a person sees on these clips, for those where a frontal cascade can be asked to agree.
NOBODY = ("1IK5fEEVQdY.102", "aCx99cgrkVY.22", "bbb_8", "bbb_9", "bear-", "video11", "sample.avi", "test_video_30s")
ONE_PERSON = (
    *("WDA_AndyKim", "-1wCGAxqT_4", "Clip+uWZ", "WDA_Alexandria", "AOC/gt", "video-retalking/", "driving", "May_5s"),
    *("pose_source2", "dafoe", "M030_", "W009_", "d13", "d18", "s32", "ross", "again", "walk", "MARLIN/video0"),
    *("bt601", "sample_av1", "sample.mkv", "carphone_pristine"),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_real_clip_ends_sensibly(shared: Path, tmp_path: Path) -> None:
    worker = Curator(CONFIG, tmp_path)
    worker.load()
    outcomes: dict[str, Curated | Reason] = {}
    folder = shared / "realdata/video"
    for number, path in enumerate(sorted(item for item in folder.rglob("*.*") if item.is_file())):
        name, span = str(path.relative_to(folder)), Span(start_s=0, end_s=4)
        target = f"{number}.mp4"
        given = storage.file_digest(path)
        job = CurateJob(job_id="a", source_path=str(path), source_digest=given, span=span, key="k", target=target)
        try:
            outcomes[name] = Curated.model_validate(worker(job))
        except Impossible as error:
            outcomes[name] = error.reason
    for name, outcome in outcomes.items():
        if any(part in name for part in NOBODY):
            assert outcome is Reason.NO_FACE, name
        if any(part in name for part in ONE_PERSON):
            assert isinstance(outcome, Curated), name
            assert outcome.scores["people"].value == 1, name
            assert outcome.scores["shot_cuts"].value == 0, name
    assert outcomes["media/invalid-bitstream.webm"] is Reason.UNDECODABLE
    assert outcomes["media/bbb_1ch_12kHz_q10_vorbis.webm"] is Reason.NOT_MEDIA


def test_clips_shorter_than_what_is_cut_are_refused_before_a_run() -> None:
    with pytest.raises(ConfigError, match="max_clip_s"):
        validate(CurateConfig, {"max_clip_s": 1.5}, "run.yaml")
    assert CurateConfig(max_clip_s=SHORTEST_PIECE_S).max_clip_s == 2
