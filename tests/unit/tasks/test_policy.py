"""Policies: one verdict per clip, the first failing rule names the reason, stricter never lets more pass."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.config import ConfigError, digest, validate
from tasks.policy import (
    REASONS,
    AtLeast,
    AtMost,
    DropRules,
    LighterAbove,
    LighterBelow,
    Policy,
    WeightRules,
    judge,
    load_policy,
)
from tasks.records import Quarantined, Reason, Score

CONFIGS = Path(__file__).parents[3] / "configs" / "policy"
NAMES = tuple(DropRules.model_fields)
values = st.one_of(st.none(), st.floats(-1e4, 1e4), st.just(float("nan")))
scores_strategy = st.dictionaries(
    st.sampled_from(NAMES), st.builds(Score, method=st.just("test"), value=values), max_size=len(NAMES)
)
when = st.sampled_from(["pass", "drop"])
half = st.just(0.5)


def policy_strategy() -> st.SearchStrategy[Policy]:
    rules = {
        name: st.one_of(
            st.none(),
            st.builds(AtLeast, at_least=st.floats(-1e4, 1e4), when_not_measured=when)
            if "AtLeast" in str(field.annotation)
            else st.builds(AtMost, at_most=st.floats(0, 1e4), when_not_measured=when),
        )
        for name, field in DropRules.model_fields.items()
    }
    weights = {
        "yaw_deg": st.none()
        | st.builds(LighterAbove, at_most=st.floats(0, 90), when_not_measured=when, weight=st.just(0.5)),
        "snr_db": st.none()
        | st.builds(LighterBelow, at_least=st.floats(0, 30), when_not_measured=when, weight=st.just(0.5)),
    }
    return st.builds(
        Policy, name=st.just("p"), drop=st.builds(DropRules, **rules), weigh=st.builds(WeightRules, **weights)
    )


def tighten(policy: Policy, step: float) -> Policy:
    drop = {}
    for name in NAMES:
        rule = getattr(policy.drop, name)
        if isinstance(rule, AtLeast):
            drop[name] = AtLeast(at_least=rule.at_least + step, when_not_measured="drop")
        elif isinstance(rule, AtMost):
            drop[name] = AtMost(at_most=max(rule.at_most - step, 0.0), when_not_measured="drop")
    return policy.model_copy(update={"drop": DropRules(**drop)})


@given(policy_strategy(), scores_strategy)
def test_every_clip_gets_exactly_one_verdict(policy: Policy, scores: dict[str, Score]) -> None:
    verdict = judge(policy, "clip", scores)
    if isinstance(verdict, Quarantined):
        assert verdict.clip_id == "clip"
        assert verdict.measured
        assert verdict.threshold
    else:
        assert 0.0 < verdict <= 1.0
    assert judge(policy, "clip", scores) == verdict


@given(policy_strategy(), scores_strategy, st.floats(0, 1e3))
def test_a_stricter_policy_never_lets_more_pass(policy: Policy, scores: dict[str, Score], step: float) -> None:
    if isinstance(judge(policy, "clip", scores), Quarantined):
        assert isinstance(judge(tighten(policy, step), "clip", scores), Quarantined)


def test_the_first_failing_rule_gives_reason_measurement_and_threshold() -> None:
    policy = Policy(
        name="p",
        drop=DropRules(
            face_px=AtLeast(at_least=256, when_not_measured="drop"),
            duration_s=AtLeast(at_least=2, when_not_measured="drop"),
        ),
    )
    short_and_small = {"face_px": Score(method="box", value=112.4), "duration_s": Score(method="clock", value=1.0)}
    verdict = judge(policy, "c", short_and_small)
    assert isinstance(verdict, Quarantined)
    assert (verdict.reason, verdict.threshold) == (Reason.TOO_SHORT, "at least 2")
    verdict = judge(policy, "c", {**short_and_small, "duration_s": Score(method="clock", value=3.0)})
    assert isinstance(verdict, Quarantined)
    assert (verdict.reason, verdict.measured) == (Reason.FACE_TOO_SMALL, "face_px 112.4 (box)")


def test_offsets_count_by_size_and_nan_never_passes() -> None:
    policy = Policy(name="p", drop=DropRules(sound_offset_ms=AtMost(at_most=100, when_not_measured="pass")))
    for value, passes in ((100.0, True), (-100.0, True), (-101.0, False), (float("nan"), False)):
        verdict = judge(policy, "c", {"sound_offset_ms": Score(method="m", value=value)})
        assert isinstance(verdict, float) is passes


def test_a_score_without_a_value_does_what_the_rule_says() -> None:
    for choice in ("pass", "drop"):
        policy = Policy(name="p", drop=DropRules(occlusion=AtMost(at_most=0.3, when_not_measured=choice)))
        for scores in ({}, {"occlusion": Score(method="mesh")}):
            verdict = judge(policy, "c", scores)
            assert isinstance(verdict, Quarantined) is (choice == "drop")
            if isinstance(verdict, Quarantined):
                assert verdict.reason is Reason.NOT_MEASURED


def test_weights_multiply() -> None:
    policy = Policy(
        name="p",
        weigh=WeightRules(
            yaw_deg=LighterAbove(at_most=45, when_not_measured="pass", weight=0.5),
            snr_db=LighterBelow(at_least=10, when_not_measured="drop", weight=0.4),
        ),
    )
    noisy = {"yaw_deg": Score(method="m", value=-60.0), "snr_db": Score(method="m", value=3.0)}
    assert judge(policy, "c", noisy) == pytest.approx(0.2)
    assert judge(policy, "c", {"snr_db": Score(method="m", value=12.0)}) == 1.0
    assert isinstance(judge(policy, "c", {}), Quarantined)


def test_every_rule_has_its_reason() -> None:
    assert set(REASONS) == set(DropRules.model_fields)
    assert set(WeightRules.model_fields) <= set(REASONS)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_policies_that_ship_load_and_are_named_as_their_file(path: Path) -> None:
    policy = load_policy(str(path))
    assert policy.name == path.stem
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


def test_the_pretraining_policy_needs_no_face_and_no_sound() -> None:
    policy = load_policy("configs/policy/pretrain.yaml")
    assert (
        judge(policy, "c", {"duration_s": Score(method="m", value=5.0), "shot_cuts": Score(method="m", value=0.0)})
        == 1.0
    )


def test_a_policy_without_the_younger_rules_is_written_as_ever() -> None:
    """A snapshot's id hashes its policy: rules that came later must not give old policies another digest."""
    assert digest(Policy(name="p")) == "9aefe026a8ee3cfa1221bd436837ced7"
    default = load_policy("configs/policy/default.yaml")
    younger = [name for name, field in DropRules.model_fields.items() if field.exclude_if is not None]
    without = default.drop.model_copy(update=dict.fromkeys(younger))
    assert digest(default.model_copy(update={"drop": without})) == "b6b93e87517ca76c6d64b7e1b7e639a1"
    asked = Policy(name="p", drop=DropRules(pitch_deg=AtMost(at_most=30, when_not_measured="pass")))
    assert asked.model_dump(mode="json")["drop"]["pitch_deg"] == {"at_most": 30.0, "when_not_measured": "pass"}
    assert digest(asked) != digest(Policy(name="p"))


@pytest.mark.parametrize(
    ("name", "rule", "reason"),
    [
        ("people_share", AtMost(at_most=0.1, when_not_measured="drop"), Reason.MULTIPLE_PEOPLE),
        ("brightness", AtLeast(at_least=70.0, when_not_measured="drop"), Reason.TOO_DARK),
        ("pitch_deg", AtMost(at_most=30.0, when_not_measured="drop"), Reason.TURNED_AWAY),
        ("roll_deg", AtMost(at_most=30.0, when_not_measured="drop"), Reason.TURNED_AWAY),
    ],
)
def test_brightness_company_and_angles_can_be_asked_for(name: str, rule: AtLeast | AtMost, reason: Reason) -> None:
    policy = Policy(name="p", drop=DropRules(**{name: rule}))
    bad, good = (0.5, 0.1) if name == "people_share" else (10.0, 70.0) if name == "brightness" else (45.0, 30.0)
    verdict = judge(policy, "c", {name: Score(method="m", value=bad)})
    assert isinstance(verdict, Quarantined)
    assert verdict.reason is reason
    assert judge(policy, "c", {name: Score(method="m", value=good)}) == 1.0
    assert isinstance(judge(policy, "c", {}), Quarantined)


def test_sync_can_be_asked_to_be_sure() -> None:
    policy = Policy(name="p", drop=DropRules(sync_confidence=AtLeast(at_least=3.0, when_not_measured="pass")))
    assert judge(policy, "c", {"sync_confidence": Score(method="SyncNet v2", value=6.5)}) == 1.0
    verdict = judge(policy, "c", {"sync_confidence": Score(method="SyncNet v2", value=1.2)})
    assert isinstance(verdict, Quarantined)
    assert (verdict.reason, verdict.measured) == (Reason.SYNC_UNSURE, "sync_confidence 1.2 (SyncNet v2)")


def test_what_lacks_says_how_it_was_looked_for() -> None:
    policy = Policy(name="p", drop=DropRules(brightness=AtLeast(at_least=30, when_not_measured="drop")))
    lost, old = (
        judge(policy, "c", {"brightness": Score(method="mode general: no face is looked for")}),
        judge(policy, "c", {}),
    )
    assert isinstance(lost, Quarantined)
    assert isinstance(old, Quarantined)
    assert lost.measured == "brightness could not be measured here (mode general: no face is looked for)"
    assert old.measured == "brightness could not be measured here (no such score is stored)"


FACE_PX = {"hdtf": 256, "celebvhq": 256, "vfhq": 256, "talkvid": 256, "voxceleb2": 96, "mead": 96, "folder": 96}


@pytest.mark.parametrize(("name", "smallest_px"), FACE_PX.items())
def test_each_data_set_asks_for_faces_that_it_has(name: str, smallest_px: int) -> None:
    policy = load_policy(f"configs/policy/{name}.yaml")
    good = {"duration_s": 4.0, "shot_cuts": 0.0, "people": 1.0, "face_px": float(smallest_px), "speech_share": 0.6}
    scores = {score: Score(method="m", value=value) for score, value in {**good, "loudness_db": -25.0}.items()}
    assert judge(policy, "c", scores) == 1.0, "what has no instrument here costs no clip"
    small = judge(policy, "c", {**scores, "face_px": Score(method="m", value=smallest_px - 1.0)})
    assert isinstance(small, Quarantined)
    assert small.reason is Reason.FACE_TOO_SMALL


def test_silent_copies_pass_where_the_set_keeps_its_sound_apart() -> None:
    scores = {"duration_s": 3.0, "shot_cuts": 0.0, "people": 1.0, "face_px": 140.0, "loudness_db": -120.0}
    silent = {name: Score(method="m", value=value) for name, value in {**scores, "speech_share": 0.0}.items()}
    assert judge(load_policy("configs/policy/mead.yaml"), "c", silent) == 1.0
    verdict = judge(load_policy("configs/policy/voxceleb2.yaml"), "c", silent)
    assert isinstance(verdict, Quarantined)
    assert verdict.reason is Reason.NO_SOUND


def test_a_misspelt_rule_is_refused_with_the_right_name() -> None:
    with pytest.raises(ConfigError, match="face_px"):
        validate(Policy, {"name": "p", "drop": {"face_pix": {"at_least": 2}}}, "p.yaml")
    with pytest.raises(ConfigError, match="when_not_measured"):
        validate(Policy, {"name": "p", "drop": {"face_px": {"at_least": 2}}}, "p.yaml")
