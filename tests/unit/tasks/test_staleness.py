"""A plan says what changed, from what rows hold: of features for certain, of crops and videos by sizes and times."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dualforce_model.encoders import EncoderChoice
from tasks import staleness
from tasks.acquiring import AcquireConfig, AcquireWork
from tasks.curating import CurateWork
from tasks.curation import CurateConfig
from tasks.extract import ExtractConfig, wanted_features
from tasks.extracting import ExtractWork
from tasks.extractors import StructureConfig
from tasks.ledger import Ledger, Row
from tasks.place import Place
from tasks.planning import PlanPart, plan
from tasks.policy import Policy
from tasks.records import Clip, CropBox, FailureClass, Reason, Stage
from tasks.sources import FolderConfig
from tasks.stages import StageConfig, plan_stage
from tasks.staleness import plan_parts
from tasks.work import Work

NOW = ExtractConfig(modalities=("structure", "audio"))
THEN = NOW.model_copy(
    update={"structure": StructureConfig(encoder=EncoderChoice(name="face_dct", config={"num_eye": 2}))}
)
CROP, OTHER_CROP = "a" * 64, "b" * 64


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(dataset="d", home=str(tmp_path / "run"))


@pytest.fixture
def ledger(place: Place) -> Iterator[Ledger]:
    with Ledger(place.ledger_url) as opened:
        yield opened


def record(ledger: Ledger, stage: Stage, *rows: dict[str, Any]) -> None:
    with ledger.lease("d", stage, "r") as lease:
        ledger.record(lease, [Row.model_validate({"stage": stage, "state": "done", "key": "k", **row}) for row in rows])


def parts_of(work: Work, ledger: Ledger) -> dict[str, PlanPart]:
    planned, _ = plan_stage(work, ledger, StageConfig())
    return {part.feature: part for part in plan_parts(work, ledger, planned)}


# ------------------------------------------------------------------------------------------------------------- extract


def cropped(ledger: Ledger, *clip_ids: str) -> None:
    """Clips with a crop each, all of equal bytes."""
    ledger.add_clips("d", [Clip(clip_id=c, source="x", video_id="v", location="x") for c in clip_ids])
    crop = {"path": "c.mp4", "digest": CROP, "num_frames": 5, "scores": {}}
    record(ledger, Stage.CURATE, *[{"clip_id": clip_id, "value": crop} for clip_id in clip_ids])


def feature(clip_id: str, name: str, config: ExtractConfig, crop: str, **said: Any) -> dict[str, Any]:
    key, fingerprint = {str(modality): both for modality, both in wanted_features(config, crop).items()}[name]
    ref = {"modality": name, "fingerprint": fingerprint, "key": key, "shard": "s", "clip_id": clip_id}
    return {"clip_id": clip_id, "feature": name, "key": key, "value": {"ref": ref}, **said}


def extracting(place: Place, ledger: Ledger) -> ExtractWork:
    return ExtractWork(NOW, Policy(name="all"), place, ledger)


def test_another_encoder_is_told_from_another_crop(place: Place, ledger: Ledger) -> None:
    cropped(ledger, "c1", "c2", "c3", "c4")
    rows = [feature("c1", "structure", THEN, CROP), feature("c2", "structure", THEN, OTHER_CROP)]
    rows += [feature("c3", "structure", NOW, OTHER_CROP), feature("c4", "structure", NOW, CROP)]
    rows += [feature("c1", "audio", NOW, OTHER_CROP), feature("c2", "audio", THEN, CROP)]
    record(ledger, Stage.EXTRACT, *rows)
    parts = parts_of(extracting(place, ledger), ledger)
    assert parts["structure"].changed_for == dict.fromkeys(
        [staleness.ANOTHER_CROP, staleness.BOTH, staleness.ANOTHER_ENCODER], 1
    )
    assert parts["structure"].numbers == {"changed": 3, "done": 1}
    assert parts["audio"].changed_for == {staleness.ANOTHER_CROP: 1}
    assert parts["audio"].text() == "audio     2 new, 1 changed: another crop (detector, settings or download)"


def test_of_what_was_not_made_it_is_told_where_other_clips_tell_it(place: Place, ledger: Ledger) -> None:
    cropped(ledger, "c1", "c2", "c3")
    failed = {"state": "failed", "failure": FailureClass.BUG, "value": {}}
    refused = {"state": "impossible", "reason": Reason.NO_FACE, "value": {}}
    made, alike = feature("c1", "structure", THEN, CROP), feature("c2", "structure", THEN, CROP, **failed)
    unlike = feature("c3", "structure", NOW, OTHER_CROP, **refused)
    record(ledger, Stage.EXTRACT, made, alike, unlike)
    part = parts_of(extracting(place, ledger), ledger)["structure"]
    assert part.changed_for == {staleness.ANOTHER_ENCODER: 2, staleness.TRIED: 1}
    assert part.text() == (
        "structure 3 changed: 2 another encoder, weights or settings and "
        "1 failed or refused when tried with another encoder, settings or crop"
    )


def test_of_many_only_the_first_are_looked_at_and_it_says_so(
    place: Place, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staleness, "LOOKED_AT", 2)
    cropped(ledger, "c1", "c2", "c3")
    record(ledger, Stage.EXTRACT, *[feature(clip_id, "structure", THEN, CROP) for clip_id in ("c1", "c2", "c3")])
    part = parts_of(extracting(place, ledger), ledger)["structure"]
    assert (part.numbers, part.looked_at, part.changed_for) == ({"changed": 3}, 2, {staleness.ANOTHER_ENCODER: 2})
    assert part.text() == "structure 3 changed: another encoder, weights or settings (of the first 2)"


# -------------------------------------------------------------------------------------------------------------- curate


def test_a_video_that_came_after_its_crop_is_told_from_other_settings(place: Place, ledger: Ledger) -> None:
    clips = [Clip(clip_id=c, source="x", video_id=c, location="x") for c in ("old", "new", "told")]
    crop = CropBox(left=0, top=0, right=10, bottom=10)
    ledger.add_clips("d", [*clips[:2], clips[2].model_copy(update={"crop": crop})])
    video = {"digest": "v", "duration_s": 4.0}
    fetched = [{"clip_id": c.clip_id, "value": video | {"digest": c.clip_id}, "updated_at": 10.0} for c in clips]
    record(ledger, Stage.ACQUIRE, *fetched)
    work = CurateWork(CurateConfig(), place, ledger)
    (new,) = [clip_id for clip_id, clip in work.clips.items() if (clip.parent_id or clip_id) == "new"]
    made = [{"clip_id": c, "key": "other", "updated_at": 9.0 if c == new else 11.0} for c in work.clips]
    with ledger.lease("d", Stage.CURATE, "r") as lease:
        work.enlist(lease)
    record(ledger, Stage.CURATE, *made)
    part = parts_of(work, ledger)[""]
    assert part.changed_for == dict.fromkeys(
        [staleness.OTHER_SETTINGS, staleness.OTHER_SETTINGS_OR_HINTS, staleness.FETCHED_SINCE], 1
    )


# ------------------------------------------------------------------------------------------------------------- acquire


def test_a_video_of_another_size_is_told_from_one_of_another_time(tmp_path: Path, place: Place, ledger: Ledger) -> None:
    names = ("same", "larger", "touched", "refused")
    (tmp_path / "videos").mkdir()
    for name in names:
        (tmp_path / f"videos/{name}.mp4").write_bytes(b"video")
        os.utime(tmp_path / f"videos/{name}.mp4", ns=(5, 5))

    def work() -> AcquireWork:
        return AcquireWork(AcquireConfig(source=FolderConfig(folder=tmp_path / "videos")), place, ledger)

    before = work()
    with ledger.lease("d", Stage.ACQUIRE, "r") as lease:
        before.enlist(lease)
    stamp = {"num_bytes": 5, "mtime_ns": 5}
    rows = [{"clip_id": each.clip_id, "key": each.key, "value": stamp} for each in before.targets()]
    refused = {"state": "impossible", "reason": Reason.UNDECODABLE, "value": {}}
    record(ledger, Stage.ACQUIRE, *[row | (refused if "refused" in row["clip_id"] else {}) for row in rows])
    assert parts_of(work(), ledger)[""].numbers == {"done": 3, "impossible": 1}
    (tmp_path / "videos/larger.mp4").write_bytes(b"another video")
    for name in ("touched", "refused"):
        os.utime(tmp_path / f"videos/{name}.mp4", ns=(7, 7))
    part = parts_of(work(), ledger)[""]
    assert part.numbers == {"changed": 3, "done": 1}
    assert part.changed_for == dict.fromkeys(
        [staleness.ANOTHER_FILE, staleness.ANOTHER_SIZE, staleness.ANOTHER_TIME], 1
    )
    assert part.text().startswith("changed: 1 a file of another size and 1 a file of another time")


def test_a_plan_of_nothing_has_no_parts(place: Place, ledger: Ledger) -> None:
    assert plan_parts(extracting(place, ledger), ledger, plan({}, {})) == ()
