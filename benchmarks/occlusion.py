"""How well `occlusion` tells covered faces from ordinary ones: real clips, and the same with things before the face.

    python -m benchmarks.occlusion --clips FOLDER [--weights FOLDER]

FOLDER holds videos and pictures of faces. Every one is measured as it is, and with a mask, a scarf, a microphone, and a
hand of the same and of another skin laid over it. Textures are real ones (scikit-image's pictures, skin of the faces
themselves), shapes are drawn by chance, the same for all looks of a clip. Nothing is stored.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import click
import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from skimage import data

from dualforce_model import media
from dualforce_model.media import MediaError, Picture
from tasks import faces
from tasks.detectors import Detector, DetectorConfig, Face, make_detector
from tasks.evidence import Evidence, People
from tasks.footage import Footage, HeldFrames
from tasks.measures import MeasureConfig, make_measures
from tasks.tables import table

EVERY = 8  # frames from one look to the next
SECONDS = 6.0
LOOKS = 8
DROPPED = 0.3  # the shipped policies' bound
CONTEXT = 2.2  # side of what is kept of a picture, in sizes of the face's box: enough for any detector's idea of it
# Eyes, nose and mouth corners in the square of 100 in which things are drawn; the face is larger than it.
PLACES: Float64[np.ndarray, "5 2"] = np.array([(31, 34), (69, 34), (50, 55), (34, 78), (66, 78)], float)
SIDE = 100
FINE = 4  # pixels per unit of that square
MARGIN = 50  # units around it
CLOTHS = {"black": (38, 36, 38), "white": (225, 224, 220), "blue": (110, 165, 205), "green": (80, 150, 130)}
COVERS = ("mask", "scarf", "microphone", "hand", "hand of another")

Look = tuple[UInt8[np.ndarray, "h w 3"], Face]


@click.command()
@click.option("--clips", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--weights", type=click.Path(path_type=Path), help="folder of both weights; default: each its own")
@click.option("--leave-out", multiple=True, help="part of a file's path: animals, or faces that are covered already")
def main(clips: Path, weights: Path | None, leave_out: tuple[str, ...]) -> None:
    """Rates of covered and of ordinary clips that a policy would drop."""
    detector = make_detector(DetectorConfig(name="yunet", weights=weights, min_score=0.7))
    (measure,) = make_measures({"mesh": MeasureConfig(weights=weights)})
    detector.load()
    measure.load()
    found = {
        path: looks
        for path in sorted(clips.rglob("*"))
        if path.is_file() and not any(part in str(path) for part in leave_out) and (looks := looks_of(path, detector))
    }
    rng = np.random.default_rng(0)
    values: dict[str, list[float | None]] = {"as it is": [], **{cover: [] for cover in COVERS}}
    spent, measured = 0.0, 0
    for path, looks in found.items():
        others = [other for name, other in found.items() if name != path] or [looks]
        other = others[rng.integers(len(others))][0]
        for cover in values:
            seen = looks if cover == "as it is" else covered(cover, looks, other, int(rng.integers(2**31)))
            start = time.process_time()
            score = measure(evidence(seen))["occlusion"]
            spent, measured = spent + time.process_time() - start, measured + len(seen)
            values[cover].append(score.value)
            if cover == "as it is":
                click.echo(f"{path.relative_to(clips)}: {_shown(score.value)}  {score.method}")
    click.echo(summary(values))
    click.echo(f"{1000 * spent / measured:.0f} ms of the process per look")


def summary(values: Mapping[str, list[float | None]]) -> str:
    """How many clips of each kind are measured, and how many of these a policy would drop."""
    rows = []
    for cover, scores in values.items():
        known = np.array([score for score in scores if score is not None])
        dropped = f"{(known > DROPPED).mean():.0%}" if len(known) else "-"
        middle, highest = (_shown(float(np.quantile(known, q)) if len(known) else None) for q in (0.5, 1.0))
        rows.append((cover, str(len(scores)), str(len(known)), dropped, middle, highest))
    return table(("clips", "number", "measured", f"over {DROPPED}", "median", "highest"), rows)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def looks_of(path: Path, detector: Detector) -> list[Look]:
    """Looks at the main face of a video or picture, cut out with its surroundings; none where there is no face."""
    try:
        if path.suffix.lower() in {".jpg", ".jpeg", ".png"}:
            pictures = [media.read_image(path)]
        else:
            pictures = [
                frame for index, frame in enumerate(media.read_frames(path, 0.0, SECONDS)) if index % EVERY == 0
            ]
    except MediaError:
        return []
    tracks = faces.link([(index, detector(picture)) for index, picture in enumerate(pictures)], EVERY)
    tracks = tuple(track for track in tracks if len(track.frames) >= min(3, len(pictures)))
    if not tracks:
        return []
    main = faces.main_track(tracks)
    assert main.landmarks is not None, "YuNet gives landmarks"
    chosen = np.linspace(0, len(main.frames) - 1, min(len(main.frames), LOOKS)).round().astype(int)
    return [_near(pictures[int(main.frames[look])], main.boxes[look], main.landmarks[look]) for look in chosen]


def _near(picture: np.ndarray, box: Float64[np.ndarray, " 4"], landmarks: Float64[np.ndarray, "5 2"]) -> Look:
    reach = CONTEXT / 2 * float((box[2:] - box[:2]).max())
    middle = (box[:2] + box[2:]) / 2
    part = faces.patch(picture, np.concatenate([middle - reach, middle + reach]))
    corner = np.clip(np.floor(middle - reach), 0, None)
    face = Face(tuple((box - np.tile(corner, 2)).tolist()), 1.0, tuple(map(tuple, (landmarks - corner).tolist())))
    return part, face


def evidence(looks: list[Look]) -> Evidence:
    """A clip of these looks alone; every picture is brought to the size of the first, as those of a video have one."""
    height, width = looks[0][0].shape[:2]
    frames, sightings = HeldFrames(), []
    for index, (picture, face) in enumerate(looks):
        frames.add(Picture.of(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)))
        scale = np.array([width / picture.shape[1], height / picture.shape[0]])
        sightings.append((index, [Face(tuple((np.array(face.box) * np.tile(scale, 2)).tolist()), face.score)]))
    main = faces.Track(np.arange(len(looks)), np.array([found[0].box for _, found in sightings]))
    square = faces.centre_box(width, height)
    footage = Footage(frames, [], sightings, width, height)
    return Evidence(footage, People(main, (main,)), square, (), np.zeros(0, np.float32))


def covered(cover: str, looks: list[Look], other: Look, seed: int) -> list[Look]:
    """The same looks with one thing before the face; `other` is whose hand it is, where it is another's."""
    seen = []
    for picture, face in looks:
        rng = np.random.default_rng(seed)  # one thing for all looks
        owner = other if cover == "hand of another" else (picture, face)
        shape, texture = drawn(cover, owner, rng)
        to_picture = _placing(face) @ np.array([[1 / FINE, 0, -MARGIN], [0, 1 / FINE, -MARGIN], [0, 0, 1]])
        size = picture.shape[1::-1]
        over = cv2.GaussianBlur(cv2.warpAffine(shape, to_picture[:2], size), (0, 0), 1.2)[:, :, None]
        thing = cv2.warpAffine(texture, to_picture[:2], size, flags=cv2.INTER_AREA)
        seen.append(((picture * (1 - over) + thing * over).astype(np.uint8), face))
    return seen


def _placing(face: Face) -> Float64[np.ndarray, "3 3"]:
    """From the square in which things are drawn to the picture."""
    found, _ = cv2.estimateAffinePartial2D(PLACES, np.array(face.landmarks, float), method=cv2.LMEDS)
    return np.vstack([found, (0.0, 0.0, 1.0)])


def drawn(
    cover: str, owner: Look, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "s s"], Float32[np.ndarray, "s s 3"]]:
    """Where a thing is, 0 to 1, and what it looks like there."""
    side = (SIDE + 2 * MARGIN) * FINE
    shape = np.zeros((side, side), np.float32)
    if cover == "mask":
        edge = np.array(
            [(14, 52), (32, 54), (50, rng.uniform(47, 56)), (68, 54), (86, 52), (80, 92), (50, 112), (20, 92)]
        )
        cv2.fillPoly(shape, [_pixels(edge + rng.normal(0, 1.5, edge.shape))], 1.0)
        cloth = np.array(list(CLOTHS.values())[rng.integers(len(CLOTHS))]) * rng.uniform(0.7, 1.0)
        folds = 1 + 0.06 * np.sin(np.arange(side) / FINE / rng.uniform(2, 4))[:, None, None]
        return shape, np.broadcast_to(cloth * folds, (side, side, 3)).astype(np.float32)
    if cover == "scarf":
        top, tilt = rng.uniform(52, 64), rng.normal(0, 5)
        edge = np.array([(-30, top + tilt), (50, top), (130, top - tilt), (130, 148), (-30, 148)])
        cv2.fillPoly(shape, [_pixels(edge)], 1.0)
        return shape, _stretched(data.chelsea()[60:200, 120:330] if rng.random() < 0.5 else _grey(data.brick(), 0.5))
    if cover == "microphone":
        middle, radius = np.array([50 + rng.normal(0, 5), rng.uniform(76, 84)]), rng.uniform(16, 22)
        cv2.circle(shape, tuple(_pixels(middle).tolist()), round(radius * FINE), 1.0, -1)
        away = middle + np.array([rng.normal(0, 20), 90])
        cv2.line(shape, tuple(_pixels(middle).tolist()), tuple(_pixels(away).tolist()), 1.0, 10 * FINE)
        return shape, _stretched(_grey(data.gravel(), rng.uniform(0.25, 0.6)))
    return _hand(shape, owner, rng)


def _hand(
    shape: Float32[np.ndarray, "s s"], owner: Look, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "s s"], Float32[np.ndarray, "s s 3"]]:
    """Four fingers across the mouth, darker where they round off, of skin from a cheek of the owner."""
    picture, face = owner
    to_square = np.linalg.inv(_placing(face))
    cheek = cv2.warpAffine(picture, to_square[:2], (SIDE, SIDE))[56:70, 14:32]
    angle, side, width = np.radians(rng.uniform(-35, 35)), rng.choice([-1, 1]), rng.uniform(9, 11)
    along = side * np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    middle = np.array([50, 78]) + rng.normal(0, 2.5, 2)
    places = np.stack(np.meshgrid(*[np.arange(len(shape)) / FINE - MARGIN] * 2), axis=2)
    shade: np.ndarray = np.ones_like(shape)
    for finger in (-1.5, -0.5, 0.5, 1.5):
        root = middle + across * finger * width
        one = np.zeros_like(shape)
        ends = [tuple(_pixels(root + along * reach).tolist()) for reach in (rng.uniform(20, 28) - 3 * abs(finger), -70)]
        cv2.line(one, *ends, 1.0, round(1.05 * width * FINE))
        off = np.abs((places - root) @ across) / (width / 2)
        shade = np.where(one > 0, np.clip(1.03 - 0.35 * off**3, 0.5, 1.0), shade)
        shape = np.maximum(shape, one)
    return shape, _stretched(cheek) * shade[:, :, None].astype(np.float32)


def _pixels(places: np.ndarray) -> np.ndarray:
    return ((places + MARGIN) * FINE).round().astype(np.int32)


def _grey(texture: np.ndarray, light: float) -> np.ndarray:
    return np.repeat((texture[:256, :256, None] * light).astype(np.uint8), 3, axis=2)


def _stretched(texture: np.ndarray) -> Float32[np.ndarray, "s s 3"]:
    side = (SIDE + 2 * MARGIN) * FINE
    return np.asarray(cv2.resize(texture, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)


if __name__ == "__main__":
    main()
