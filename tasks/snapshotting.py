"""Snapshots as people and flows ask for them: built from the ledger, listed, shown, compared, verified, cleaned up."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.schema import SNAPSHOT_ID, FeatureRef, SchemaError, Snapshot, head_key, load_snapshot
from dualforce_model.shards import DamagedShardError
from dualforce_model.storage import CutShortError, MissingKeyError, Storage
from tasks.accounting import AcrossClips, account, crop_verdicts, current_features, fates, scores_of
from tasks.extract import ExtractConfig, make_extractors
from tasks.ledger import Ledger
from tasks.place import Place
from tasks.policy import load_policy
from tasks.records import Quarantined, Stage
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
from tasks.upkeep import collect_garbage, verify_snapshot


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
            shapes.append(f"{modality}: {tensors} by {info.fingerprint}")
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


def build_from_ledger(place: Place, policy_path: str, extract: ExtractConfig, config: SnapshotConfig) -> SnapshotView:
    """Judge what the ledger knows by the policy and build a version; the same input finds the same version."""
    policy = load_policy(policy_path)
    with Ledger(place.ledger_url, missing="refuse") as ledger:
        standing = fates(ledger, place.dataset, policy, extract)
        judged = crop_verdicts(ledger, place.dataset, policy)
        candidates = list(_candidates(ledger, place.dataset, extract, AcrossClips(ledger, place.dataset, policy)))
    dropped = {clip_id for clip_id, (_, verdict) in judged.items() if isinstance(verdict, Quarantined)}
    impossible = [f for f in standing if f.outcome == "quarantined" and f.clip_id not in dropped]
    try:
        built = build_snapshot(
            Storage(place.store_url),
            candidates,
            policy,
            place.dataset,
            tag=config.tag,
            split=config.split,
            quarantined=Counter(str(fate.reason) for fate in impossible),  # the build counts what the policy drops
            failed=account(standing).failed,
            encoders={str(name): each.encoder_fingerprint for name, each in make_extractors(extract).items()},
        )
    except (MissingKeyError, CutShortError, DamagedShardError) as error:
        remedy = f"`dualforce rerun --damaged --out {place.home}` makes it again"
        raise SnapshotError(f"features that the ledger calls done are gone or damaged: {error}; {remedy}") from error
    return SnapshotView(snapshot=built.snapshot, tags=(config.tag,), written=built.written)


def _candidates(
    ledger: Ledger, dataset: str, extract: ExtractConfig, across: AcrossClips
) -> Iterator[SnapshotCandidate]:
    """Every clip with a crop, except those of which a feature or a new download failed: counted, not offered."""
    features: dict[str, dict[str, FeatureRef]] = {}
    broken: set[str] = set()
    for clip_id, rows in current_features(ledger, dataset, extract).items():
        for row in rows:
            if row.state == "done":
                features.setdefault(clip_id, {})[row.feature] = FeatureRef.model_validate(row.value["ref"])
            else:
                broken.add(clip_id)
    downloads = {row.clip_id: row for row in ledger.rows(dataset, stage=Stage.ACQUIRE, state="done")}
    clips = {clip.clip_id: clip for clip in ledger.clips(dataset)}
    for row in ledger.rows(dataset, stage=Stage.CURATE, state="done"):
        clip = clips[row.clip_id]
        download = downloads.get(clip.parent_id or clip.clip_id)
        if row.clip_id in broken or download is None:
            continue
        yield SnapshotCandidate(
            clip=clip,
            media_digest=str(download.value["digest"]),
            num_frames=int(row.value["num_frames"]),
            scores=scores_of(row) | across.scores_of(row),
            features=features.get(row.clip_id, {}),
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
    held, in_use = Storage(store).require(), set[str]()
    for url in ledgers:
        with Ledger(url, missing="refuse") as ledger:
            for dataset in ledger.datasets():
                rows = ledger.rows(dataset, stage=Stage.EXTRACT, state="done", unlisted=True)
                in_use |= {FeatureRef.model_validate(row.value["ref"]).shard for row in rows}
    found = collect_garbage(held, in_use, dry_run=not delete)
    return Collected(keys=found.keys, num_bytes=found.num_bytes, deleted=delete)
