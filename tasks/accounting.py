"""Where every listed clip stands, derived from the ledger and a policy; the numbers add up or the record refuses."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from dualforce_model.config import Frozen
from tasks.extract import ExtractConfig, feature_key, make_extractors
from tasks.ledger import Ledger, Row
from tasks.policy import Policy, judge
from tasks.records import FailureClass, Quarantined, Reason, Score, Stage, Temporary

TOLD = f"{Temporary.__module__}.{Temporary.__qualname__}: "  # how a traceback ends whose error says it all itself
Verdict = Quarantined | float  # a drop with its reason, or the weight of a clip that passes
Outcome = Literal["passed", "quarantined", "failed", "waiting"]


class Fate(Frozen):
    """One clip: how far it came and how it ended. `waiting` is a clip that an unfinished run has not reached."""

    clip_id: str
    stage: Stage
    outcome: Outcome
    reason: Reason | FailureClass | None = None
    measured: str = ""
    threshold: str = ""
    thumbnail: str | None = Field(None, description="strip of pictures, relative to the media folder")


class Account(Frozen):
    """Counts of fates in units of clips; a listed span that never became training clips counts as one."""

    listed: int = Field(ge=0)
    passed: int = Field(ge=0)
    quarantined: dict[str, int] = {}
    failed: dict[str, int] = {}
    waiting: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.passed + sum(self.quarantined.values()) + sum(self.failed.values()) + self.waiting
        if total != self.listed:
            raise ValueError(f"{self.listed} clips are listed but {total} are accounted for")
        return self


def crop_verdicts(ledger: Ledger, dataset: str, policy: Policy) -> dict[str, tuple[Row, Verdict]]:
    """The policy's verdict on every crop, from the scores stored with it."""
    return {
        row.clip_id: (row, judge(policy, row.clip_id, scores_of(row)))
        for row in ledger.rows(dataset, stage=Stage.CURATE, state="done")
    }


def scores_of(row: Row) -> dict[str, Score]:
    """Scores that curate stored with a crop."""
    return {name: Score.model_validate(score) for name, score in row.value["scores"].items()}


def current_features(ledger: Ledger, dataset: str, config: ExtractConfig) -> dict[str, list[Row]]:
    """Extract rows made from today's crops by today's extractors, by clip; older ones say nothing any more."""
    crops = {row.clip_id: row for row in ledger.rows(dataset, stage=Stage.CURATE, state="done")}
    extractors = {str(modality): extractor for modality, extractor in make_extractors(config).items()}
    current: dict[str, list[Row]] = {}
    for row in ledger.rows(dataset, stage=Stage.EXTRACT):
        crop, extractor = crops.get(row.clip_id), extractors.get(row.feature)
        if crop is not None and extractor is not None and row.key == feature_key(extractor, str(crop.value["digest"])):
            current.setdefault(row.clip_id, []).append(row)
    return current


def fates(ledger: Ledger, dataset: str, policy: Policy, config: ExtractConfig) -> list[Fate]:
    """The fate of every clip, in the order of the list."""
    clips = list(ledger.clips(dataset))
    acquired = {row.clip_id: row for row in ledger.rows(dataset, stage=Stage.ACQUIRE)}
    curated = {row.clip_id: row for row in ledger.rows(dataset, stage=Stage.CURATE)}
    verdicts = crop_verdicts(ledger, dataset, policy)
    extracted = current_features(ledger, dataset, config)
    complete = len(config.modalities)
    children: dict[str, list[str]] = {}
    for clip in clips:
        if clip.parent_id is not None:
            children.setdefault(clip.parent_id, []).append(clip.clip_id)
    result: list[Fate] = []
    for listed in (clip for clip in clips if clip.parent_id is None):
        download = acquired.get(listed.clip_id)
        if download is None or download.state != "done":
            result.append(_stored(listed.clip_id, Stage.ACQUIRE, download))
            continue
        for clip_id in children.get(listed.clip_id, [listed.clip_id]):
            features = extracted.get(clip_id, [])
            result.append(_fate(clip_id, curated.get(clip_id), verdicts.get(clip_id), features, complete))
    return result


def _fate(
    clip_id: str, crop: Row | None, verdict: tuple[Row, Verdict] | None, features: list[Row], complete: int
) -> Fate:
    """Fate of a clip whose video is there."""
    if crop is None or verdict is None:
        return _stored(clip_id, Stage.CURATE, crop)
    thumbnail = crop.value.get("thumbnail")
    judged = verdict[1]
    if isinstance(judged, Quarantined):
        return Fate(
            clip_id=clip_id,
            stage=judged.stage,
            outcome="quarantined",
            reason=judged.reason,
            measured=judged.measured,
            threshold=judged.threshold,
            thumbnail=thumbnail,
        )
    broken = next((row for row in features if row.state != "done"), None)
    if broken is not None or len(features) < complete:
        return _stored(clip_id, Stage.EXTRACT, broken).model_copy(update={"thumbnail": thumbnail})
    return Fate(clip_id=clip_id, stage=Stage.EXTRACT, outcome="passed", thumbnail=thumbnail)


def _stored(clip_id: str, stage: Stage, row: Row | None) -> Fate:
    """Fate that a ledger row states by itself."""
    if row is None:
        return Fate(clip_id=clip_id, stage=stage, outcome="waiting")
    if row.state == "impossible":
        return Fate(clip_id=clip_id, stage=stage, outcome="quarantined", reason=row.reason, measured=row.detail)
    last_line = row.detail.strip().splitlines()[-1] if row.detail.strip() else ""
    said = last_line.removeprefix(TOLD).removeprefix(f"{row.failure}: ") if last_line.startswith(TOLD) else last_line
    return Fate(clip_id=clip_id, stage=stage, outcome="failed", reason=row.failure, measured=said)


def account(all_fates: list[Fate]) -> Account:
    """Counts of fates."""
    return Account(
        listed=len(all_fates),
        passed=sum(fate.outcome == "passed" for fate in all_fates),
        quarantined=_by_reason(all_fates, "quarantined"),
        failed=_by_reason(all_fates, "failed"),
        waiting=sum(fate.outcome == "waiting" for fate in all_fates),
    )


def _by_reason(all_fates: list[Fate], outcome: Outcome) -> dict[str, int]:
    counts: Mapping[str, int] = Counter(str(fate.reason) for fate in all_fates if fate.outcome == outcome)
    return dict(sorted(counts.items()))
