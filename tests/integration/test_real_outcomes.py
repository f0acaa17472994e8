"""Real clips of every kind end under `folder` as a person who has watched them says they should."""

import json
from pathlib import Path
from typing import Any

import pytest

from dualforce_model.storage import file_digest
from tasks.curation import CurateConfig, CurateJob, Curator
from tasks.detectors import DetectorConfig
from tasks.measures import MeasureConfig
from tasks.policy import Policy, judge, load_policy
from tasks.records import Impossible, Quarantined, Reason, Score, Span

pytestmark = pytest.mark.slow

LONGEST_S = 10.0
CLEAR_PX = 110  # faces a little larger than the policy asks for: detectors' boxes differ
NOBODY = {Reason.NO_FACE, Reason.NOT_MEDIA, Reason.UNDECODABLE, Reason.SHOT_CUT, Reason.TOO_SHORT}


@pytest.fixture(scope="module")
def curator(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Curator:
    models = shared / "models"
    config = CurateConfig(
        crop_px=128,
        detector=DetectorConfig(name="yunet", weights=models / "face_detection_yunet_2023mar.onnx", min_score=0.7),
        measures={"silero": MeasureConfig(weights=models / "silero_vad.onnx")},
    )
    made = Curator(config, tmp_path_factory.mktemp("media"))
    made.load()
    return made


def outcome(curator: Curator, policy: Policy, video: Path, seconds: float) -> tuple[Reason | None, str]:
    """Why the first seconds of a video are left out, or None; and what was measured."""
    job = CurateJob(
        job_id=video.stem[:60],
        source_path=str(video),
        source_digest=file_digest(video),
        span=Span(start_s=0, end_s=min(seconds, LONGEST_S)),
        key="k",
        target="crop.mp4",
    )
    try:
        scores = curator(job)["scores"]
    except Impossible as refused:
        return refused.reason, refused.measured
    verdict = judge(policy, job.job_id, {name: Score.model_validate(score) for name, score in scores.items()})
    return (verdict.reason, verdict.measured) if isinstance(verdict, Quarantined) else (None, str(verdict))


def expected(entry: dict[str, Any]) -> set[Reason | None]:
    """Outcomes that are right for a clip, from what was noted by eye; empty where that leaves it open."""
    sound = entry.get("audio") or {}
    seen, talks = str(entry["faces_by_eye"]), str(entry["talking"])
    measured = entry.get("measured") or {}
    if seen.startswith(("0", "-", "animated")):
        return set(NOBODY)
    if not sound or float(sound.get("speech_ratio") or 0) == 0:
        # Faces of one second, on their side or of 60 px are left out for that before their silence is looked at.
        spoilt = entry["duration_s"] < 2 or (measured.get("face_height_px") or 0) < CLEAR_PX
        silent: set[Reason | None] = {Reason.NO_SOUND, Reason.NO_SPEECH}
        return (
            silent | {Reason.TOO_SHORT, Reason.FACE_TOO_SMALL, Reason.NO_FACE, Reason.MULTIPLE_PEOPLE}
            if spoilt
            else silent
        )
    if seen in {"2 (one speaks)", "3"}:
        return {Reason.MULTIPLE_PEOPLE, Reason.FACE_TOO_SMALL}
    alone = seen == "1" and entry["duration_s"] > 2.2 and (measured.get("face_height_px") or 0) > CLEAR_PX
    if alone and talks == "yes" and float(sound["speech_ratio"]) > 0.3:
        return {None}
    return set()


def test_outcomes_are_those_that_a_person_would_give(shared: Path, curator: Curator) -> None:
    policy = load_policy("configs/policy/folder.yaml")
    entries = json.loads((shared / "realdata/manifest.json").read_text())["entries"]
    wrong, judged, passed = [], 0, 0
    for entry in (entry for entry in entries if entry["kind"] == "video"):
        right = expected(entry)
        if not right:
            continue
        judged += 1
        reason, measured = outcome(curator, policy, shared / "realdata" / entry["file"], float(entry["duration_s"]))
        passed += reason is None
        if reason not in right:
            wrong.append(f"{entry['file']}: {reason} ({measured}), by eye {entry['faces_by_eye']}, {entry['talking']}")
    assert not wrong, "\n".join(wrong)
    assert judged > 40
    assert passed > 10
