"""Policies: what of a data set is used, and how often. A pure function of stored scores.

The same `judge` runs before extract (nothing is encoded in vain) and when a snapshot is built. Nothing it decides is
stored with the clip and nothing is deleted: another policy re-decides without decoding.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, FiniteFloat

from dualforce_model.config import Frozen, load_config, shipped
from tasks.records import Quarantined, Reason, Score, Stage

WhenNotMeasured = Literal["pass", "drop"]

# Score -> why a clip that fails its rule is left out. Rules are judged in the order of the fields below.
REASONS: dict[str, Reason] = {
    "duration_s": Reason.TOO_SHORT,
    "shot_cuts": Reason.SHOT_CUT,
    "people": Reason.MULTIPLE_PEOPLE,
    "people_share": Reason.MULTIPLE_PEOPLE,
    "face_px": Reason.FACE_TOO_SMALL,
    "occlusion": Reason.OCCLUDED,
    "loudness_db": Reason.NO_SOUND,
    "speech_share": Reason.NO_SPEECH,
    "sound_offset_ms": Reason.SOUND_OFFSET,
    "sync_confidence": Reason.SYNC_UNSURE,
    "sharpness": Reason.BLURRED,
    "brightness": Reason.TOO_DARK,
    "yaw_deg": Reason.TURNED_AWAY,
    "pitch_deg": Reason.TURNED_AWAY,
    "roll_deg": Reason.TURNED_AWAY,
    "snr_db": Reason.NOISY,
    "lip_motion": Reason.LIPS_STILL,
    "identity": Reason.SEVERAL_IDENTITIES,
    "duplicate": Reason.DUPLICATE,
}

ACROSS_CLIPS = frozenset({"duplicate"})  # scores that are no clip's own and not stored: `tasks.accounting` takes them


class _Rule(Frozen):
    when_not_measured: WhenNotMeasured = Field(description="what happens to a clip whose score has no value")


class AtLeast(_Rule):
    """Clips below are dropped."""

    at_least: FiniteFloat = Field(description="smallest value that passes")

    def allows(self, value: float) -> bool:
        """Whether the value passes; NaN does not."""
        return value >= self.at_least

    def __str__(self) -> str:
        return f"at least {self.at_least:g}"


class AtMost(_Rule):
    """Clips above are dropped. The size counts, not the sign: -150 ms of offset is as bad as 150."""

    at_most: FiniteFloat = Field(ge=0.0, description="largest absolute value that passes")

    def allows(self, value: float) -> bool:
        """Whether the value passes; NaN does not."""
        return abs(value) <= self.at_most

    def __str__(self) -> str:
        return f"at most {self.at_most:g}"


class LighterBelow(AtLeast):
    """Clips below stay, but are drawn less often."""

    weight: float = Field(gt=0.0, lt=1.0, description="factor on the weight of a clip below")


class LighterAbove(AtMost):
    """Clips above (in size) stay, but are drawn less often."""

    weight: float = Field(gt=0.0, lt=1.0, description="factor on the weight of a clip above")


def _younger(description: str) -> Any:
    """A rule younger than the first snapshots: unset it is left out, for a snapshot's id hashes its policy."""
    return Field(None, exclude_if=lambda rule: rule is None, description=description)


class DropRules(Frozen):
    """A rule per score, judged in this order; the first that fails gives the reason. None: the score is not asked."""

    duration_s: AtLeast | None = Field(None, description="length of the clip, s")
    shot_cuts: AtMost | None = Field(None, description="cuts inside the clip")
    people: AtMost | None = Field(None, description="most faces seen at once")
    people_share: AtMost | None = _younger("share of the looks with more than one face, 0 to 1")
    face_px: AtLeast | None = Field(None, description="median height of the face's box, pixels of the source")
    occlusion: AtMost | None = Field(None, description="share of the face that is hidden, 0 to 1")
    loudness_db: AtLeast | None = Field(None, description="level of the sound, dB of full scale")
    speech_share: AtLeast | None = Field(None, description="share of the time with speech, 0 to 1")
    sound_offset_ms: AtMost | None = Field(None, description="sound against picture, ms")
    sync_confidence: AtLeast | None = _younger("how surely the sound is the lips'; each method has its own scale")
    sharpness: AtLeast | None = Field(None, description="sharpness of the face; larger is sharper")
    brightness: AtLeast | None = _younger("median luma of the face, 0 to 255")
    yaw_deg: AtMost | None = Field(None, description="how far the head is turned, degrees")
    pitch_deg: AtMost | None = _younger("how far the head looks up or down, degrees")
    roll_deg: AtMost | None = _younger("how far the head is tilted in the picture, degrees")
    snr_db: AtLeast | None = Field(None, description="speech over noise, dB")
    lip_motion: AtLeast | None = Field(None, description="how much the lips move with the sound")
    identity: AtLeast | None = _younger("how alike the main face stays to itself, cosine")
    duplicate: AtMost | None = _younger("1 where the clip is the same as an earlier one that passes, else 0")


class WeightRules(Frozen):
    """Rules that make a clip rarer instead of dropping it; factors multiply."""

    people_share: LighterAbove | None = _younger("share of the looks with more than one face, 0 to 1")
    sharpness: LighterBelow | None = Field(None, description="sharpness of the face; larger is sharper")
    brightness: LighterBelow | None = _younger("median luma of the face, 0 to 255")
    yaw_deg: LighterAbove | None = Field(None, description="how far the head is turned, degrees")
    pitch_deg: LighterAbove | None = _younger("how far the head looks up or down, degrees")
    roll_deg: LighterAbove | None = _younger("how far the head is tilted in the picture, degrees")
    snr_db: LighterBelow | None = Field(None, description="speech over noise, dB")
    lip_motion: LighterBelow | None = Field(None, description="how much the lips move with the sound")


class Policy(Frozen):
    """What passes and how much it weighs; one YAML file under configs/policy."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", description="shown beside every number made with it")
    drop: DropRules = Field(default_factory=DropRules, description="clips that fail one of these are left out")
    weigh: WeightRules = Field(default_factory=WeightRules, description="clips that fail one of these weigh less")


def judge(policy: Policy, clip_id: str, scores: Mapping[str, Score]) -> Quarantined | float:
    """The clip's weight in (0, 1], or why it is left out: the first rule that fails, drop rules before weight rules."""
    for name, rule in _rules(policy.drop):
        score = scores.get(name)
        if score is None or score.value is None:
            if rule.when_not_measured == "drop":
                return _not_measured(clip_id, name, score)
        elif not rule.allows(score.value):
            measured = f"{name} {score.value:.4g} ({score.method})"
            return Quarantined(
                clip_id=clip_id, stage=Stage.CURATE, reason=REASONS[name], measured=measured, threshold=str(rule)
            )
    weight = 1.0
    for name, rule in _rules(policy.weigh):
        assert isinstance(rule, LighterBelow | LighterAbove)
        score = scores.get(name)
        if score is None or score.value is None:
            if rule.when_not_measured == "drop":
                return _not_measured(clip_id, name, score)
        elif not rule.allows(score.value):
            weight *= rule.weight
    return weight


def _rules(group: DropRules | WeightRules) -> list[tuple[str, AtLeast | AtMost]]:
    """Rules that are set, in the fixed order of the fields."""
    found = ((name, getattr(group, name)) for name in type(group).model_fields)
    return [(name, rule) for name, rule in found if rule is not None]


def _not_measured(clip_id: str, name: str, score: Score | None) -> Quarantined:
    how = score.method if score is not None else "no such score is stored"
    return Quarantined(
        clip_id=clip_id,
        stage=Stage.CURATE,
        reason=Reason.NOT_MEASURED,
        measured=f"{name} could not be measured here ({how})",
        threshold="when_not_measured: drop",
    )


def undecidable(policy: Policy, unmeasured: Mapping[str, str]) -> dict[str, str]:
    """Rules that would drop every clip, because nobody can measure their score: score -> what measuring it takes."""
    rules = [*_rules(policy.drop), *_rules(policy.weigh)]
    return {name: unmeasured[name] for name, rule in rules if rule.when_not_measured == "drop" and name in unmeasured}


def load_policy(path: str) -> Policy:
    """A policy by the path of its YAML file; those that ship are found from any folder."""
    return load_config(Policy, shipped(path))
