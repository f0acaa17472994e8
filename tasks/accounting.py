"""Where every listed clip stands, derived from the ledger and a policy; the numbers add up or the record refuses."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from dualforce_model.config import Frozen
from tasks.duplicates import Likenesses, Twin, duplicates
from tasks.extract import ExtractConfig, FeatureKeys
from tasks.ledger import Ledger, Row
from tasks.policy import Policy, judge
from tasks.records import FailureClass, Quarantined, Reason, Score, Stage, last_line
from tasks.text_notes import KnownTexts, TextFailure

Verdict = Quarantined | float  # a drop with its reason, or the weight of a clip that passes
Outcome = Literal["passed", "quarantined", "failed", "waiting", "done"]


class Fate(Frozen):
    """One clip: how far it came and how it ended.

    `waiting` is a clip that an unfinished run has not reached, `done` one whose crop no policy was asked about.
    """

    clip_id: str
    stage: Stage
    outcome: Outcome
    reason: Reason | FailureClass | None = None
    measured: str = ""
    threshold: str = ""
    thumbnail: str | None = Field(None, description="preview, relative to the media folder")


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


def verdicts(
    ledger: Ledger, dataset: str, policy: Policy, across: "AcrossClips | None" = None
) -> Iterator[tuple[Row, Verdict]]:
    """The policy's verdict on every crop, from the scores stored with it, one at a time.

    Whoever has the policy's `across` gives it: to find duplicates is most of the work.
    """
    known = across or AcrossClips(ledger, dataset, policy)
    for row in ledger.stream(dataset, Stage.CURATE, "done"):
        yield row, judge(policy, row.clip_id, scores_of(row) | known.scores_of(row))


class AcrossClips:
    """Scores that are no clip's own: whether it is a duplicate. They are taken anew whenever a policy asks for them.

    Only clips that the policy lets pass otherwise are compared: what is dropped keeps no other clip out.
    """

    def __init__(self, ledger: Ledger, dataset: str, policy: Policy) -> None:
        self.asked = policy.drop.duplicate is not None
        self.twins = _twins(ledger, dataset, policy) if self.asked else {}

    def scores_of(self, row: Row) -> dict[str, Score]:
        """Of one crop; none where the policy does not ask."""
        if not self.asked:
            return {}
        if not row.value.get("likeness"):
            return {"duplicate": Score(method="none: an older release curated the clip")}
        twin = self.twins.get(row.clip_id)
        if twin is None:
            return {"duplicate": Score(method="pictures and sound", value=0.0)}
        return {"duplicate": Score(method=f"pictures and sound of {twin.of}, alike {twin.alike:.2f}", value=1.0)}


def _twins(ledger: Ledger, dataset: str, policy: Policy) -> dict[str, Twin]:
    """Duplicates among the crops that the policy lets pass otherwise; the first in the list is none."""
    others = policy.model_copy(update={"drop": policy.drop.model_copy(update={"duplicate": None})})
    passing = Likenesses()
    for row in ledger.stream(dataset, Stage.CURATE, "done"):
        if not isinstance(judge(others, row.clip_id, scores_of(row)), Quarantined):
            passing.add(row.clip_id, str(row.value.get("likeness", "")))
    pairs = passing.pairs()
    alike = {clip_id for pair in pairs for group in (pair.first, pair.second) for clip_id in group}
    if not alike:
        return {}
    order = {clip.clip_id: place for place, clip in enumerate(ledger.clips(dataset)) if clip.clip_id in alike}
    return duplicates(pairs, order)


def scores_of(row: Row) -> dict[str, Score]:
    """Scores that curate stored with a crop."""
    return {name: Score.model_validate(score) for name, score in row.value["scores"].items()}


def current_features(rows: Iterable[Row], crops: Mapping[str, str], keys: FeatureKeys) -> Iterator[Row]:
    """Those of the rows that today's extractors made from these crops (clip -> digest); others say nothing any more."""
    for row in rows:
        if row.clip_id in crops and keys.of(row.feature, crops[row.clip_id]) == row.key:
            yield row


def fates(
    ledger: Ledger, dataset: str, policy: Policy, config: ExtractConfig, texts: KnownTexts | None = None
) -> list[Fate]:
    """The fate of every clip, in the order of the list."""
    return list(each_fate(ledger, dataset, policy, config, texts=texts))


def each_fate(
    ledger: Ledger,
    dataset: str,
    policy: Policy,
    config: ExtractConfig,
    crops: "Crops | None" = None,
    texts: KnownTexts | None = None,
) -> Iterator[Fate]:
    """The same one at a time. Of what passed a stage little is held: there may be half a million clips.

    Whoever knows how the crops stand under the policy says so, and they are not judged anew. Given what is known of
    texts, a clip whose caption failed has failed, and one waits whose caption was never encoded.
    """
    listed: list[str] = []
    children: dict[str, list[str]] = {}
    untold: dict[str, TextFailure | None] = {}  # clips whose caption failed, or was never encoded
    for clip in ledger.clips(dataset):
        if texts is not None and ((failure := texts.failure(clip)) is not None or texts.is_due(clip)):
            untold[clip.clip_id] = failure
        if clip.parent_id is None:
            listed.append(clip.clip_id)
        else:
            children.setdefault(clip.parent_id, []).append(clip.clip_id)
    downloads = {
        row.clip_id: None if row.state == "done" else _stored(row.clip_id, Stage.ACQUIRE, row)
        for row in ledger.stream(dataset, Stage.ACQUIRE, values=False)
    }
    known = crops or Crops(ledger, dataset, policy)
    features = _Features(ledger, dataset, config, known)
    for listed_id in listed:
        if listed_id not in downloads:
            yield _stored(listed_id, Stage.ACQUIRE, None)
        elif (ended := downloads[listed_id]) is not None:
            yield ended
        else:
            for clip_id in children.get(listed_id, [listed_id]):
                fate = known.ended.get(clip_id) or features.fate(clip_id)
                yield _untold(fate, untold[clip_id]) if fate.outcome == "passed" and clip_id in untold else fate


def crop_fates(ledger: Ledger, dataset: str, policy: Policy | None = None) -> Iterator[Fate]:
    """The fate of every clip that curate came to, under the policy if there is one, one at a time in no order."""
    across = None if policy is None else AcrossClips(ledger, dataset, policy)
    for row in ledger.stream(dataset, Stage.CURATE):
        if row.state != "done":
            yield _stored(row.clip_id, Stage.CURATE, row)
            continue
        verdict = None
        if policy is not None and across is not None:
            verdict = judge(policy, row.clip_id, scores_of(row) | across.scores_of(row))
        if isinstance(verdict, Quarantined):
            yield _dropped(verdict, row.value.get("thumbnail"))
        else:
            outcome: Outcome = "done" if verdict is None else "passed"
            yield Fate(clip_id=row.clip_id, stage=Stage.CURATE, outcome=outcome, thumbnail=row.value.get("thumbnail"))


class Crops:
    """How the crops of a data set stand: the fates of those that end there, and what features need of the others."""

    def __init__(self, ledger: Ledger, dataset: str, policy: Policy, across: AcrossClips | None = None) -> None:
        self.dropped: set[str] = set()  # by the policy
        self.passing: dict[str, tuple[str, str | None]] = {}  # clip -> digest and thumbnail of its crop
        self.ended = {
            row.clip_id: _stored(row.clip_id, Stage.CURATE, row)
            for state in ("impossible", "failed")
            for row in ledger.stream(dataset, Stage.CURATE, state)
        }
        for row, verdict in verdicts(ledger, dataset, policy, across):
            thumbnail = row.value.get("thumbnail")
            if isinstance(verdict, Quarantined):
                self.dropped.add(row.clip_id)
                self.ended[row.clip_id] = _dropped(verdict, thumbnail)
            else:
                self.passing[row.clip_id] = (str(row.value["digest"]), thumbnail)


class _Features:
    """How the features of the crops that pass stand."""

    def __init__(self, ledger: Ledger, dataset: str, config: ExtractConfig, crops: Crops) -> None:
        self.crops = crops
        self.complete = len(config.modalities)
        self.done: Counter[str] = Counter()  # features there are, by clip
        # clip -> whether it is no failure, and the name, of the feature that decides; its fate
        self.broken: dict[str, tuple[tuple[bool, str], Fate]] = {}
        digests = {clip_id: crop_digest for clip_id, (crop_digest, _) in crops.passing.items()}
        for row in current_features(ledger.stream(dataset, Stage.EXTRACT, values=False), digests, FeatureKeys(config)):
            if row.state == "done":
                self.done[row.clip_id] += 1
                continue
            place = (row.state != "failed", row.feature)  # a failure decides, as in the stage's own counts
            if row.clip_id not in self.broken or place < self.broken[row.clip_id][0]:
                self.broken[row.clip_id] = (place, _stored(row.clip_id, Stage.EXTRACT, row))

    def fate(self, clip_id: str) -> Fate:
        """Fate of a clip whose video is there and whose crop passes, or is not there yet."""
        if clip_id not in self.crops.passing:
            return _stored(clip_id, Stage.CURATE, None)
        _, thumbnail = self.crops.passing[clip_id]
        if clip_id in self.broken:
            return self.broken[clip_id][1].model_copy(update={"thumbnail": thumbnail})
        outcome: Outcome = "passed" if self.done[clip_id] >= self.complete else "waiting"
        return Fate(clip_id=clip_id, stage=Stage.EXTRACT, outcome=outcome, thumbnail=thumbnail)


def _dropped(verdict: Quarantined, thumbnail: str | None) -> Fate:
    """Fate of a crop that the policy leaves out."""
    return Fate(
        clip_id=verdict.clip_id,
        stage=verdict.stage,
        outcome="quarantined",
        reason=verdict.reason,
        measured=verdict.measured,
        threshold=verdict.threshold,
        thumbnail=thumbnail,
    )


def _untold(fate: Fate, failure: TextFailure | None) -> Fate:
    """Fate of a clip that has all but the text of its caption."""
    if failure is None:
        return fate.model_copy(update={"outcome": "waiting"})
    return fate.model_copy(
        update={"outcome": "failed", "reason": failure.failure, "measured": f"caption {failure.line()}"}
    )


def _stored(clip_id: str, stage: Stage, row: Row | None) -> Fate:
    """Fate that a ledger row states by itself."""
    if row is None:
        return Fate(clip_id=clip_id, stage=stage, outcome="waiting")
    if row.state == "impossible":
        shown = row.value.get("thumbnail")
        return Fate(
            clip_id=clip_id,
            stage=stage,
            outcome="quarantined",
            reason=row.reason,
            measured=row.detail,
            thumbnail=shown,
        )
    said = last_line(row.detail, row.failure)
    return Fate(clip_id=clip_id, stage=stage, outcome="failed", reason=row.failure, measured=said)


def account(all_fates: Iterable[Fate]) -> Account:
    """Counts of fates."""
    outcomes: Counter[Outcome] = Counter()
    reasons: dict[Outcome, Counter[str]] = {"quarantined": Counter(), "failed": Counter()}
    for fate in all_fates:
        outcomes[fate.outcome] += 1
        if fate.outcome in reasons:
            reasons[fate.outcome][str(fate.reason)] += 1
    return Account(
        listed=outcomes.total(),
        passed=outcomes["passed"],
        quarantined=dict(sorted(reasons["quarantined"].items())),
        failed=dict(sorted(reasons["failed"].items())),
        waiting=outcomes["waiting"],
    )
