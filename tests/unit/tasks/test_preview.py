"""The picture of a clip: what is marked where, for made clips and real ones."""

from pathlib import Path

import numpy as np
import pytest

from dualforce_model import media, storage
from tasks.curation import CurateConfig, Curated, CurateJob, Curator
from tasks.detectors import DetectorConfig, Face
from tasks.evidence import People
from tasks.faces import SquareBox, link
from tasks.footage import Footage, HeldFrames
from tasks.preview import (
    CROP_PX,
    DIMMED,
    LISTED,
    MAIN,
    OTHER,
    SQUARE,
    cut_preview,
    instants,
    refused_preview,
    shrunk,
    write_preview,
)
from tasks.records import Impossible, Span

GREY = 120
POINTS = ((60.0, 60.0), (80.0, 60.0), (70.0, 70.0), (62.0, 80.0), (78.0, 80.0))
SPEAKER, GUEST = Face((50.0, 40.0, 90.0, 95.0), 0.9, POINTS), Face((240.0, 40.0, 262.0, 70.0), 0.8)
BOX = SquareBox(30, 20, 90)


def footage(
    sightings: list[tuple[int, list[Face]]], num_frames: int = 50, size: tuple[int, int] = (320, 180)
) -> Footage:
    held = HeldFrames()
    for _ in range(num_frames):
        held.add(media.Picture.of(np.full((size[1], size[0], 3), GREY, np.uint8)))
    return Footage(held, [], sightings, *size)


def met(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels of a colour, in the frames and not in the legend."""
    return int((picture[:-26] == colour).all(axis=2).sum())


@pytest.fixture
def talk() -> Footage:
    return footage([(look, [SPEAKER, GUEST]) for look in range(0, 50, 8)])


@pytest.fixture
def people(talk: Footage) -> People:
    tracks = link(talk.sightings, 50)
    return People(tracks[0], tracks)


CROPS = [media.Picture.of(np.full((64, 64, 3), 200, np.uint8))] * 49


def test_crop_faces_and_landmarks_are_marked_and_the_rest_is_dimmed(talk: Footage, people: People) -> None:
    picture = cut_preview(talk, people, BOX, CROPS)
    scale = (30_000 / (320 * 180)) ** 0.5
    assert met(picture, SQUARE) > 4 * 3 * 2 * 90 * scale
    assert met(picture, MAIN) > 4 * (2 * 2 * (40 + 55) * scale + 5 * 4)
    assert met(picture, OTHER) > 4 * 1.5 * 2 * (22 + 30) * scale
    assert met(picture, LISTED) == 0
    assert met(picture, (int(GREY * DIMMED),) * 3) > met(picture, (GREY,) * 3) > 4 * 2000
    assert met(picture, (200, 200, 200)) == 4 * CROP_PX**2, "the crops stand below, untouched"
    told = cut_preview(talk, people, BOX, CROPS, listed=(20.0, 10.0, 130.0, 140.0))
    assert met(told, LISTED) > 4 * 300


def test_the_main_face_is_the_one_of_the_track(talk: Footage, people: People) -> None:
    swapped = People(people.counted[1], people.counted)
    first, second = (met(cut_preview(talk, who, BOX, CROPS), MAIN) for who in (people, swapped))
    assert first > 1.5 * second, "the guest's face is smaller, and has no landmarks"


@pytest.mark.parametrize("size", [(320, 180), (180, 320), (64, 64), (1000, 40), (33, 700)])
def test_any_shape_of_picture_is_shown_small(tmp_path: Path, size: tuple[int, int]) -> None:
    side = min(size)
    square = SquareBox((size[0] - side) // 2, (size[1] - side) // 2, side)
    picture = cut_preview(footage([], 9, size), None, square, CROPS[:9])
    assert picture.shape[0] <= 256 + CROP_PX + 50
    assert picture.shape[1] <= 4 * 324 + 4
    write_preview(tmp_path / "a.jpg", picture)
    assert (tmp_path / "a.jpg").stat().st_size < 60_000
    assert media.read_image(tmp_path / "a.jpg").shape == picture.shape


def test_why_there_is_no_crop_is_written_below_the_frames(talk: Footage) -> None:
    short, long = (refused_preview(talk, "no_face", text) for text in ("none", "found nobody; " * 30))
    assert met(short, OTHER) > 4 * 200
    assert met(short, SQUARE) == met(short, MAIN) == 0
    assert long.shape[0] > short.shape[0]
    assert long.shape[1] == short.shape[1]
    assert (short[-22:] > 200).any()
    refused_preview(footage([], 1, (8, 8)), "too_short", "语\x00\n" * 2000)


def test_instants_are_looks_where_there_were_any() -> None:
    assert instants([0, 8, 16, 24, 32, 40, 48], 49) == [0, 16, 32, 48]
    assert instants([0, 8], 9) == [0, 8]
    assert instants([0], 5) == [0]
    assert instants([], 31) == [0, 10, 20, 30]
    assert instants([], 1) == [0]


def test_shrunk_keeps_the_shape_and_refuses_what_is_no_picture(tmp_path: Path) -> None:
    write_preview(tmp_path / "a.jpg", np.full((300, 900, 3), 90, np.uint8))
    (tmp_path / "b.jpg").write_bytes(shrunk(tmp_path / "a.jpg", 450))
    assert media.read_image(tmp_path / "b.jpg").shape == (150, 450, 3)
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    with pytest.raises(media.MediaError):
        shrunk(tmp_path / "c.jpg", 450)


REAL = {
    "TalkVid/AOC/gt.mp4": (SQUARE, MAIN),
    "LatentSync/demo1_video.mp4": (SQUARE, MAIN),
    "Panda-70M/mxB5DCinF0I.7.mp4": (SQUARE, MAIN, OTHER),
    "Panda-70M/1IK5fEEVQdY.102.mp4": (),
}


@pytest.mark.parametrize("name", REAL)
def test_real_clips_have_a_small_preview_cropped_or_not(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "realdata/video" / name
    worker = Curator(CurateConfig(crop_px=96, detector=DetectorConfig(min_face=0.1)), tmp_path)
    worker.load()
    given = storage.file_digest(source)
    span = Span(end_s=2.0)
    job = CurateJob(job_id="a", source_path=str(source), source_digest=given, span=span, key="k", target="a.mp4")
    if REAL[name]:
        shown = tmp_path / Curated.model_validate(worker(job)).thumbnail
    else:
        with pytest.raises(Impossible) as caught:
            worker(job)
        shown = tmp_path / str(caught.value.preview)
    assert shown.stat().st_size < 60_000
    legend = media.read_image(shown)[-40:].astype(int)
    colours = [colour for colour in (SQUARE, MAIN, OTHER) if (np.abs(legend - colour).sum(axis=2) < 60).any()]
    assert colours == list(REAL[name])
