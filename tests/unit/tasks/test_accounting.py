"""Numbers that add up, or no record at all."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dualforce_model import media
from dualforce_model.storage import Storage
from dualforce_model.text_features import pack_text, text_name
from tasks.accounting import Account, Fate, account, crop_fates, fates
from tasks.artifacts import account_markdown, gallery_markdown
from tasks.extract import ExtractConfig, wanted_features
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.policy import load_policy
from tasks.records import Clip, FailureClass, Reason, Stage
from tasks.text_notes import KnownTexts, Refusal, TextFailure, write_note
from tests.letters import names

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


@pytest.mark.parametrize("failing", ["audio", "structure"])
def test_a_failed_feature_decides_over_an_impossible_one_whatever_their_names(tmp_path: Path, failing: str) -> None:
    config, policy = ExtractConfig(modalities=("audio", "structure")), load_policy("configs/policy/demo.yaml")
    good = {name: {"method": "m", "value": value} for name, value in GOOD_SCORES.items()}
    keys = {name: key for name, (key, _) in wanted_features(config, "d1").items()}
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        ledger.add_clips("d", [clip("c")])
        with ledger.lease("d", Stage.ACQUIRE, "r") as lease:
            ledger.record(lease, [row("c", Stage.ACQUIRE)])
        with ledger.lease("d", Stage.CURATE, "r") as lease:
            ledger.record(lease, [row("c", Stage.CURATE, value={"scores": good, "digest": "d1"})])
        with ledger.lease("d", Stage.EXTRACT, "r") as lease:
            for name, key in keys.items():
                said = {"state": "impossible", "reason": "no_face"}
                if name == failing:
                    said = {"state": "failed", "failure": "bug"}
                ledger.record(lease, [row("c", Stage.EXTRACT, **{"feature": name, **said, "key": key})])
        (found,) = fates(ledger, "d", policy, config)
    assert (found.outcome, found.reason) == ("failed", FailureClass.BUG)


def test_a_clip_has_passed_once_what_is_said_of_it_is_there(tmp_path: Path) -> None:
    policy, store, naming = load_policy("configs/policy/demo.yaml"), Storage(str(tmp_path / "store")), names()
    good = {name: {"method": "m", "value": value} for name, value in GOOD_SCORES.items()}
    said = {"told": "a man", "new": "a woman", "broken": "a boy", "odd": "what?"}
    fingerprint = naming.fingerprint
    pack_text(store, fingerprint, "a man", np.ones((1, 2), np.float32))
    bug = TextFailure(caption="a boy", failure=FailureClass.BUG, traceback="Traceback\nof all things")
    write_note(store, text_name(fingerprint, "a boy"), bug)
    write_note(store, text_name(fingerprint, "what?"), Refusal(caption="what?", why="w"))
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        ledger.add_clips("d", [clip(name).model_copy(update={"caption": words}) for name, words in said.items()])
        with ledger.lease("d", Stage.ACQUIRE, "r") as lease:
            ledger.record(lease, [row(name, Stage.ACQUIRE) for name in said])
        with ledger.lease("d", Stage.CURATE, "r") as lease:
            ledger.record(lease, [row(name, Stage.CURATE, value={"scores": good, "digest": "d1"}) for name in said])
        with ledger.lease("d", Stage.EXTRACT, "r") as lease:
            ledger.record(lease, [row(name, Stage.EXTRACT, feature="video", key=key_of("d1")) for name in said])
        before = fates(ledger, "d", policy, CONFIG, KnownTexts(store, naming))
        pack_text(store, fingerprint, "a person", np.ones((1, 2), np.float32))  # the prompt, which `odd` is told
        after = fates(ledger, "d", policy, CONFIG, KnownTexts(store, naming))
    assert [each.outcome for each in before] == ["passed", "waiting", "failed", "waiting"]
    assert [each.outcome for each in after] == ["passed", "waiting", "failed", "passed"]
    assert (before[1].stage, before[2].measured) == (Stage.EXTRACT, "caption 'a boy': bug: of all things")


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
    assert "268 more are in the ledger" in text
    assert "**quarantined** `c0`: blurred: `0.2`" in text
    assert "| quarantined: blurred | 300 |" in account_markdown(account(many))


def test_every_reason_has_its_turn_in_the_gallery_and_broken_pictures_are_left_out(tmp_path: Path) -> None:
    media.write_image(tmp_path / "good.jpg", np.full((300, 900, 3), 90, np.uint8))
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    many = [fate(number, "failed") for number in range(100)]
    many.append(fate(100, "quarantined").model_copy(update={"thumbnail": "good.jpg", "measured": "a `b`\n![x](y)"}))
    many += [fate(101, "passed").model_copy(update={"thumbnail": name}) for name in ("bad.jpg", "gone.jpg")]
    text = gallery_markdown(iter(many), tmp_path)
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### failed: network, 100",
        "### quarantined: no_face, 1",
        "### passed, 2",
    ]
    assert text.count("![") == 2
    assert "`a 'b' ![x](y)`" in text, "what strangers wrote is no markdown"
    assert text.count("data:image/jpeg;base64") == 1
    assert "and 71 more" in text
    assert "71 more are in the ledger" in text


def test_crops_have_a_fate_with_and_without_a_policy(tmp_path: Path) -> None:
    good = {name: {"method": "m", "value": value} for name, value in GOOD_SCORES.items()}
    brief = {**good, "duration_s": {"method": "m", "value": 1.0}}
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        ledger.add_clips("d", [clip(name) for name in ("good", "brief", "nobody", "broken", "new")])
        with ledger.lease("d", Stage.CURATE, "r") as lease:
            for name, scores in (("good", good), ("brief", brief)):
                value = {"scores": scores, "digest": "d", "thumbnail": f"{name}.jpg"}
                ledger.record(lease, [row(name, Stage.CURATE, value=value)])
            nobody = {"reason": "no_face", "detail": "0 of 9", "value": {"thumbnail": "nobody.jpg"}}
            ledger.record(lease, [row("nobody", Stage.CURATE, "impossible", **nobody)])
            ledger.record(lease, [row("broken", Stage.CURATE, "failed", failure="bug", detail="x", attempts=1)])
        plain = {each.clip_id: each for each in crop_fates(ledger, "d")}
        judged = {each.clip_id: each for each in crop_fates(ledger, "d", load_policy("configs/policy/demo.yaml"))}
        whole = {each.clip_id: each for each in fates(ledger, "d", load_policy("configs/policy/demo.yaml"), CONFIG)}
    assert {name: each.outcome for name, each in plain.items()} == {
        "good": "done",
        "brief": "done",
        "nobody": "quarantined",
        "broken": "failed",
    }
    assert {name: each.outcome for name, each in judged.items()} == {
        "good": "passed",
        "brief": "quarantined",
        "nobody": "quarantined",
        "broken": "failed",
    }
    assert (judged["brief"].reason, judged["brief"].thumbnail) == (Reason.TOO_SHORT, "brief.jpg")
    assert judged["nobody"] == plain["nobody"]
    assert plain["nobody"].thumbnail == "nobody.jpg"
    assert "broken" not in {name for name, each in whole.items() if each.thumbnail}
