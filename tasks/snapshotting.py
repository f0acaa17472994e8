"""Snapshots as people and flows ask for them: built from the ledger, listed, shown, compared, verified, cleaned up."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from pydantic import Field

from dualforce_model.captions import caption_digest
from dualforce_model.config import Frozen
from dualforce_model.schema import SNAPSHOT_ID, FeatureRef, SchemaError, Snapshot, head_key, load_snapshot
from dualforce_model.shards import DamagedShardError
from dualforce_model.storage import CutShortError, MissingKeyError, Storage
from tasks.accounting import AcrossClips, Crops, current_features, each_fate, scores_of
from tasks.extract import ExtractConfig, FeatureKeys, make_extractors
from tasks.extractors.structure import layouts_of
from tasks.ledger import Ledger
from tasks.place import Place
from tasks.policy import Policy, load_policy
from tasks.records import Clip, Stage
from tasks.snapshot import (
    SnapshotCandidate,
    SnapshotError,
    SplitConfig,
    build_snapshot,
    diff_snapshots,
    list_ids,
    list_tags,
    tag_snapshot,
)
from tasks.tables import table
from tasks.text_notes import KnownTexts, known_texts
from tasks.upkeep import collect_garbage, verify_snapshot

AT_ONCE = 1000  # clips of which all is held that the ledger knows


class SnapshotConfig(Frozen):
    """How a run's snapshot is named and split."""

    tag: str = Field("latest", max_length=80, description="tag that points to the run's newest version")
    split: SplitConfig = SplitConfig()


class SnapshotView(Frozen):
    """One version."""

    snapshot: Snapshot
    tags: tuple[str, ...] = ()
    written: bool = Field(False, description="whether this call wrote it; otherwise it was there already")

    def line(self) -> str:
        """One line."""
        tags = f" ({', '.join(self.tags)})" if self.tags else ""
        quarantined, failed = sum(self.snapshot.quarantined.values()), sum(self.snapshot.failed.values())
        counts = f"{self.snapshot.num_rows} clips, {quarantined} quarantined, {failed} failed"
        return f"{self.snapshot.id}{tags}  {self.snapshot.created_at}  {counts}"

    def text(self) -> str:
        """Everything a person asks of it."""
        found = self.snapshot
        rows = [("clips", found.num_rows), ("frames", found.num_frames)]
        rows += [(f"split {name}", count) for name, count in found.splits.items()]
        rows += [(f"quarantined: {reason}", count) for reason, count in found.quarantined.items()]
        rows += [(f"failed: {failure}", count) for failure, count in found.failed.items()]
        shapes = []
        for modality, info in found.modalities.items():
            tensors = ", ".join(f"{name} {list(shape)}" for name, shape in info.tensors.items())
            layout = f", layout {info.layout.name} version {info.layout.version}" if info.layout is not None else ""
            shapes.append(f"{modality}: {tensors} by {info.fingerprint}{layout}")
        if found.text is not None:
            shapes.append(f"text: tokens {list(found.text.tensors['tokens'])} by {found.text.fingerprint}")
        head = [
            self.line(),
            f"data set {found.dataset}, policy {found.policy.get('name')}, content {found.content[:16]}",
        ]
        return "\n".join([*head, f"parent {found.parent or 'none'}", table(("what", "count"), rows), *shapes])


class DamagedSnapshot(Frozen):
    """A version whose head cannot be read: what it holds is not known."""

    id: str = Field(description="as its folder is named")
    tags: tuple[str, ...] = ()
    reason: str

    def line(self) -> str:
        """One line."""
        tags = f" ({', '.join(self.tags)})" if self.tags else ""
        return f"{self.id}{tags}  damaged: {' '.join(self.reason.split())}"


class SnapshotList(Frozen):
    """All versions of a store, newest first, and those that are damaged."""

    snapshots: tuple[SnapshotView, ...]
    damaged: tuple[DamagedSnapshot, ...] = ()

    def lines(self) -> Iterator[str]:
        """One line each, the damaged ones last."""
        yield from (view.line() for view in self.snapshots)
        yield from (version.line() for version in self.damaged)

    def text(self) -> str:
        """For people."""
        return "\n".join(self.lines()) or "this store holds no snapshot yet"


class Difference(Frozen):
    """What changed from one version to another."""

    old: str
    new: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, tuple[str, ...]]
    policy_changed: bool

    def text(self) -> str:
        """For people: one line a clip, after the sums."""
        sums = f"{len(self.added)} added, {len(self.removed)} removed, {len(self.changed)} changed"
        lines = [f"{self.old} -> {self.new}: {sums}" + (", another policy" if self.policy_changed else "")]
        lines += [f"+ {clip_id}" for clip_id in self.added] + [f"- {clip_id}" for clip_id in self.removed]
        return "\n".join(lines + [f"~ {clip_id}: {', '.join(what)}" for clip_id, what in self.changed.items()])


class Verified(Frozen):
    """What reading every byte found."""

    snapshot: str
    shards: int
    num_bytes: int
    problems: tuple[str, ...]

    def text(self) -> str:
        """For people."""
        found = f"{self.snapshot}: {self.shards} shards, {self.num_bytes / 1e6:.1f} MB read"
        return "\n".join(
            [f"{found}, {'sound' if not self.problems else f'{len(self.problems)} problems'}", *self.problems]
        )


class Collected(Frozen):
    """What nothing names any more."""

    keys: tuple[str, ...]
    num_bytes: int
    deleted: bool

    def text(self) -> str:
        """For people."""
        verb = "deleted" if self.deleted else "would delete (say --delete to do it)"
        return "\n".join([f"{verb}: {len(self.keys)} files, {self.num_bytes / 1e6:.1f} MB", *self.keys])


def build_from_ledger(
    place: Place,
    policy_path: str,
    extract: ExtractConfig,
    config: SnapshotConfig,
    across: AcrossClips | None = None,
) -> SnapshotView:
    """Judge what the ledger knows by the policy and build a version; the same input finds the same version.

    Whoever has this policy's `across`, and nothing was curated since, gives it: to find duplicates takes long.
    """
    policy, dataset = load_policy(policy_path), place.dataset
    extractors = make_extractors(extract)
    with Ledger(place.ledger_url, missing="refuse") as ledger:
        known = across or AcrossClips(ledger, dataset, policy)
        texts = known_texts(place, extract)
        quarantined, failed, untold = _left_out(ledger, dataset, policy, extract, known, texts)
        try:
            built = build_snapshot(
                Storage(place.store_url),
                candidates(ledger, dataset, extract, known, texts, untold),
                policy,
                dataset,
                tag=config.tag,
                split=config.split,
                quarantined=quarantined,
                failed=failed,
                encoders={str(name): each.encoder_fingerprint for name, each in extractors.items()},
                layouts=layouts_of(extractors),
            )
        except (MissingKeyError, CutShortError, DamagedShardError) as error:
            remedy = f"`dualforce rerun --damaged --out {place.home}` makes it again"
            found = f"features that the ledger calls done are gone or damaged: {error}"
            raise SnapshotError(f"{found}; {remedy}") from error
    return SnapshotView(snapshot=built.snapshot, tags=(config.tag,), written=built.written)


def _left_out(
    ledger: Ledger,
    dataset: str,
    policy: Policy,
    extract: ExtractConfig,
    across: AcrossClips,
    texts: KnownTexts | None,
) -> tuple[Counter[str], Counter[str], set[str]]:
    """Clips that are no candidates: quarantined ones by reason, failed ones by class, and the ids of these.

    Those that the policy drops are not among the first: the build counts them.
    """
    crops = Crops(ledger, dataset, policy, across)
    quarantined, failed, clip_ids = Counter[str](), Counter[str](), set[str]()
    for fate in each_fate(ledger, dataset, policy, extract, crops, texts):
        if fate.outcome == "failed":
            failed[str(fate.reason)] += 1
            clip_ids.add(fate.clip_id)
        elif fate.outcome == "quarantined" and fate.clip_id not in crops.dropped:
            quarantined[str(fate.reason)] += 1
    return quarantined, failed, clip_ids


def candidates(
    ledger: Ledger,
    dataset: str,
    extract: ExtractConfig,
    across: AcrossClips,
    texts: KnownTexts | None = None,
    failed: Collection[str] = (),
) -> Iterator[SnapshotCandidate]:
    """Every clip with a crop, except those of which a feature, a new download or the caption failed (`failed` names
    these): counted, not offered.

    They come in the order of the list, and of a few at a time is held what the ledger knows.
    """
    keys, clips = FeatureKeys(extract), ledger.clips(dataset)
    while some := list(islice(clips, AT_ONCE)):
        for candidate in _of_some(ledger, dataset, keys, across, some):
            if candidate.clip.clip_id in failed:
                continue
            yield candidate if texts is None else candidate.model_copy(update={"text": texts.said(candidate.clip)})


def _of_some(
    ledger: Ledger, dataset: str, keys: FeatureKeys, across: AcrossClips, clips: Sequence[Clip]
) -> Iterator[SnapshotCandidate]:
    """Candidates among these clips."""
    clip_ids = [clip.clip_id for clip in clips]
    crops = {row.clip_id: row for row in ledger.rows_of(dataset, Stage.CURATE, clip_ids) if row.state == "done"}
    digests = {clip_id: str(row.value["digest"]) for clip_id, row in crops.items()}
    features: dict[str, dict[str, FeatureRef]] = {}
    broken: set[str] = set()
    for row in current_features(ledger.rows_of(dataset, Stage.EXTRACT, crops), digests, keys):
        if row.state == "done":
            features.setdefault(row.clip_id, {})[row.feature] = FeatureRef.model_validate(row.value["ref"])
        else:
            broken.add(row.clip_id)
    listed = dict.fromkeys(clip.parent_id or clip.clip_id for clip in clips)  # pieces of one follow each other
    downloads = {row.clip_id: row for row in ledger.rows_of(dataset, Stage.ACQUIRE, listed) if row.state == "done"}
    for clip in clips:
        crop, download = crops.get(clip.clip_id), downloads.get(clip.parent_id or clip.clip_id)
        if crop is None or download is None or clip.clip_id in broken:
            continue
        yield SnapshotCandidate(
            clip=clip,
            media_digest=str(download.value["digest"]),
            num_frames=int(crop.value["num_frames"]),
            scores=scores_of(crop) | across.scores_of(crop),
            features=features.get(clip.clip_id, {}),
        )


def listing(store: str, *, required: bool = True) -> SnapshotList:
    """All versions of a store; one that must be there, unless a run that may not have made it yet is asking.

    A damaged head hides no other version: it is listed with the reason.
    """
    held = Storage(store)
    tags = list_tags(held.require() if required else held)
    views, damaged = list[SnapshotView](), list[DamagedSnapshot]()
    for name in list_ids(held):
        named = _names(tags, name)
        try:
            views.append(SnapshotView(snapshot=_of_folder(held, name), tags=named))
        except SchemaError as error:
            damaged.append(DamagedSnapshot(id=name, tags=named, reason=str(error)))
    views.sort(key=lambda view: (view.snapshot.created_at, view.snapshot.id), reverse=True)
    return SnapshotList(snapshots=tuple(views), damaged=tuple(damaged))


def _of_folder(store: Storage, name: str) -> Snapshot:
    """Head in a folder. Raises SchemaError also for a folder whose name is not an id: it could be taken for a tag."""
    if not re.fullmatch(SNAPSHOT_ID, name):
        raise SchemaError(f"{store.url(head_key(name))}: expected a folder named by an id of 16 hex digits; remove it")
    return load_snapshot(store, name)


def _names(tags: dict[str, str], snapshot_id: str) -> tuple[str, ...]:
    return tuple(tag for tag, target in tags.items() if target == snapshot_id)


def shown(store: str, name: str) -> SnapshotView:
    """One version with its tags."""
    held = Storage(store).require()
    snapshot = load_snapshot(held, name)
    return SnapshotView(snapshot=snapshot, tags=_names(list_tags(held), snapshot.id))


def difference(store: str, old: str, new: str) -> Difference:
    """What changed from one version to another."""
    found = diff_snapshots(Storage(store).require(), old, new)
    return Difference(
        old=found.old.id,
        new=found.new.id,
        added=found.added,
        removed=found.removed,
        changed=found.changed,
        policy_changed=found.policy_changed,
    )


def point_tag(store: str, name: str, tag: str) -> str:
    """Point a tag to a version; its id."""
    return tag_snapshot(Storage(store).require(), name, tag).id


def verified(store: str, name: str) -> Verified:
    """Read every byte of a version."""
    found = verify_snapshot(Storage(store).require(), name)
    return Verified(
        snapshot=found.snapshot_id, shards=found.num_shards, num_bytes=found.num_bytes, problems=found.problems
    )


def collect(store: str, ledgers: Sequence[str], *, delete: bool) -> Collected:
    """Remove what no version, no tag and none of these ledgers names."""
    held, in_use, captions = Storage(store).require(), set[str](), set[str]()
    for url in ledgers:
        with Ledger(url, missing="refuse") as ledger:
            for dataset in ledger.datasets():
                rows = ledger.stream(dataset, Stage.EXTRACT, "done", unlisted=True)
                in_use |= {FeatureRef.model_validate(row.value["ref"]).shard for row in rows}
                captions |= {caption_digest(clip.caption) for clip in ledger.clips(dataset) if clip.caption}
    found = collect_garbage(held, in_use, captions, dry_run=not delete)
    return Collected(keys=found.keys, num_bytes=found.num_bytes, deleted=delete)
