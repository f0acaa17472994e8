"""Crops of what moves and of what stutters: one square for the clip, 25 frames per second, each what was on display."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage import data

from dualforce_model import media, storage
from dualforce_model.stamp import Stamp
from tasks.curation import CurateConfig, Curated, CurateJob, Curator
from tasks.records import Span

SIZE = (480, 360)
WALL = (90, 120, 60)


def write(path: Path, frames: list[np.ndarray], times_ms: list[int]) -> Path:
    """A video whose n-th picture is shown at times_ms[n]."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "x264-params": "bframes=0"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for rgb, instant in zip(frames, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = instant, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def curate(path: Path, config: CurateConfig, seconds: float) -> Curated:
    worker = Curator(config, path.parent)
    worker.load()
    job = CurateJob(
        job_id="clip",
        source_path=path.name,
        source_digest=storage.file_digest(path),
        source_stamp=Stamp.of(path),
        span=Span(start_s=0.0, end_s=seconds),
        key="key",
        target="crop.mp4",
    )
    return Curated.model_validate(worker(job))


def test_a_variable_rate_becomes_25_frames_of_what_was_on_display(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    times = [0, *(40 + np.cumsum(rng.choice([8, 17, 33, 40, 90, 400], 23))).tolist()]
    frames = [np.full((SIZE[1], SIZE[0], 3), 20 + 9 * index, np.uint8) for index in range(len(times))]
    path = write(tmp_path / "odd.mkv", frames, times)
    made = curate(path, CurateConfig(mode="general", crop_px=64), 2.0)
    assert media.probe(tmp_path / made.path).fps == 25
    shown = [round((float(frame.mean()) - 20) / 9) for frame in media.read_frames(tmp_path / made.path)]
    wanted = [int(np.searchsorted(times, 40 * index + 19, side="right")) - 1 for index in range(made.num_frames)]
    assert len(set(wanted)) < made.num_frames  # some stay for long
    assert made.num_frames >= 25
    assert shown == wanted


@pytest.mark.parametrize("travel", [0, 120])
def test_a_face_that_moves_stays_inside_one_square_that_does_not(tmp_path: Path, travel: int) -> None:
    """A mark far from the face stays where it is in the crop: nothing pans, nothing trembles."""
    face = cv2.resize(np.ascontiguousarray(data.astronaut()[20:260, 120:360]), (200, 200))
    frames = []
    for index in range(50):
        frame = np.full((SIZE[1], SIZE[0], 3), WALL, np.uint8)
        left = 70 + round(travel * index / 49)
        frame[100:300, left : left + 200] = face
        frames.append(frame)
    path = write(tmp_path / "walk.mkv", frames, [40 * index for index in range(50)])
    made = curate(path, CurateConfig(crop_px=128), 2.0)
    x1, y1, x2, y2 = made.box
    assert x2 - x1 == y2 - y1
    # The face lies 47 to 127 px right of the portrait's edge: it is inside from its first place to its last.
    assert x1 <= 70 + 47
    assert x2 >= 70 + travel + 127
    for index, crop in enumerate(media.read_frames(tmp_path / made.path)):
        padded = cv2.copyMakeBorder(frames[index], 400, 400, 400, 400, cv2.BORDER_REPLICATE)
        expected = cv2.resize(
            padded[y1 + 400 : y2 + 400, x1 + 400 : x2 + 400], (128, 128), interpolation=cv2.INTER_AREA
        )
        assert float(np.abs(crop.astype(int) - expected).mean()) < 4
