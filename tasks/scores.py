"""All scores of a clip, by name: one set of names in every mode, so that a policy can ask for any of them.

What a mode does not look at says so in its method; nothing is left out in silence.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from dualforce_model.metrics.lips import mouth_opening, speech_envelope
from tasks import faces, quality
from tasks.footage import Footage
from tasks.records import Score

OCCLUSION_NEEDS = "a face parser"  # for which nothing is here, whatever detector is chosen
# Every score that is about a face, in the order in which they are stored.
FACE_SCORES = (
    *("people", "people_share", "face_px", "sharpness", "brightness", "occlusion"),
    *quality.HEAD_ANGLES,
    *("lip_motion", "sound_offset_ms"),
)


@dataclass(frozen=True)
class People:
    """The main face of a clip, and all that count, the main one among them."""

    main: faces.Track
    counted: tuple[faces.Track, ...]


def face_scores(
    footage: Footage, people: People, crops: UInt8[np.ndarray, "T s s 3"], sound: np.ndarray
) -> dict[str, Score]:
    """Scores of a clip that is cropped to a face; `sound` at 16 kHz, empty where there is none."""
    main, num_frames = people.main, len(footage.frames)
    opening = mouth_opening(crops)
    envelope = speech_envelope(sound, len(crops)) if len(sound) else np.zeros(len(crops), np.float32)
    seen = [
        faces.patch(footage.frames[int(frame)], box * footage.frames.scale)
        for frame, box in zip(main.frames, main.boxes, strict=True)
    ]
    looks = [frame for frame, _ in footage.sightings]
    return {
        **_any_scores(footage, sound),
        "people": quality.people(people.counted, num_frames),
        "people_share": quality.people_share(people.counted, looks, num_frames),
        "face_px": quality.face_px(main),
        "sharpness": quality.sharpness(seen),
        "brightness": quality.brightness(seen),
        "occlusion": quality.not_measured(OCCLUSION_NEEDS),
        **quality.head_angles(main),
        "lip_motion": quality.lip_motion(opening, envelope),
        "sound_offset_ms": quality.sound_offset_ms(opening, envelope),
    }


def general_scores(footage: Footage, sound: np.ndarray) -> dict[str, Score]:
    """Scores of a clip in which no face was looked for."""
    return {**_any_scores(footage, sound), **dict.fromkeys(FACE_SCORES, quality.no_face_sought())}


def _any_scores(footage: Footage, sound: np.ndarray) -> dict[str, Score]:
    """What can be said of any clip."""
    return {
        "duration_s": quality.duration_s(len(footage.frames)),
        "shot_cuts": quality.shot_cuts(footage.glances),
        "loudness_db": quality.loudness_db(sound),
        "speech_share": quality.speech_share(sound),
        "snr_db": quality.snr_db(sound),
    }
