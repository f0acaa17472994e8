"""Pictures of features: all that there is is on them, whatever it is called, and equal input gives equal bytes."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualforce_model import clock, flame, media
from dualforce_model.encoders import EncoderChoice, FaceDctStructure
from dualforce_model.schema import Feature
from dualforce_model.shards import pack_shard
from dualforce_model.storage import Storage
from tasks.artifacts import GALLERY_BYTES
from tasks.extract import ExtractConfig
from tasks.extractors import StructureConfig
from tasks.feature_gallery import FOLDER, SHOWN_CLIPS, entry_names, features_markdown
from tasks.feature_sheet import DOT, FRAME_PX, FRAMES, ClipMedia, feature_sheet, lanes_of, moments
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.place import Place
from tasks.records import Clip, Reason, Stage

NUM_FRAMES = 29
HOSTILE = "../<b>\x00$\\frac{1}$\n Ж"


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def clip_media(side: int = 64) -> ClipMedia:
    draw = np.random.default_rng(0)
    frames = np.full((NUM_FRAMES, side, side, 3), 128, np.uint8)
    return ClipMedia(frames, draw.normal(0, 0.1, clock.num_samples(NUM_FRAMES)).astype(np.float32))


def made(num_frames: int = NUM_FRAMES) -> dict[str, Feature]:
    draw = np.random.default_rng(1)
    steps = clock.num_steps(num_frames)
    return {
        "video": {
            "latents": draw.normal(size=(steps, 16, 4, 4)).astype(np.float16),
            "references": draw.normal(size=(1, 16, 4, 4)).astype(np.float16),
            "reference_frames": np.zeros(1, np.int32),
        },
        "structure": {"motion": draw.normal(size=(num_frames, 32)).astype(np.float32)},
        "audio": {"tokens": draw.normal(size=(2 * num_frames, 40)).astype(np.float16)},
        "flame": {"parameters": draw.normal(size=(num_frames, 159)).astype(np.float32)},
    }


def test_a_curve_is_there_for_every_part_and_shows_what_moves_most_in_it() -> None:
    features = made()
    features["structure"]["motion"][:, 3:] = 0
    features["structure"]["motion"][:, 9] = np.arange(NUM_FRAMES)
    names = entry_names(FaceDctStructure())
    told = [lane.name for lane in lanes_of(features, names)]
    assert told[:4] == ["centre_x", "centre_y", "size", FaceDctStructure().layout[9]]
    assert {name.split()[0] for name in told[4:-1]} == set(flame.LAYOUT)
    assert told[-1] == "latents' change"
    change = lanes_of(features, names)[-1]
    assert len(change.seconds) == clock.num_steps(NUM_FRAMES) - 1
    assert change.seconds[0] == pytest.approx(3 / clock.FPS)  # the middle of frames 1 to 4
    unnamed = lanes_of({"structure": features["structure"]}, {})
    assert [lane.name for lane in unnamed] == ["entry 9"]


def test_what_stands_still_is_one_flat_curve_and_what_is_not_there_none() -> None:
    still: dict[str, Feature] = {"structure": {"motion": np.ones((5, 3), np.float32)}}
    (lane,) = lanes_of(still, {})
    assert np.ptp(lane.values) == 0
    assert lanes_of({"audio": made()["audio"]}, {}) == []


def test_the_picture_grows_with_what_there_is_and_is_the_same_again() -> None:
    clip, features = clip_media(), made()
    whole = feature_sheet(HOSTILE, clip, features, {})
    assert feature_sheet(HOSTILE, clip, features, {}) == whole
    mute = feature_sheet("a", clip._replace(sound=clip.sound[:0]), features, {})
    alone = feature_sheet("a", clip._replace(sound=clip.sound[:0]), {}, {})
    assert picture(whole).shape[0] > picture(mute).shape[0] > picture(alone).shape[0] > FRAME_PX / 2


def test_places_are_drawn_into_the_frames() -> None:
    clip, features = clip_media(), made()
    features["structure"]["motion"][:, :3] = 0.0
    names = {"structure": FaceDctStructure().layout}
    plain = feature_sheet("a", clip, features, names)
    places = FaceDctStructure().places(features["structure"]["motion"])[moments(NUM_FRAMES)]
    marked = feature_sheet("a", clip, features, names, list(places))
    one = feature_sheet("a", clip, features, names, [places[0], *[None] * (FRAMES - 1)])

    def dots(data: bytes) -> int:
        pixels = picture(data)[:200].astype(int)
        return int((np.abs(pixels - DOT).max(axis=-1) < 60).sum())

    assert dots(plain) == 0
    assert dots(marked) > 4 * FRAMES
    assert 0 < dots(one) < dots(marked) / 4


def test_places_follow_the_box() -> None:
    encoder = FaceDctStructure()
    rows = np.zeros((2, encoder.num_features), np.float32)
    rows[1, 0] = 0.5  # the centre, a quarter of the picture to the right
    left_eye, right_eye, left_corner, right_corner = encoder.places(rows)[0]
    assert left_eye[0] < 0.5 < right_eye[0]
    assert left_eye[1] == right_eye[1] < left_corner[1] == right_corner[1]
    assert encoder.places(rows)[1] - encoder.places(rows)[0] == pytest.approx(np.array([[0.25, 0.0]] * 4))
    tall = np.concatenate([rows[:1, :2], [[1.0]], rows[:1, 3:]], axis=1).astype(np.float32)
    assert np.ptp(encoder.places(tall)[0, :, 1]) == pytest.approx(2 * np.ptp(encoder.places(rows)[0, :, 1]))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Eight clips of which run `r` encoded seven, all with crop and features; the crop of one is gone since."""
    place = Place(dataset="d", home=str(tmp_path))
    clip_ids = [f"c{number}" for number in range(8)]
    clip = clip_media()
    for clip_id in clip_ids[1:]:
        media.write_video(place.media_root / f"{clip_id}.mp4", list(clip.frames), clip.sound)
    motions = {clip_id: made()["structure"] for clip_id in clip_ids}
    refs = pack_shard(Storage(place.store_url), "structure", "fp", motions, dict.fromkeys(clip_ids, "k"))
    with Ledger(place.ledger_url) as ledger:
        ledger.add_clips("d", [Clip(clip_id=c, source="x", video_id="v", location="x") for c in clip_ids])
        with ledger.lease("d", Stage.CURATE, "q") as lease:
            crops = [{"clip_id": c, "value": {"path": f"{c}.mp4"}} for c in clip_ids]
            ledger.record(lease, [Row(stage=Stage.CURATE, state="done", key="k", **crop) for crop in crops])
        with ledger.lease("d", Stage.EXTRACT, "r") as lease:
            rows = [
                Row(
                    clip_id=c,
                    stage=Stage.EXTRACT,
                    feature="structure",
                    state="done",
                    key="k",
                    value={"ref": refs[c].model_dump(mode="json")},
                    run_id="r" if c != "c7" else "older",
                )
                for c in clip_ids
            ]
            ledger.record(lease, rows)
    return place


def test_clips_of_a_run_are_shown_and_lie_beside_it(place: Place) -> None:
    page = features_markdown(place, ExtractConfig(), "r")
    shown = re.findall(r"!\[(c\d)\]\(data:image/jpeg;base64,([^)]+)\)", page)
    assert len(shown) + page.count("cannot be shown") == SHOWN_CLIPS
    for clip_id, encoded in shown:
        kept = picture((place.folder / FOLDER / f"{clip_id}.jpg").read_bytes())
        small = picture(base64.b64decode(encoded))
        assert small.shape[1] < kept.shape[1]
        assert small.shape[0] / small.shape[1] == pytest.approx(kept.shape[0] / kept.shape[1], rel=0.01)
    assert "![c7]" not in page
    assert len(page) < GALLERY_BYTES
    assert "0 of the clips" in features_markdown(place, ExtractConfig(), "another run")


def test_a_clip_that_cannot_be_shown_says_why(place: Place) -> None:
    page = features_markdown(place, ExtractConfig(), "r")
    assert re.search(r"`c0` cannot be shown: `.*c0\.mp4", page)
    assert not (place.folder / FOLDER / "c0.jpg").exists()


def test_a_clip_whose_crop_was_refused_since_says_so(place: Place) -> None:
    with Ledger(place.ledger_url) as ledger, ledger.lease("d", Stage.CURATE, "q") as lease:
        refused = {"state": "impossible", "reason": Reason.NO_FACE, "key": "other"}
        ledger.record(lease, [Row(clip_id=f"c{number}", stage=Stage.CURATE, **refused) for number in range(7)])
    page = features_markdown(place, ExtractConfig(), "r")
    assert page.count("cannot be shown: `it has no crop any more`") == SHOWN_CLIPS


def test_a_page_that_cannot_be_written_ends_no_run(place: Place) -> None:
    (place.folder / FOLDER).write_text("a file where the folder should be")
    assert features_markdown(place, ExtractConfig(), "r").count("cannot be shown") == SHOWN_CLIPS


def structure_of(**settings: object) -> StructureConfig:
    return StructureConfig(encoder=EncoderChoice(name="mediapipe_structure", config=settings))


def unloadable(folder: Path) -> StructureConfig:
    """An encoder that is built and whose weights are no model."""
    (folder / "face_landmarker.task").write_bytes(b"no model")
    return structure_of(weights=str(folder / "face_landmarker.task"))


@pytest.mark.parametrize("broken", ["missing", "unloadable", "unknown"])
def test_an_encoder_that_cannot_be_had_here_costs_landmarks_alone(place: Place, tmp_path: Path, broken: str) -> None:
    if broken == "unloadable":
        pytest.importorskip("mediapipe")
    structure = {
        "missing": lambda: structure_of(weights=str(tmp_path / "nowhere")),
        "unloadable": lambda: unloadable(tmp_path),
        "unknown": lambda: StructureConfig(encoder=EncoderChoice(name="of_another_release")),
    }[broken]()
    page = features_markdown(place, ExtractConfig(structure=structure), "r")
    (note,) = [part for part in page.split("\n\n") if part.startswith("Landmarks are not shown")]
    assert re.fullmatch(r"Landmarks are not shown: `.+`", note)
    assert page.count("![c") + page.count("cannot be shown") == SHOWN_CLIPS
    assert "![c" in page


def test_where_no_structure_is_made_no_encoder_is_asked_for_landmarks(place: Place, tmp_path: Path) -> None:
    config = ExtractConfig(modalities=("audio",), structure=structure_of(weights=str(tmp_path / "nowhere")))
    page = features_markdown(place, config, "r")
    assert "Landmarks" not in page
    assert "![c" in page
