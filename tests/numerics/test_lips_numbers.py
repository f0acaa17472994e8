"""Mouth opening against truths that it does not know: a renderer's, a person's eye, a landmark net's."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dualforce_model import media
from dualforce_model.encoders import DctVideoCodec
from dualforce_model.encoders.face_track import find_face, to_gray
from dualforce_model.metrics import lip_correlation, mouth_opening, speech_envelope
from tasks.synthetic.animate import render_clip
from tasks.synthetic.portraits import PORTRAITS
from tasks.synthetic.speech import synthesise

CROP_PX = 96
FRAMES = 81


def _rendered(speaker: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A synthetic clip as curate would crop it, its true opening and its sound."""
    sound = synthesise(PORTRAITS[speaker].voice, FRAMES / 25, seed)
    clip = render_clip(speaker, sound, seed)
    found = find_face(to_gray(clip.frames[0]), 0.3)
    assert found is not None
    size = clip.frames.shape[1]
    (x, y), half = found[:2] * size, 0.8 * found[2] * size
    to_crop = np.array([[2 * half / CROP_PX, 0, x - half], [0, 2 * half / CROP_PX, y - half]], np.float32)
    flags = cv2.INTER_AREA | cv2.WARP_INVERSE_MAP
    crops = [
        cv2.warpAffine(
            cv2.blur(frame, (3, 3)), to_crop, (CROP_PX, CROP_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        for frame in clip.frames[:FRAMES]
    ]
    return np.stack(crops), clip.opening[:FRAMES], sound


@pytest.mark.parametrize("speaker", PORTRAITS)
def test_against_the_renderer_before_and_after_the_codec(speaker: str) -> None:
    """Means over three clips: a single one of three seconds says little."""
    codec, found = DctVideoCodec(), []
    for seed in (1, 2, 3):
        frames, truth, sound = _rendered(speaker, seed)
        opening, envelope = mouth_opening(frames), speech_envelope(sound, FRAMES)
        reconstructed = mouth_opening(codec.decode(codec.encode(frames)))
        assert lip_correlation(truth, envelope) > 0.95
        found.append(
            (
                np.corrcoef(opening, truth)[0, 1],
                np.corrcoef(reconstructed, truth)[0, 1],
                lip_correlation(opening, envelope),
                lip_correlation(reconstructed, envelope),
            )
        )
    assert (np.mean(found, axis=0) > (0.9, 0.8, 0.85, 0.75)).all()


def test_the_own_sound_correlates_and_another_hardly_does() -> None:
    """Even another sound does a little: all of them begin and end with silence, and three seconds are short."""
    own, others = [], []
    for seed, speaker in enumerate(PORTRAITS):
        frames, _, sound = _rendered(speaker, seed)
        other = synthesise(PORTRAITS[speaker].voice, FRAMES / 25, seed + 50)
        opening = mouth_opening(frames)
        own.append(lip_correlation(opening, speech_envelope(sound, FRAMES)))
        others.append(lip_correlation(opening, speech_envelope(other, FRAMES)))
    assert np.mean(own) > 0.9
    assert np.mean(others) < 0.4


def test_noise_and_blur_of_a_model_do_not_hide_the_lips() -> None:
    frames, truth, _ = _rendered("astronaut", 3)
    codec = DctVideoCodec()
    latents = codec.encode(frames)
    noise = np.random.default_rng(0).normal(0, 0.15, latents.shape).astype(np.float32)
    assert np.corrcoef(mouth_opening(codec.decode(latents + noise)), truth)[0, 1] > 0.8
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in frames])
    assert np.corrcoef(mouth_opening(blurred), truth)[0, 1] > 0.9


def test_against_a_persons_eye(shared: Path) -> None:
    """Frames of a real clip in which anybody sees the mouth open, and others in which anybody sees it closed."""
    wide, closed = [0, 16, 24, 28, 32, 36, 40, 48, 76], [4, 8, 60, 80, 96]
    frames = np.stack(list(media.read_frames(shared / "realdata/video/TalkVid/AOC/gt.mp4", 0.0, 4.0)))
    opening = mouth_opening(frames)
    assert opening[wide].min() > opening[closed].max()


@pytest.mark.parametrize(
    ("clip", "at_least"),
    [
        ("TalkVid/AOC/gt.mp4", 0.6),
        ("ditto-train/WDA_AndyKim_000_6642_6722.mp4", 0.6),
        ("dreamtalk/M030_front_angry_level3_001.mp4", 0.45),
    ],
)
def test_against_the_inner_lips_of_a_landmark_net(shared: Path, clip: str, at_least: float) -> None:
    frames = np.stack(list(media.read_frames(shared / "realdata/video" / clip, 0.0, 3.0)))
    distance = _inner_lip_distance(frames, shared / "models/face_landmarker.task")
    seen = ~np.isnan(distance)
    assert seen.mean() > 0.9
    assert np.corrcoef(mouth_opening(frames)[seen], distance[seen])[0, 1] > at_least


def _inner_lip_distance(frames: np.ndarray, model: Path) -> np.ndarray:
    """Upper to lower inner lip over the height of the face, NaN where the net sees no face."""
    vision, image, base = _mediapipe()
    options = vision.FaceLandmarkerOptions(
        base_options=base(model_asset_path=str(model)), running_mode=vision.RunningMode.VIDEO
    )
    distances = []
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for index, frame in enumerate(frames):
            faces = landmarker.detect_for_video(image(frame), 40 * index).face_landmarks
            distances.append(_ratio(faces[0]) if faces else np.nan)
    return np.array(distances)


def _ratio(points: Any) -> float:
    upper, lower, top, chin = (np.array([points[i].x, points[i].y]) for i in (13, 14, 10, 152))
    return float(np.linalg.norm(upper - lower) / np.linalg.norm(top - chin))


def _mediapipe() -> tuple[Any, Any, Any]:
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except (ImportError, OSError) as error:
        pytest.skip(f"needs mediapipe and the system libraries libEGL and libGLESv2: {error}")

    def image(frame: np.ndarray) -> Any:
        return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))

    return vision, image, BaseOptions
