"""What the extract stage makes of attempts, before any run."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from dualforce_model import storage
from tasks.extract import BEGUN, ExtractConfig, part_name
from tasks.extracting import ExtractWork
from tasks.ledger import Ledger, Row
from tasks.place import Place
from tasks.policy import Policy
from tasks.records import Attempt, Clip, FailureClass, Reason, Stage
from tasks.work import Fault, Refusal

CONFIG = ExtractConfig(modalities=("structure", "audio"))


@pytest.fixture
def work(tmp_path: Path) -> ExtractWork:
    """The stage over one clip, `c`, with its job handed out."""
    place = Place(dataset="d", home=str(tmp_path))
    value = {"path": "crops/c.mp4", "digest": "0" * 64, "num_frames": 5, "scores": {}}
    with Ledger(place.ledger_url) as ledger:
        ledger.add_clips("d", [Clip(clip_id="c", source="x", video_id="c", location="x")])
        with ledger.lease("d", Stage.CURATE, "r") as lease:
            ledger.record(lease, [Row(clip_id="c", stage=Stage.CURATE, state="done", key="k", value=value)])
        work = ExtractWork(CONFIG, Policy(name="all"), place, ledger)
        (job,) = work.jobs(work.targets())
    assert job.num_bytes > 0
    return work


def finish(work: ExtractWork, modality: str) -> dict[str, str]:
    """A part as a worker leaves it."""
    target = next(target for (served,) in [work.serving.values()] for target in served if target.feature == modality)
    part = part_name(modality, "c", target.key)
    arrays = {"motion": np.ones((5, 3), np.float32)} if modality == "structure" else {"tokens": np.ones((10, 2), "e")}
    storage.write_bytes(work.place.parts_root / part, save(arrays))
    return {"part": part, "key": target.key}


def test_every_modality_has_its_own_outcome(work: ExtractWork) -> None:
    lack = {"failure": "bug", "traceback": "ZeroDivisionError"}
    told = work.results(Attempt(job_id="c", value={"structure": finish(work, "structure"), "audio": lack}))
    ((target, fault),) = told
    assert (target.feature, fault) == ("audio", Fault(FailureClass.BUG, "ZeroDivisionError"))
    refused = {"reason": "no_face", "measured": "0 of 5 frames"}
    told = work.results(Attempt(job_id="c", value={"structure": refused, "audio": finish(work, "audio")}))
    assert [(each.feature, said) for each, said in told] == [("structure", Refusal(Reason.NO_FACE, "0 of 5 frames"))]
    assert sorted(target.feature for target, _ in work.flush()) == ["audio", "structure"]


def test_what_a_dead_worker_had_finished_counts(work: ExtractWork) -> None:
    finish(work, "structure")
    told = work.results(Attempt(job_id="c", failure=(FailureClass.CRASH, "SIGKILL")))
    assert [(target.feature, said) for target, said in told] == [("audio", Fault(FailureClass.CRASH, "SIGKILL"))]
    assert [target.feature for target, _ in work.flush()] == ["structure"]


def test_what_is_torn_or_another_s_does_not_count(work: ExtractWork) -> None:
    part = finish(work, "structure")["part"]
    path = work.place.parts_root / part
    path.write_bytes(path.read_bytes()[:40])
    told = work.results(Attempt(job_id="c", failure=(FailureClass.DISK, "full"), systemic=True))
    assert {target.feature: said for target, said in told} == dict.fromkeys(
        ("structure", "audio"), Fault(FailureClass.DISK, "full", systemic=True)
    )


def test_a_whole_clip_can_be_impossible(work: ExtractWork) -> None:
    told = work.results(Attempt(job_id="c", impossible=(Reason.UNDECODABLE, "no frame"), preview="why.jpg"))
    assert {said for _, said in told} == {Refusal(Reason.UNDECODABLE, "no frame", "why.jpg")}


def test_a_message_holds_what_the_configuration_says(work: ExtractWork) -> None:
    assert (work.spec.jobs_per_message, work.spec.jobs_at_once) == (8, 1)
    work.config = CONFIG.model_copy(update={"clips_per_message": 16, "clips_per_batch": 4})
    assert (work.spec.jobs_per_message, work.spec.jobs_at_once) == (16, 4)


def test_marks_of_an_earlier_run_are_forgotten(work: ExtractWork) -> None:
    mark = (work.place.parts_root / part_name("audio", "c", "0" * 32)).with_suffix(BEGUN)
    mark.parent.mkdir(parents=True)
    mark.touch()
    with Ledger(work.place.ledger_url) as ledger, ledger.lease("d", Stage.EXTRACT, "r") as lease:
        work.ledger = ledger
        work.enlist(lease)
    assert not mark.exists()


def test_parts_that_nobody_wants_and_torn_ones_are_forgotten(work: ExtractWork) -> None:
    root = work.place.parts_root
    wanted = root / finish(work, "structure")["part"]
    stale = root / part_name("structure", "c", "0" * 32)
    gone = root / part_name("audio", "c90", wanted.stem.removeprefix("c-"))
    torn, young = (wanted.parent / storage.temporary_name(f"{number}.safetensors") for number in range(2))
    for path in (stale, gone, torn, young):
        storage.write_bytes(root / "made", wanted.read_bytes())
        path.parent.mkdir(parents=True, exist_ok=True)
        (root / "made").rename(path)
    os.utime(torn, (0, 0))
    with Ledger(work.place.ledger_url) as ledger, ledger.lease("d", Stage.EXTRACT, "r") as lease:
        work.ledger = ledger
        work.enlist(lease)
    assert [path.exists() for path in (wanted, stale, gone, torn, young)] == [True, False, False, False, True]


def test_parts_of_another_data_set_are_left_alone(work: ExtractWork) -> None:
    other = work.place.model_copy(update={"dataset": "other"})
    part = other.parts_root / part_name("audio", "c", "0" * 32)
    mark = part.with_suffix(BEGUN)
    storage.write_bytes(part, b"x")
    mark.touch()
    with Ledger(work.place.ledger_url) as ledger, ledger.lease("d", Stage.EXTRACT, "r") as lease:
        work.ledger = ledger
        work.enlist(lease)
    assert part.exists()
    assert mark.exists()
