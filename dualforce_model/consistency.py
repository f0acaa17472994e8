"""Do LivePortrait and FLAME see the same head? Two nets that measured one clip for themselves, held against each other.

    found = agreement(LP70, rows, parameters)
    found.score              # 0 to 1 of the clip; None: not measurable, and `found.said` tells why
    found.frames             # 0 to 1 of every frame

Compared are the head's turn and the opening of the mouth. Each net has its own head at rest and its own axes, so that
first each clip's turns are made relative to its middle one, LivePortrait's axes may each point the other way, and a
small rotation, one gain and an offset of the clip are taken out. Mouths have no common unit: both are brought to the
middle and spread of the clip. These are medians and percentiles, which a few wrong frames do not move.

A frame scores 1 where both agree, 0.6 where they differ by `TOLERANCE` of the clip's own spread, near 0 where they have
nothing to do with each other. A head or mouth that hardly moves says nothing: that part is not measurable.

Legend: T frames, m entries of a row of structure.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from dualforce_model import flame
from dualforce_model.encoders.liveportrait.layouts import LP70, LP128, NUM_EXP, lp128_motion
from dualforce_model.encoders.liveportrait.motion import rotation
from dualforce_model.layout import Layout
from dualforce_model.rotations import axis_angles, matrices, nearest

MIN_FRAMES = 12  # half a second: fewer agree by chance
TOLERANCE = 0.35  # of the spread
MIN_TOLERANCE_DEGREES = 1.0  # of a head that turns little: what the nets themselves waver by
MIN_TURN_DEGREES = 1.5  # spread
MIN_AXIS_DEGREES = 0.5  # spread about one axis, from which on its sign can be told
MIN_JAW_RADIANS = 0.01  # spread of FLAME's
LOW, HIGH = 10.0, 90.0  # percentiles between which the spread is taken
NORMAL_SPREAD = 2.5631  # between these of a normal distribution, in deviations
GAINS = (0.5, 2.0)  # two nets may see one turn by half or double, not more
MAX_TILT_DEGREES = 30.0  # between the heads at rest
TILT_PRIOR = 0.1  # of the evidence: directions in which the head does not turn say nothing about the tilt
LOWER_LIP = 3 * 19 + 1  # entry of exp that moves most when a mouth opens: y of point 19


class Mouth(NamedTuple):
    """The entry of a row that opens the mouth, and the spread from which on it does."""

    part: str
    entry: int
    min_spread: float


MOUTHS: Mapping[str, Mouth] = {LP70.name: Mouth("exp", LOWER_LIP, 1e-3), LP128.name: Mouth("lips", 0, 0.01)}


class Compared(NamedTuple):
    """One thing that was compared."""

    frames: Float32[np.ndarray, " T"] | None  # 0 to 1; None: not measurable
    said: str  # why not; "" where it was measured


class Agreement(NamedTuple):
    """How far the two agree about a clip."""

    pose: Compared
    jaw: Compared
    # LivePortrait's pitch, yaw, roll against FLAME's: 1 or -1, in truth the same for all clips; 0: hardly turned about
    signs: tuple[int, int, int] | None

    @property
    def frames(self) -> Float32[np.ndarray, " T"] | None:
        """0 to 1 of every frame: the mean of what was measurable. None: nothing was."""
        found = [each.frames for each in (self.pose, self.jaw) if each.frames is not None]
        return np.mean(found, axis=0).astype(np.float32) if found else None

    @property
    def score(self) -> float | None:
        """0 to 1 of the clip: the median of its frames. None: not measurable."""
        frames = self.frames
        return None if frames is None else float(np.median(frames))

    @property
    def said(self) -> str:
        """What was not measurable, and why; "" where all was."""
        return "; ".join(each.said for each in (self.pose, self.jaw) if each.said)


def agreement(
    layout: Layout,
    rows: Float[np.ndarray, "T m"],
    parameters: Float[np.ndarray, "T 159"],
    signs: tuple[int, int, int] | None = None,
) -> Agreement:
    """Agreement of a clip's structure with its FLAME parameters.

    `signs` are those that most clips of a set were found with; None (or a 0 in them) finds them in this clip, where a
    head that turns the other way is not told from axes that point the other way. Raises ValueError for another layout,
    or other rows.
    """
    if layout.name not in MOUTHS:
        raise ValueError(f"layout {layout.name}: expected one of {', '.join(MOUTHS)}, rows of LivePortrait's motion")
    if parameters.ndim != 2 or parameters.shape[1] != flame.NUM_PARAMETERS or len(parameters) != len(rows):
        raise ValueError(
            f"FLAME parameters are {list(parameters.shape)}: expected [{len(rows)}, {flame.NUM_PARAMETERS}], a row for "
            "every frame of structure"
        )
    fields = layout.split(rows)
    if len(rows) < MIN_FRAMES:
        few = Compared(None, f"not measurable: {len(rows)} frames, fewer than {MIN_FRAMES}")
        return Agreement(few, few._replace(said=""), None)
    turned = relative_turns(rotation(_degrees(layout, rows, fields)).swapaxes(-1, -2))
    wanted = relative_turns(matrices(parameters[:, flame.LAYOUT["pose"]]))
    pose, found = compare_turns(turned, wanted, signs)
    mouth = MOUTHS[layout.name]
    opening = fields[mouth.part][:, mouth.entry].astype(np.float64)
    jaw = compare_mouths(opening, mouth.min_spread, parameters[:, flame.LAYOUT["jaw"]][:, 0].astype(np.float64))
    return Agreement(pose, jaw, found)


def relative_turns(rotations: Float64[np.ndarray, "T 3 3"]) -> Float64[np.ndarray, "T 3"]:
    """Turns from the clip's middle one, axis-angle in degrees."""
    middle = nearest(np.median(rotations, axis=0))
    return np.rad2deg(axis_angles(middle.T @ rotations))


def compare_turns(
    turned: Float64[np.ndarray, "T 3"], wanted: Float64[np.ndarray, "T 3"], signs: tuple[int, int, int] | None
) -> tuple[Compared, tuple[int, int, int] | None]:
    """How far LivePortrait's turns agree with FLAME's, both from `relative_turns`; and the signs that were found."""
    about = [_spread(turns) for turns in (turned, wanted)]
    spreads = [float(np.linalg.norm(each)) for each in about]
    if max(spreads) < MIN_TURN_DEGREES:
        return Compared(None, f"pose not measurable: the head turns by {max(spreads):.1f} degrees only"), None
    turned, wanted = turned - np.median(turned, axis=0), wanted - np.median(wanted, axis=0)
    own = _signs(turned, wanted)
    turned = turned * (own if signs is None else np.where(signs, signs, own))
    gain = float(np.clip(spreads[1] / max(spreads[0], 1e-9), *GAINS))
    fitted = gain * turned @ _tilt(turned, wanted).T
    rest = wanted - fitted
    distance = np.linalg.norm(rest - np.median(rest, axis=0), axis=1)
    tolerance = max(TOLERANCE * max(spreads), MIN_TOLERANCE_DEGREES)
    x, y, z = np.where(np.minimum(*about) < MIN_AXIS_DEGREES, 0, own).tolist()
    return Compared(_scores(distance / tolerance), ""), (x, y, z)


def compare_mouths(opening: Float64[np.ndarray, " T"], min_spread: float, jaw: Float64[np.ndarray, " T"]) -> Compared:
    """How far lips and jaw open together. Either may be still while the other moves, which is no agreement."""
    spreads = float(_spread(opening)), float(_spread(jaw))
    if spreads[0] < min_spread and spreads[1] < MIN_JAW_RADIANS:
        return Compared(None, f"jaw not measurable: it opens by {np.rad2deg(spreads[1]):.1f} degrees only")
    seen, wanted = (
        (each - np.median(each)) / max(spread, least)
        for each, spread, least in zip((opening, jaw), spreads, (min_spread, MIN_JAW_RADIANS), strict=True)
    )
    return Compared(_scores(np.abs(seen - wanted) / TOLERANCE), "")


def _degrees(
    layout: Layout, rows: Float[np.ndarray, "T m"], fields: Mapping[str, Float32[np.ndarray, "T n"]]
) -> Float32[np.ndarray, "T 3"]:
    if layout.name == LP70.name:
        return fields["degrees"]
    return lp128_motion(rows, np.zeros(NUM_EXP, np.float32)).degrees


def _spread(numbers: Float64[np.ndarray, "T ..."]) -> Float64[np.ndarray, "..."]:
    """Deviation of what lies in the middle."""
    low, high = np.percentile(numbers, (LOW, HIGH), axis=0)
    return np.asarray((high - low) / NORMAL_SPREAD)


def _scores(distances: Float64[np.ndarray, " T"]) -> Float32[np.ndarray, " T"]:
    return np.exp(-(distances**2) / 2).astype(np.float32)


def _signs(turned: Float64[np.ndarray, "T 3"], wanted: Float64[np.ndarray, "T 3"]) -> Int[np.ndarray, " 3"]:
    """Of each axis, whether both go the same way; large turns count no more than those of the spread's ends."""
    limits = np.maximum(_spread(turned), 1e-9), np.maximum(_spread(wanted), 1e-9)
    kept = [np.clip(turns, -2 * limit, 2 * limit) for turns, limit in zip((turned, wanted), limits, strict=True)]
    return np.where((kept[0] * kept[1]).sum(axis=0) < 0, -1, 1)


def _tilt(turned: Float64[np.ndarray, "T 3"], wanted: Float64[np.ndarray, "T 3"]) -> Float64[np.ndarray, "3 3"]:
    """The rotation between the heads at rest: least squares, pulled towards none, and never a large one."""
    kept = np.linalg.norm(wanted, axis=1) <= np.percentile(np.linalg.norm(wanted, axis=1), HIGH)
    products = wanted[kept].T @ turned[kept]
    tilt = axis_angles(nearest(products + TILT_PRIOR * np.linalg.norm(products) * np.eye(3)))
    size = float(np.linalg.norm(tilt))
    return matrices(tilt * min(1.0, np.deg2rad(MAX_TILT_DEGREES) / max(size, 1e-9)))
