"""All scores of a clip, by name: one set of names in every mode, so that a policy can ask for any of them.

What a mode does not look at says so in its method; nothing is left out in silence.
"""

from collections.abc import Sequence

import numpy as np

from dualforce_model import media
from dualforce_model.encoders.face_track import DETECT_SIDE_PX
from dualforce_model.metrics.lips import mouth_opening, speech_envelope
from tasks import faces, quality
from tasks.evidence import Evidence, People
from tasks.measures import Measure
from tasks.records import Score

# Scores that nothing takes without weights, and what they need.
NEEDS = {"occlusion": "curate.measures.mesh", "identity": "curate.measures.identity"}
# Every score that is about a face, in the order in which they are stored.
FACE_SCORES = (
    *("people", "people_share", "face_px", "sharpness", "brightness", "occlusion"),
    *quality.HEAD_ANGLES,
    *("lip_motion", *quality.SYNC_SCORES, "identity"),
)


def scores_of_clip(clip: Evidence, measures: Sequence[Measure] = ()) -> dict[str, Score]:
    """All scores of a clip: those of measures go before the weight-free ones of the same names."""
    scores = {**_any_scores(clip), **(_no_face_scores() if clip.people is None else _face_scores(clip, clip.people))}
    for measure in measures:
        scores |= measure(clip)
    return scores


def _face_scores(clip: Evidence, people: People) -> dict[str, Score]:
    """What can be said of a clip that is cropped to a face."""
    footage, main, num_frames = clip.footage, people.main, len(clip.footage.frames)
    opening = mouth_opening(np.stack(list(media.small(clip.crops, DETECT_SIDE_PX))))
    envelope = speech_envelope(clip.sound, len(opening)) if len(clip.sound) else np.zeros(len(opening), np.float32)
    seen = [
        faces.patch(footage.frames[int(frame)], box * footage.frames.scale)
        for frame, box in zip(main.frames, main.boxes, strict=True)
    ]
    looks = [frame for frame, _ in footage.sightings]
    return {
        "people": quality.people(people.counted, num_frames),
        "people_share": quality.people_share(people.counted, looks, num_frames),
        "face_px": quality.face_px(main),
        "sharpness": quality.sharpness(seen),
        "brightness": quality.brightness(seen),
        "occlusion": quality.not_measured(NEEDS["occlusion"]),
        **quality.head_angles(main),
        "lip_motion": quality.lip_motion(opening, envelope),
        **quality.sound_sync(opening, envelope),
        "identity": quality.not_measured(NEEDS["identity"]),
    }


def _no_face_scores() -> dict[str, Score]:
    return dict.fromkeys(FACE_SCORES, quality.no_face_sought())


def _any_scores(clip: Evidence) -> dict[str, Score]:
    """What can be said of any clip."""
    return {
        "duration_s": quality.duration_s(len(clip.footage.frames)),
        "shot_cuts": quality.shot_cuts(clip.footage.glances),
        "loudness_db": quality.loudness_db(clip.sound),
        "speech_share": quality.speech_share(clip.sound),
        "snr_db": quality.snr_db(clip.sound),
    }
