"""Face detectors on one real picture of 1280 x 720, all in turns; what others take over what the cascade takes.

    python -m benchmarks.detectors [--weights FOLDER]

Twice: the whole picture, and a picture of which a moment ago is known, where the cascade looks around the face alone.
Detectors whose weights are not here are named and left out.
"""

from pathlib import Path

import click
import cv2
import numpy as np
from skimage import data

from benchmarks.measure import Bench, Way, benchmark
from dualforce_model.errors import InputError
from tasks.detectors import DETECTORS, Detector, DetectorConfig, make_detector
from tasks.faces import overlap

SIZE = (1280, 720)  # width, height
LEAST_OVERLAP = 0.4  # detectors draw boxes of their own kind around a face


@benchmark
@click.option(
    "--weights", type=click.Path(path_type=Path), help="folder with the weights of all; default: each its own"
)
def main(gpu: bool, rounds: int, out: Path | None, weights: Path | None) -> None:
    """Detectors against the cascade."""
    if gpu:
        raise click.UsageError("--gpu: detectors run on the CPU, a thread per worker")
    bench = Bench("detectors", gpu, rounds, out)
    frame = picture()
    detectors = ready(weights)
    known = detectors[0](frame)
    for detector in detectors:
        same_face(detector, detector(frame), known)
    bench.compare("whole picture", [Way(name=d.name, run=lambda d=d: d(frame)) for d in detectors])
    bench.compare("one known face", [Way(name=d.name, run=lambda d=d: d(frame, known)) for d in detectors])
    bench.finish()


def picture() -> np.ndarray:
    """The upper part of the astronaut's picture, which is 16 by 9."""
    return np.asarray(cv2.resize(data.astronaut()[:288], SIZE, interpolation=cv2.INTER_CUBIC))


def ready(weights: Path | None) -> list[Detector]:
    """All detectors that can be loaded here, the cascade first."""
    loaded = []
    for name, kind in DETECTORS.items():
        try:
            detector = make_detector(DetectorConfig(name=name, weights=weights if kind.weights is not None else None))
            detector.load()
        except InputError as error:
            click.echo(f"{name} is left out: {error}", err=True)
            continue
        loaded.append(detector)
    return loaded


def same_face(detector: Detector, found: list, known: list) -> None:
    """All find the one face that is there, or their times say nothing."""
    if len(found) != 1 or overlap(found[0].box, known[0].box) < LEAST_OVERLAP:
        raise RuntimeError(f"{detector.name} found {found}, the cascade {known}: the times cannot be compared")


if __name__ == "__main__":
    main()
