"""What is known of one clip when its scores are taken."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from dualforce_model.media import Picture
from tasks.faces import SquareBox, Track
from tasks.footage import Footage


@dataclass(frozen=True)
class People:
    """The main face of a clip, and all that count, the main one among them."""

    main: Track
    counted: tuple[Track, ...]


@dataclass(frozen=True)
class Evidence:
    """Pictures, faces and sound of one clip."""

    footage: Footage
    people: People | None  # None: no face was looked for
    box: SquareBox  # what was cut out of every frame, pixels of the source
    crops: Sequence[Picture]  # one for each frame
    sound: Float32[np.ndarray, " n"]  # 16 kHz; empty where there is none
