"""Duplicates as a policy's verdict: over a data set, from stored likenesses, with the other clip's name."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from tasks.accounting import AcrossClips, Crops, Verdict, crop_fates, each_fate, fates, verdicts
from tasks.duplicates import LARGEST, NUM_DIGITS, ZERO, Twin
from tasks.extract import ExtractConfig
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.policy import AtLeast, AtMost, DropRules, Policy, judge, load_policy
from tasks.records import Clip, Quarantined, Reason, Score, Stage

ASKING = Policy(
    name="asking",
    drop=DropRules(
        face_px=AtLeast(at_least=100, when_not_measured="drop"), duplicate=AtMost(at_most=0, when_not_measured="pass")
    ),
)
SILENT = ASKING.model_copy(update={"drop": ASKING.drop.model_copy(update={"duplicate": None})})


def text(seed: int) -> str:
    """A likeness by chance."""
    values = np.random.default_rng(seed).normal(size=NUM_DIGITS) / 0.5
    return "".join(f"{step:x}" for step in np.clip(np.rint(values), -LARGEST, LARGEST).astype(int) + ZERO)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


def fill(ledger: Ledger, clips: Mapping[str, tuple[str | None, float]]) -> None:
    """Clips in the order of the list: their likeness (none: of an older release) and the size of the face."""
    ledger.add_clips("d", [Clip(clip_id=name, source="x", video_id=name, location="x") for name in clips])
    with ledger.lease("d", Stage.ACQUIRE, "r") as lease:
        ledger.record(lease, [Row(clip_id=name, stage=Stage.ACQUIRE, state="done", key="k") for name in clips])
    with ledger.lease("d", Stage.CURATE, "r") as lease:
        rows = []
        for name, (like, face_px) in clips.items():
            value = {"digest": name, "scores": {"face_px": {"method": "box", "value": face_px}}}
            value |= {} if like is None else {"likeness": like}
            rows.append(Row(clip_id=name, stage=Stage.CURATE, state="done", key="k", value=value))
        ledger.record(lease, rows)


def verdict_of(ledger: Ledger, clip_id: str) -> Verdict:
    return {row.clip_id: verdict for row, verdict in verdicts(ledger, "d", ASKING)}[clip_id]


def reasons(ledger: Ledger, policy: Policy = ASKING) -> dict[str, Reason]:
    found = {row.clip_id: verdict for row, verdict in verdicts(ledger, "d", policy)}
    return {name: verdict.reason for name, verdict in found.items() if isinstance(verdict, Quarantined)}


def test_the_later_one_in_the_list_is_dropped_and_the_other_named(ledger: Ledger) -> None:
    fill(ledger, {"z-first": (text(0), 200), "a-copy": (text(0), 200), "other": (text(1), 200)})
    assert verdict_of(ledger, "a-copy") == Quarantined(
        clip_id="a-copy",
        stage=Stage.CURATE,
        reason=Reason.DUPLICATE,
        measured="duplicate 1 (pictures and sound of z-first, alike 1.00)",
        threshold="at most 0",
    )
    assert reasons(ledger) == {"a-copy": Reason.DUPLICATE}
    for standing in (fates(ledger, "d", ASKING, ExtractConfig(modalities=("video",))), crop_fates(ledger, "d", ASKING)):
        (dropped,) = (fate for fate in standing if fate.outcome == "quarantined")
        assert (dropped.clip_id, dropped.reason) == ("a-copy", Reason.DUPLICATE)
        assert "z-first" in dropped.measured


def test_what_the_policy_drops_anyway_keeps_no_other_clip_out(ledger: Ledger) -> None:
    fill(ledger, {"small": (text(0), 50), "large": (text(0), 200), "copy": (text(0), 200)})
    assert reasons(ledger) == {"small": Reason.FACE_TOO_SMALL, "copy": Reason.DUPLICATE}
    assert "of large" in str(verdict_of(ledger, "copy"))


def test_what_the_policy_drops_anyway_is_not_compared_at_all(ledger: Ledger) -> None:
    """Comparing all of many clips of one look takes long: digits that are none would be refused if looked at."""
    fill(ledger, {"small": ("z" * NUM_DIGITS, 50), "large": (text(0), 200), "copy": (text(0), 200)})
    assert reasons(ledger) == {"small": Reason.FACE_TOO_SMALL, "copy": Reason.DUPLICATE}


def test_what_was_found_before_is_not_looked_for_again(ledger: Ledger) -> None:
    fill(ledger, {"first": (text(0), 200), "copy": (text(1), 200)})
    across = AcrossClips(ledger, "d", ASKING)
    across.twins["copy"] = Twin("first", 0.95)  # which a search would not say
    assert isinstance(verdict_of(ledger, "copy"), float)
    found = {row.clip_id: verdict for row, verdict in verdicts(ledger, "d", ASKING, across)}
    assert found["first"] == 1.0
    assert "of first, alike 0.95" in str(found["copy"])
    crops = Crops(ledger, "d", ASKING, across)
    assert (crops.dropped, set(crops.passing)) == ({"copy"}, {"first"})
    standing = each_fate(ledger, "d", ASKING, ExtractConfig(modalities=("video",)), crops)
    assert {fate.clip_id: fate.outcome for fate in standing} == {"first": "waiting", "copy": "quarantined"}


def test_a_policy_that_does_not_ask_compares_nothing(ledger: Ledger) -> None:
    fill(ledger, {"first": (text(0), 200), "copy": (text(0), 200)})
    assert reasons(ledger, SILENT) == {}
    across = AcrossClips(ledger, "d", SILENT)
    assert [across.scores_of(row) for row, _ in verdicts(ledger, "d", SILENT)] == [{}, {}]


def test_every_crop_has_the_score_and_those_of_an_older_release_say_so(ledger: Ledger) -> None:
    fill(ledger, {"first": (text(0), 200), "copy": (text(0), 200), "old": (None, 200), "older": (None, 200)})
    across = AcrossClips(ledger, "d", ASKING)
    scores = {row.clip_id: across.scores_of(row)["duplicate"] for row, _ in verdicts(ledger, "d", ASKING)}
    assert scores == {
        "first": Score(method="pictures and sound", value=0.0),
        "copy": Score(method="pictures and sound of first, alike 1.00", value=1.0),
        "old": Score(method="none: an older release curated the clip"),
        "older": Score(method="none: an older release curated the clip"),
    }
    strict = DropRules(duplicate=AtMost(at_most=0, when_not_measured="drop"))
    assert reasons(ledger, Policy(name="strict", drop=strict)) == {
        "copy": Reason.DUPLICATE,
        "old": Reason.NOT_MEASURED,
        "older": Reason.NOT_MEASURED,
    }


def test_a_clip_that_left_the_list_keeps_no_other_out(ledger: Ledger) -> None:
    fill(ledger, {"first": (text(0), 200), "copy": (text(0), 200)})
    with ledger.lease("d", Stage.ACQUIRE, "r") as lease:
        ledger.relist(lease, "x", [Clip(clip_id="copy", source="x", video_id="copy", location="x")])
    assert reasons(ledger) == {}


@pytest.mark.parametrize("name", ["default", "folder", "pretrain", "mead", "voxceleb2"])
def test_policies_that_ship_drop_duplicates(name: str) -> None:
    policy = load_policy(f"configs/policy/{name}.yaml")
    alone = Policy(name="p", drop=DropRules(duplicate=policy.drop.duplicate))
    verdict = judge(alone, "a", {"duplicate": Score(method="m", value=1.0)})
    assert isinstance(verdict, Quarantined)
    assert verdict.reason is Reason.DUPLICATE
    assert judge(alone, "a", {"duplicate": Score(method="m", value=0.0)}) == 1.0
    assert judge(alone, "a", {}) == 1.0
