"""Clips whose list says where the head is and which frames are meant; pictures of what can be no clip."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dualforce_model import media, storage
from tasks.curating import CurateWork
from tasks.curation import CurateConfig, Curated, CurateJob, Curator, crop_key
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.place import Place
from tasks.records import Clip, CropBox, Frames, Impossible, Reason, Span, Stage
from tasks.synthetic.animate import render_clip
from tasks.synthetic.portraits import PORTRAITS
from tasks.synthetic.speech import synthesise

CONFIG = CurateConfig(crop_px=96)
SECONDS = 2
Run = Callable[..., Curated]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/pair.mp4, 512 x 320: a speaker at the left, and the same half as large at the right."""
    folder = tmp_path_factory.mktemp("listed")
    frames = []
    for frame in render_clip("astronaut", synthesise(PORTRAITS["astronaut"].voice, SECONDS, 1), 1).frames:
        picture = np.full((320, 512, 3), 90, np.uint8)
        picture[:, :320] = frame
        picture[100:260, 340:500] = cv2.resize(frame, (160, 160), interpolation=cv2.INTER_AREA)
        frames.append(picture)
    media.write_video(folder / "raw/pair.mp4", frames, None)
    wall = cv2.resize(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8), (320, 180))
    media.write_video(folder / "raw/wall.mp4", [wall] * 50, None)
    return folder


@pytest.fixture(scope="module")
def curate(root: Path) -> Run:
    def run(name: str, config: CurateConfig = CONFIG, span: Span | None = None, **listed: object) -> Curated:
        worker = Curator(config, root)
        worker.load()
        job = CurateJob.model_validate(
            {
                "job_id": "clip",
                "source_path": name,
                "source_digest": storage.file_digest(root / name),
                "span": span or Span(),
                "key": "k",
                "target": "crops/clip.mp4",
                **listed,
            }
        )
        return Curated.model_validate(worker(job))

    return run


def middle(curated: Curated) -> float:
    return (curated.box[0] + curated.box[2]) / 2


# The smaller person, in a frame twice the size of the video's, as lists mostly have it.
SMALLER = CropBox(left=660, top=180, right=1020, bottom=540, frame_width=1024, frame_height=640)


def test_the_list_names_the_smaller_of_two_faces(curate: Run) -> None:
    assert middle(curate("raw/pair.mp4")) < 320
    assert middle(curate("raw/pair.mp4", crop=SMALLER)) > 340
    assert middle(curate("raw/pair.mp4", CONFIG.model_copy(update={"listed_crop": "ignore"}), crop=SMALLER)) < 320
    fractions = CropBox(left=0.66, top=0.3, right=1, bottom=0.85, frame_width=1, frame_height=1)
    assert middle(curate("raw/pair.mp4", crop=fractions)) > 340


@pytest.mark.parametrize(
    "useless",
    [
        CropBox(left=660, top=180, right=1020, bottom=540),  # of a picture of unknown size
        CropBox(left=660, top=180, right=1020, bottom=540, frame_height=320),  # of another shape: beyond this one
    ],
)
def test_a_box_that_fits_no_picture_of_this_size_says_nothing(curate: Run, useless: CropBox) -> None:
    assert middle(curate("raw/pair.mp4", crop=useless)) < 320


def test_faces_elsewhere_are_impossible_and_shown(root: Path, curate: Run) -> None:
    empty = CropBox(left=0.66, top=0, right=1, bottom=0.3, frame_width=1, frame_height=1)
    with pytest.raises(Impossible) as caught:
        curate("raw/pair.mp4", crop=empty, target="crops/elsewhere.mp4")
    assert caught.value.reason is Reason.FACE_ELSEWHERE
    assert caught.value.measured.startswith("no face in the listed box 338, 0, 512, 96: the nearest of 2 lies in it")
    assert caught.value.preview == "crops/elsewhere.jpg"
    assert media.read_image(root / "crops/elsewhere.jpg").shape[0] > 150
    assert not (root / "crops/elsewhere.mp4").exists()


def test_a_box_without_any_face_in_the_clip_is_no_crop(root: Path, curate: Run) -> None:
    whole = CropBox(left=0, top=0, right=1, bottom=1, frame_width=1, frame_height=1)
    with pytest.raises(Impossible) as caught:
        curate("raw/wall.mp4", crop=whole, target="crops/wall.mp4")
    assert (caught.value.reason, caught.value.preview) == (Reason.NO_FACE, "crops/wall.jpg")
    assert (root / "crops/wall.jpg").is_file()


def test_what_never_had_a_frame_has_no_picture(root: Path, curate: Run) -> None:
    (root / "raw/page.mp4").write_text("<html>403</html>")
    for name, span in (("raw/page.mp4", None), ("raw/pair.mp4", Span(start_s=60, end_s=64))):
        with pytest.raises(Impossible) as caught:
            curate(name, span=span, target="crops/nothing.mp4")
        assert caught.value.preview is None
    with pytest.raises(Impossible, match="3 frames") as caught:
        curate("raw/pair.mp4", span=Span(end_s=0.12), target="crops/short.mp4")
    assert caught.value.preview == "crops/short.jpg"


def test_listed_frames_are_cut_exactly_at_the_rate_of_the_list(root: Path, curate: Run) -> None:
    """At 24.988 for 25, frame 1280 seems to come 25 ms too late."""
    greys = [np.full((32, 32, 3), 40 + 10 * (index % 16), np.uint8) for index in range(1300)]
    media.write_video(root / "raw/counted.mp4", greys, None)
    config = CurateConfig(mode="general", crop_px=32)

    def first_grey(frames: Frames | None, fps: float) -> int:
        span = Span(start_s=1280 / fps, end_s=1297 / fps)
        done = curate("raw/counted.mp4", config, span=span, frames=frames, target="crops/counted.mp4")
        assert done.num_frames == 17
        return round(float(next(iter(media.read_frames(root / done.path))).mean()))

    assert first_grey(None, 24.988) == pytest.approx(50, abs=3), "seconds alone miss it by a frame"
    assert first_grey(Frames(first=1280, end=1297, fps=24.988), 24.988) == pytest.approx(40, abs=3)
    assert first_grey(Frames(first=1280, end=1297, fps=24.9), 25) == pytest.approx(40, abs=3), "another rate: seconds"


def test_the_key_holds_what_the_list_says_for_those_clips_alone() -> None:
    span, frames = Span(end_s=4.0), Frames(first=0, end=100, fps=25)
    ignoring = CONFIG.model_copy(update={"listed_crop": "ignore"})
    general = CurateConfig(mode="general", crop_px=96)
    plain = crop_key(CONFIG, "a", span)
    assert crop_key(ignoring, "a", span) == plain
    assert crop_key(ignoring, "a", span, None, SMALLER) == plain
    assert crop_key(general, "a", span, None, SMALLER) == crop_key(general, "a", span)
    other = SMALLER.model_copy(update={"left": 640.0})
    keys = {crop_key(CONFIG, "a", span, *said) for said in ((None, SMALLER), (None, other), (frames, None))}
    assert len(keys | {plain, crop_key(CONFIG, "a", span, frames, SMALLER)}) == 5
    assert crop_key(ignoring, "a", span, frames, SMALLER) == crop_key(CONFIG, "a", span, frames)
    assert crop_key(general, "a", span, frames) != crop_key(general, "a", span)


def test_the_stage_hands_on_what_the_list_says(tmp_path: Path) -> None:
    frames = Frames(first=0, end=300, fps=25)
    common = {"source": "x", "video_id": "v", "location": "x", "span": Span(end_s=12.0)}
    listed = [Clip(clip_id="told", frames=frames, crop=SMALLER, **common), Clip(clip_id="plain", **common)]
    value = {"path": "raw/v.mp4", "digest": "d" * 64, "num_bytes": 1, "mtime_ns": 1, "duration_s": 60.0}
    value |= {"width_px": 1280, "height_px": 720}
    place = Place(dataset="d", home=str(tmp_path))
    with Ledger(place.ledger_url) as ledger:
        ledger.add_clips("d", listed)
        with ledger.lease("d", Stage.ACQUIRE, "r") as lease:
            ledger.record(
                lease,
                [Row(clip_id=c.clip_id, stage=Stage.ACQUIRE, state="done", key="k", value=value) for c in listed],
            )
        work = CurateWork(CONFIG, place, ledger)
        jobs = [CurateJob.model_validate(job.payload) for job in work.jobs(work.targets())]
    told = [job for job in jobs if job.crop is not None]
    assert [job.frames for job in told] == [Frames(first=0, end=250, fps=25), Frames(first=250, end=300, fps=25)]
    assert {job.crop for job in told} == {SMALLER}
    assert [job.frames for job in jobs if job.crop is None] == [None, None]
    for job in jobs:
        assert job.key == crop_key(CONFIG, "d" * 64, job.span, job.frames, job.crop)
