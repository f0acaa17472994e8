"""Numbers that add up, or no record at all."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.accounting import Account, Fate, account, fates
from tasks.artifacts import account_markdown, gallery_markdown
from tasks.extract import ExtractConfig, wanted_features
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.policy import load_policy
from tasks.records import Clip, FailureClass, Reason, Stage

outcomes = st.sampled_from(["passed", "quarantined", "failed", "waiting"])


def fate(number: int, outcome: str) -> Fate:
    reason = {"quarantined": Reason.NO_FACE, "failed": FailureClass.NETWORK}.get(outcome)
    return Fate(clip_id=f"c{number}", stage=Stage.CURATE, outcome=outcome, reason=reason)  # type: ignore[arg-type]


@given(st.lists(outcomes))
def test_every_fate_is_counted_once(chosen: list[str]) -> None:
    counted = account([fate(number, outcome) for number, outcome in enumerate(chosen)])
    assert counted.listed == len(chosen)
    assert counted.passed == chosen.count("passed")
    assert sum(counted.failed.values()) == chosen.count("failed")


def test_an_account_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValidationError, match="3 clips are listed but 2"):
        Account(listed=3, passed=1, quarantined={"no_face": 1})


def clip(clip_id: str, parent: str | None = None) -> Clip:
    return Clip(clip_id=clip_id, source="x", video_id="v", location="x", parent_id=parent)


def row(clip_id: str, stage: Stage, state: str = "done", **more: object) -> Row:
    return Row.model_validate({"clip_id": clip_id, "stage": stage, "state": state, "key": "k", **more})


CONFIG = ExtractConfig(modalities=("video",))


def key_of(crop_digest: str) -> str:
    return wanted_features(CONFIG, crop_digest)["video"][0]


def test_fates_follow_a_clip_as_far_as_it_came(tmp_path: Path) -> None:
    policy = load_policy("configs/policy/demo.yaml")
    good = {name: {"method": "m", "value": value} for name, value in GOOD_SCORES.items()}
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        ledger.add_clips("d", [clip(name) for name in ("gone", "cut", "short", "lost", "new")])
        ledger.add_clips("d", [clip("cut-1", "cut"), clip("cut-2", "cut")])
        with ledger.lease("d", Stage.ACQUIRE, "r") as lease:
            ledger.record(lease, [row(name, Stage.ACQUIRE) for name in ("cut", "short")])
            ledger.record(lease, [row("gone", Stage.ACQUIRE, "impossible", reason="gone", detail="404")])
            ledger.record(
                lease,
                [
                    row(
                        "lost",
                        Stage.ACQUIRE,
                        "failed",
                        failure="network",
                        detail="x\ntasks.records.Temporary: network: reset",
                        attempts=3,
                    )
                ],
            )
        with ledger.lease("d", Stage.CURATE, "r") as lease:
            for name, scores in (("cut-1", good), ("short", {**good, "duration_s": {"method": "m", "value": 1.0}})):
                ledger.record(lease, [row(name, Stage.CURATE, value={"scores": scores, "digest": "d1"})])
        with ledger.lease("d", Stage.EXTRACT, "r") as lease:
            ledger.record(lease, [row("cut-1", Stage.EXTRACT, feature="video", key=key_of("d1"))])
        found = {each.clip_id: each for each in fates(ledger, "d", policy, CONFIG)}
        with ledger.lease("d", Stage.CURATE, "r") as lease:  # cropped anew: the feature is of another crop
            ledger.record(lease, [row("cut-1", Stage.CURATE, value={"scores": good, "digest": "d2"})])
        stale = {each.clip_id: each.outcome for each in fates(ledger, "d", policy, CONFIG)}
    assert stale["cut-1"] == "waiting", "a feature of an older crop is no feature"
    assert {name: each.outcome for name, each in found.items()} == {
        "gone": "quarantined",
        "cut-1": "passed",
        "cut-2": "waiting",
        "short": "quarantined",
        "lost": "failed",
        "new": "waiting",
    }
    assert found["short"].reason == Reason.TOO_SHORT
    assert found["lost"].measured == "reset"
    assert account(list(found.values())).listed == 6


GOOD_SCORES = {
    "duration_s": 9.0,
    "shot_cuts": 0.0,
    "people": 1.0,
    "face_px": 150.0,
    "loudness_db": -25.0,
    "speech_share": 0.8,
    "sharpness": 8.0,
    "snr_db": 30.0,
    "lip_motion": 0.7,
}


def test_artifacts_stay_small_and_say_why(tmp_path: Path) -> None:
    (tmp_path / "big.jpg").write_bytes(b"x" * 100_000)
    many = [
        Fate(
            clip_id=f"c{n}",
            stage=Stage.CURATE,
            outcome="quarantined",
            reason=Reason.BLURRED,
            measured="0.2",
            thumbnail="big.jpg",
        )
        for n in range(300)
    ]
    text = gallery_markdown(many, tmp_path)
    assert len(text) < 1_000_000
    assert "252 more" in text
    assert "blurred, 0.2" in text
    assert "| quarantined: blurred | 300 |" in account_markdown(account(many))
