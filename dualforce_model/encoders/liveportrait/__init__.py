"""LivePortrait's motion extractor (Guo et al., 2024): what a face does in a picture, as 21 implicit key points move.

net = load_motion_extractor(Path("motion_extractor.pth"))
pictures = driving_pictures(frames, landmarks)             # [T, 256, 256, 3]
motion = net.motion(pictures)                              # kp, exp, degrees, t, scale of every frame
rows = LP70.join(lp70_fields(motion))                      # [T, 70]; LP70 itself is the table that names the entries
"""

from dualforce_model.encoders.liveportrait.crops import (
    DRIVING,
    PICTURE_PX,
    REFINING,
    SOURCE,
    CropForm,
    driving_pictures,
    face_square,
    mean_square,
    source_picture,
    to_crop,
)
from dualforce_model.encoders.liveportrait.landmarks import Openness, openness
from dualforce_model.encoders.liveportrait.layouts import (
    LAYOUTS,
    LP70,
    LP128,
    lp70_fields,
    lp70_motion,
    lp128_fields,
    lp128_motion,
)
from dualforce_model.encoders.liveportrait.motion import (
    Motion,
    angles,
    assemble,
    canonical,
    degrees,
    posed_points,
    rotation,
)
from dualforce_model.encoders.liveportrait.net import MotionExtractor, load_motion_extractor
from dualforce_model.layout import Layout

__all__ = [
    "DRIVING",
    "LAYOUTS",
    "LP70",
    "LP128",
    "PICTURE_PX",
    "REFINING",
    "SOURCE",
    "CropForm",
    "Layout",
    "Motion",
    "MotionExtractor",
    "Openness",
    "angles",
    "assemble",
    "canonical",
    "degrees",
    "driving_pictures",
    "face_square",
    "load_motion_extractor",
    "lp70_fields",
    "lp70_motion",
    "lp128_fields",
    "lp128_motion",
    "mean_square",
    "openness",
    "posed_points",
    "rotation",
    "source_picture",
    "to_crop",
]
