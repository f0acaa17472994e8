"""Why what is there is stale, as far as rows tell: a key alone says that something changed, not what.

    for part in plan_parts(work, ledger, planned):
        part.text()        # "audio     35666 changed: another encoder, weights or settings"

Features carry the fingerprint of what made them. Crops and downloads carry less: of these times and sizes are compared.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from dualforce_model.config import digest_after
from dualforce_model.stamp import Stamp
from tasks.acquiring import AcquireWork, stamp_of_download
from tasks.curating import CurateWork
from tasks.extract import wanted_features
from tasks.extracting import ExtractWork
from tasks.fetch import local_path
from tasks.ledger import Ledger, Row
from tasks.planning import GROUPS, Plan, PlanPart
from tasks.records import Impossible, Stage
from tasks.sources import LOCAL
from tasks.work import Work

LOOKED_AT = 2000  # of what is changed of a feature: the values of a large data set's rows are gigabytes

ANOTHER_ENCODER = "another encoder, weights or settings"
ANOTHER_CROP = "another crop (detector, settings or download)"
BOTH = "another encoder, weights or settings, and another crop"
TRIED = "failed or refused when tried with another encoder, settings or crop"
FETCHED_SINCE = "a video downloaded or read again since, perhaps other settings too"
OTHER_SETTINGS = "another detector or other settings"
OTHER_SETTINGS_OR_HINTS = "another detector, other settings, or another crop or frames in the list"
ANOTHER_SIZE = "a file of another size"
ANOTHER_TIME = "a file of another time (read again; crops stay if its bytes are the same)"
ANOTHER_FILE = "a file that changed since it was refused or failed"
UNREADABLE = "a file that cannot be looked at now"
ANOTHER_VIDEO = "another video in the list"


def plan_parts(work: Work, ledger: Ledger, planned: Plan) -> tuple[PlanPart, ...]:
    """A stage's plan by feature, and why what is changed is, from the first LOOKED_AT of each."""
    numbers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    changed: defaultdict[str, list[str]] = defaultdict(list)
    for group in GROUPS:
        for name in getattr(planned, group):
            clip_id, _, feature = name.partition("/")
            numbers[feature][group] += 1
            if group == "changed" and len(changed[feature]) < LOOKED_AT:
                changed[feature].append(clip_id)
    parts = []
    for feature, counts in sorted(numbers.items()):
        rows = [
            row
            for row in ledger.rows_of(work.place.dataset, work.stage, changed[feature])
            if row.feature == feature  # those of a clip's other features come along
        ]
        reasons = Counter(_reasons(work, ledger, feature, rows))
        often_first = dict(sorted(reasons.items(), key=lambda each: (-each[1], each[0])))
        parts.append(PlanPart(feature=feature, numbers=counts, changed_for=often_first, looked_at=len(rows)))
    return tuple(parts)


def _reasons(work: Work, ledger: Ledger, feature: str, rows: Sequence[Row]) -> Iterator[str]:
    """Why each of these rows of a stage has another key than is wanted now."""
    if isinstance(work, AcquireWork):
        return (_of_video(work, row) for row in rows)
    if isinstance(work, CurateWork):
        return _of_crops(work, ledger, rows)
    assert isinstance(work, ExtractWork), f"{work.stage} is no stage that is planned"
    return _of_features(work, feature, rows)


def _of_video(work: AcquireWork, row: Row) -> str:
    """Of a local video size and time are in the key, of any other only which video it is."""
    clip = work.clips[row.clip_id]
    if clip.source not in LOCAL:
        return ANOTHER_VIDEO
    try:
        now = Stamp.of(local_path(clip.location))
    except (Impossible, OSError):
        return UNREADABLE
    if row.state != "done":
        return ANOTHER_FILE
    read = stamp_of_download(row)
    if read.num_bytes != now.num_bytes:
        return ANOTHER_SIZE
    return ANOTHER_TIME if read != now else ANOTHER_VIDEO


def _of_crops(work: CurateWork, ledger: Ledger, rows: Sequence[Row]) -> Iterator[str]:
    """A crop does not say of which bytes it was made: whether its video came after it tells most of it."""
    clips = {row.clip_id: work.clips[row.clip_id] for row in rows}
    listed = {clip.parent_id or clip.clip_id for clip in clips.values()}
    fetched = {row.clip_id: row.updated_at for row in ledger.rows_of(work.place.dataset, Stage.ACQUIRE, listed)}
    for row in rows:
        clip = clips[row.clip_id]
        if fetched.get(clip.parent_id or clip.clip_id, 0.0) > row.updated_at:
            yield FETCHED_SINCE
        else:
            yield OTHER_SETTINGS if clip.frames is None and clip.crop is None else OTHER_SETTINGS_OR_HINTS


def _of_features(work: ExtractWork, feature: str, rows: Sequence[Row]) -> Iterator[str]:
    """The key under what made the feature then, and the crop of now, is the row's own where only the encoder changed.

    A row without a feature does not say what it was tried with; what made those of other clips may fit.
    """
    now = {str(name): fingerprint for name, (_, fingerprint) in wanted_features(work.config, "").items()}[feature]
    made_by = {row.clip_id: str(row.value["ref"]["fingerprint"]) for row in rows if row.state == "done"}
    earlier = {then: digest_after("feature", then) for then in made_by.values() if then != now}
    for row in rows:
        crop, then = work.crops[row.clip_id].digest, made_by.get(row.clip_id)
        if then == now:
            yield ANOTHER_CROP
        elif then is None:
            yield ANOTHER_ENCODER if any(key(crop, []) == row.key for key in earlier.values()) else TRIED
        else:
            yield ANOTHER_ENCODER if earlier[then](crop, []) == row.key else BOTH
