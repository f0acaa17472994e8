"""Which way a head points, from five landmarks: a generic face in space is turned until it lies over them.

The face below is ours: round figures of a grown-up head, the nose placed so that people who look into the camera come
out near 0. Nobody's own proportions are known, so that a single face is off by up to about 10 degrees (a landmark that
lies 3 mm elsewhere than on this face turns it by 3 to 4), whoever it is by the same amount in every picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64

from tasks.faces import NUM_LANDMARKS

# Millimetres: x to the right in the picture, y down, z towards the viewer. Order of `Face.landmarks`.
FACE_MM: Float64[np.ndarray, "5 3"] = np.array(
    [(-32.0, 0.0, 0.0), (32.0, 0.0, 0.0), (0.0, 38.0, 38.0), (-25.0, 70.0, 10.0), (25.0, 70.0, 10.0)]
)
FOCAL = 8.0  # focal length in extents of the landmarks: a head seen from about half a metre, as close-ups show it
SMALLEST_PX = 4.0  # extent of the landmarks below which rounding decides
FLATTEST = 0.02  # extent across over extent along: landmarks on a line have no pose


@dataclass(frozen=True)
class HeadPose:
    """Degrees; 0, 0, 0 looks into the camera. Turned by yaw and pitch first, then rolled in the picture."""

    yaw_deg: float  # positive: the nose points to the right edge of the picture
    pitch_deg: float  # positive: the nose points up
    roll_deg: float  # positive: tilted clockwise in the picture


def head_pose(landmarks: Float64[np.ndarray, "5 2"]) -> HeadPose | None:
    """Pose of the head that shows these landmarks (pixels); None for points that no head seen from the front gives."""
    if landmarks.shape != (NUM_LANDMARKS, 2):
        raise ValueError(f"landmarks of shape {landmarks.shape}: expected eyes, nose and mouth corners, (5, 2)")
    centre = landmarks.mean(axis=0)
    along, across = np.linalg.svd(landmarks - centre, compute_uv=False)
    extent = float(np.ptp(landmarks, axis=0).max())
    if extent < SMALLEST_PX or across < FLATTEST * along:
        return None
    focal = FOCAL * extent
    camera = np.array([[focal, 0.0, centre[0]], [0.0, focal, centre[1]], [0.0, 0.0, 1.0]])
    away = np.diag([1.0, 1.0, -1.0])  # OpenCV's z leads away from the viewer
    found, turned, shift = cv2.solvePnP(FACE_MM @ away, landmarks, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    if not found:
        return None
    rotation = away @ cv2.Rodrigues(turned)[0] @ away
    if rotation[2, 2] <= 0 or float(shift[2, 0]) <= 0:  # the back of a head, or one behind the camera
        return None
    yaw = np.arcsin(np.clip(-rotation[2, 0], -1.0, 1.0))
    pitch = np.arctan2(rotation[2, 1], rotation[2, 2])
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    return HeadPose(*(float(np.degrees(angle)) for angle in (yaw, pitch, roll)))
