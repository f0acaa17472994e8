"""Snapshots: immutable versions of a data set. Build, list, show, compare, tag.

The id hashes what the data are (clips, spans, digests, feature keys, splits, weights, policy), not where they lie or
when they were made: the same input gives the same id however often the work was interrupted, and a second build
finds the first and writes nothing. The head is written last; before it the snapshot does not exist.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from dualforce_model.config import Frozen, canonical_json
from dualforce_model.errors import InputError
from dualforce_model.layout import Layout
from dualforce_model.manifests import read_manifest, restore_manifest
from dualforce_model.schema import (
    SPLITS,
    FeatureRef,
    ModalityInfo,
    SchemaError,
    Snapshot,
    SnapshotRow,
    Split,
    TensorStatistics,
    check_shapes,
    load_snapshot,
    resolve_snapshot,
    specs_among,
    tag_key,
)
from dualforce_model.shards import cached_header, is_sound, specs_in, tensor_entry
from dualforce_model.storage import MissingKeyError, Storage
from tasks.policy import Policy, judge
from tasks.records import Clip, Quarantined, Score
from tasks.snapshot_files import write_snapshot
from tasks.statistics import statistics_of
from tasks.texts import missing_texts, shared_text


class SnapshotError(InputError):
    """A snapshot that cannot be built; the message names the clip or the counts, and the remedy."""


class SnapshotCandidate(Frozen):
    """A clip with a crop: what the policy judges and, where it was extracted, its features."""

    clip: Clip
    media_digest: str = Field(min_length=1, description="SHA-256 of the source video")
    num_frames: int = Field(ge=1, description="frames of the crop, 4k+1")
    scores: dict[str, Score] = Field({}, description="by name; what curate measured")
    features: dict[str, FeatureRef] = Field({}, description="by modality; empty only if the policy drops the clip")
    text: str | None = Field(None, description="name of its text features, where the run makes any")


class SplitConfig(Frozen):
    """Shares of the groups (speakers, else videos) that are held out. More data never moves a group."""

    validation: float = Field(0.1, ge=0.0, le=0.9, description="share of groups held out for validation")
    test: float = Field(0.0, ge=0.0, le=0.9, description="share of groups held out for testing")
    salt: str = Field("", max_length=40, description="another salt is another draw of the groups")


@dataclass(frozen=True)
class BuiltSnapshot:
    """What a build made, or found already there."""

    snapshot: Snapshot
    written: bool


@dataclass(frozen=True)
class SnapshotEntry:
    """One line of the list of snapshots."""

    snapshot: Snapshot
    tags: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotDiff:
    """What changed from one snapshot to another."""

    old: Snapshot
    new: Snapshot
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, tuple[str, ...]]  # clip id -> what differs: span, media_digest, split, weight, a modality
    policy_changed: bool


# ---------------------------------------------------------------------------------------------------------- building


def build_snapshot(
    store: Storage,
    candidates: Iterable[SnapshotCandidate],
    policy: Policy,
    dataset: str,
    *,
    tag: str | None = None,
    split: SplitConfig | None = None,
    quarantined: Mapping[str, int] | None = None,
    failed: Mapping[str, int] | None = None,
    encoders: Mapping[str, str] | None = None,
    layouts: Mapping[str, Layout] | None = None,
) -> BuiltSnapshot:
    """Judge the candidates, seal those that pass, point the tag (if any) to the result.

    Counts of clips that never became candidates, encoders' fingerprints and tables of entries (both by modality) enter
    the head as they are; a table also says the floor of its statistics.
    Raises SnapshotError when nothing passes or a passing clip's features are missing or disagree.
    """
    if tag is not None:
        tag_key(tag)  # a bad name is refused before the work
    rows, dropped = _passing(candidates, policy, split or SplitConfig())
    snapshot_id, parent = rows_id(rows, policy), _tagged(store, tag)
    found = _whole(store, snapshot_id, rows)
    if found is None:
        head = Snapshot(
            id=snapshot_id,
            dataset=dataset,
            policy=policy.model_dump(mode="json"),
            quarantined=_sorted(dropped + Counter(quarantined or {})),
            failed=_sorted(failed or {}),
            parent=parent if parent != snapshot_id else None,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            manifest_digest="",  # whoever writes the manifest names it
            **_contents(store, rows, encoders or {}, layouts or {}),
        )
        snapshot = write_snapshot(store, head, rows)
    if tag is not None and parent != snapshot_id:
        tag_snapshot(store, snapshot_id, tag)
    return BuiltSnapshot(found or snapshot, written=found is None)


def _passing(
    candidates: Iterable[SnapshotCandidate], policy: Policy, split: SplitConfig
) -> tuple[tuple[SnapshotRow, ...], Counter[str]]:
    """What `decide` says; raises SnapshotError when nothing passes."""
    rows, dropped = decide(candidates, policy, split)
    if not rows:
        raise SnapshotError(f"no clip passes the policy {policy.name}: {dict(dropped)}; loosen it or get other clips")
    return rows, dropped


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return {str(name): count for name, count in sorted(counts.items())}


def decide(
    candidates: Iterable[SnapshotCandidate], policy: Policy, split: SplitConfig
) -> tuple[tuple[SnapshotRow, ...], Counter[str]]:
    """Rows of the clips that pass, sorted by clip id, and how many were dropped for which reason."""
    rows: dict[str, SnapshotRow] = {}
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    for candidate in candidates:
        clip = candidate.clip
        if clip.clip_id in seen:
            raise SnapshotError(f"{clip.clip_id}: offered twice; every clip is a candidate once")
        seen.add(clip.clip_id)
        verdict = judge(policy, clip.clip_id, candidate.scores)
        if isinstance(verdict, Quarantined):
            dropped[verdict.reason] += 1
        else:
            rows[clip.clip_id] = _row(candidate, assign_split(clip, split), verdict)
    return tuple(rows[clip_id] for clip_id in sorted(rows)), dropped


def assign_split(clip: Clip, split: SplitConfig) -> Split:
    """Split of a clip by the hash of its group, so that no speaker (else no video) is in two."""
    group = f"identity:{clip.identity}" if clip.identity else f"video:{clip.video_id}"
    text = canonical_json([split.salt, clip.source, group])
    place = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12
    if place < split.test:
        return "test"
    return "validation" if place < split.test + split.validation else "train"


def rows_id(rows: Sequence[SnapshotRow], policy: Policy) -> str:
    """Id of a snapshot: 16 hex digits over its canonical rows and its policy."""
    return canonical_id(rows, policy.model_dump(mode="json"))


def canonical_id(rows: Sequence[SnapshotRow], policy: Mapping[str, object]) -> str:
    """The same from a policy as a head stores it."""
    hashed = hashlib.sha256(canonical_json(dict(policy)).encode())
    for row in rows:
        hashed.update(b"\n" + canonical_json(row.canonical()).encode())
    return hashed.hexdigest()[:16]


def content_digest(store: Storage, rows: Sequence[SnapshotRow]) -> str:
    """Digest over the bytes of all arrays, from the shard headers: the same however clips are packed into shards."""
    hashed = hashlib.sha256()
    for row in rows:
        for modality, ref in sorted(row.features.items()):
            for spec in specs_in(store, ref):
                entry = tensor_entry(store, ref, spec.name)
                line = [row.clip_id, modality, spec.name, str(entry.dtype), list(entry.shape), entry.sha256]
                hashed.update(canonical_json(line).encode() + b"\n")
    return hashed.hexdigest()


def _row(candidate: SnapshotCandidate, split: Split, weight: float) -> SnapshotRow:
    clip = candidate.clip
    if not candidate.features:
        raise SnapshotError(f"{clip.clip_id}: it passes the policy but has no features; run extract with this policy")
    for modality, ref in candidate.features.items():
        if ref.clip_id != clip.clip_id or ref.modality != modality:
            raise SnapshotError(f"{clip.clip_id}: its {modality} points to {ref.modality} of {ref.clip_id}")
    return SnapshotRow(
        clip_id=clip.clip_id,
        source=clip.source,
        video_id=clip.video_id,
        identity=clip.identity,
        licence=clip.licence,
        span_start_s=clip.span.start_s,
        span_end_s=clip.span.end_s,
        media_digest=candidate.media_digest,
        num_frames=candidate.num_frames,
        split=split,
        weight=weight,
        features=dict(sorted(candidate.features.items())),
        text=candidate.text,
    )


def _contents(
    store: Storage, rows: Sequence[SnapshotRow], encoders: Mapping[str, str], layouts: Mapping[str, Layout]
) -> dict[str, Any]:
    """What a head says about its rows."""
    modalities = _modalities(store, rows, encoders, layouts)
    return {
        "content": content_digest(store, rows),
        "modalities": modalities,
        "text": shared_text(store, rows),
        "statistics": _statistics(store, rows, modalities),
        "num_rows": len(rows),
        "num_frames": sum(row.num_frames for row in rows),
        "splits": {name: sum(row.split == name for row in rows) for name in SPLITS},
    }


def _modalities(
    store: Storage, rows: Sequence[SnapshotRow], encoders: Mapping[str, str], layouts: Mapping[str, Layout]
) -> dict[str, ModalityInfo]:
    """What the clips share in each modality; raises SnapshotError for the first clip that does not."""
    first = rows[0]
    shared: dict[str, ModalityInfo] = {}
    for row in rows:
        if set(row.features) != set(first.features):
            raise SnapshotError(
                f"{row.clip_id} has {sorted(row.features)}, {first.clip_id} has {sorted(first.features)}; run extract"
            )
        for modality, ref in row.features.items():
            shapes = {spec.name: tensor_entry(store, ref, spec.name).shape for spec in specs_in(store, ref)}
            check_shapes(modality, row.clip_id, row.num_frames, shapes)
            key = cached_header(store.url(), ref.shard).keys[row.clip_id]
            if key != ref.key:
                raise SnapshotError(f"{row.clip_id}: its {modality} was made from {key}, not {ref.key}; run extract")
            info = ModalityInfo(
                fingerprint=ref.fingerprint,
                tensors={name: shape[1:] for name, shape in shapes.items()},
                encoder=encoders.get(modality, ""),
                layout=layouts.get(modality),
            )
            _check_layout(row.clip_id, modality, info)
            if shared.setdefault(modality, info) != info:
                raise SnapshotError(
                    f"{row.clip_id}: its {modality} ({info}) is not like that of {first.clip_id} "
                    f"({shared[modality]}); extract all clips with one extractor and crop size"
                )
    return shared


def _check_layout(clip_id: str, modality: str, info: ModalityInfo) -> None:
    """Raise SnapshotError unless the table is of rows as wide as the first array's."""
    name = specs_among(modality, ())[0].name
    if info.layout is not None and info.tensors[name] != (info.layout.num_entries,):
        raise SnapshotError(
            f"{clip_id}: rows of {modality}/{name} are {list(info.tensors[name])} wide, those of layout "
            f"{info.layout.name} {info.layout.num_entries}; extract again with the encoder that is configured"
        )


def _statistics(
    store: Storage, rows: Sequence[SnapshotRow], modalities: Mapping[str, ModalityInfo]
) -> dict[str, TensorStatistics]:
    training = [row for row in rows if row.split == "train"]
    if not training:
        raise SnapshotError(f"all {len(rows)} clips are held out; lower the held-out shares or change the split's salt")
    return statistics_of(store, training, modalities)


def _whole(store: Storage, snapshot_id: str, wanted: Sequence[SnapshotRow]) -> Snapshot | None:
    """The snapshot if head, manifest and every shard and text it names are there.

    Where a feature lies in another shard now than when it was built, the old one is read: it may be damaged, and the
    feature made again for that.

    What is damaged or lost is written again under the same id: building again is the remedy the errors name.
    """
    try:
        snapshot = load_snapshot(store, snapshot_id)
        rows = restore_manifest(store, snapshot)
    except (SchemaError, MissingKeyError):
        return None
    shards = {ref.shard for row in rows for ref in row.features.values()}
    if missing_texts(store, rows) or not all(store.exists(shard) for shard in shards):
        return None
    now = {row.clip_id: row.features for row in wanted}
    moved = [ref for row in rows for name, ref in row.features.items() if now[row.clip_id][name].shard != ref.shard]
    return snapshot if all(is_sound(store, ref) for ref in moved) else None


# ------------------------------------------------------------------------------------------- listing, tags, comparing


def list_snapshots(store: Storage) -> tuple[SnapshotEntry, ...]:
    """All snapshots, oldest first, with their tags. Raises SchemaError for a damaged head: nothing is skipped."""
    tags = list_tags(store)
    entries = [
        SnapshotEntry(load_snapshot(store, name), tuple(tag for tag, target in tags.items() if target == name))
        for name in list_ids(store)
    ]
    return tuple(sorted(entries, key=lambda entry: (entry.snapshot.created_at, entry.snapshot.id)))


def list_ids(store: Storage) -> tuple[str, ...]:
    """Names of the folders that hold a head, whatever is in it."""
    return tuple(key.split("/")[1] for key in store.list("snapshots") if key.endswith("/head.json"))


def list_tags(store: Storage) -> dict[str, str]:
    """Tag -> snapshot id."""
    names = [key.removeprefix("tags/").removesuffix(".json") for key in store.list("tags")]
    return {name: resolve_snapshot(store, name) for name in names}


def tag_snapshot(store: Storage, id_or_tag: str, tag: str) -> Snapshot:
    """Point a tag to a snapshot that exists; an older meaning of the tag is replaced in one step."""
    snapshot = load_snapshot(store, id_or_tag)
    store.write(tag_key(tag), encode_tag(snapshot.id))
    return snapshot


def encode_tag(snapshot_id: str) -> bytes:
    """Bytes of a tag's file."""
    return (json.dumps({"snapshot": snapshot_id}) + "\n").encode()


def diff_snapshots(store: Storage, old: str, new: str) -> SnapshotDiff:
    """Clips added, removed and changed between two snapshots (ids or tags)."""
    before, after = load_snapshot(store, old), load_snapshot(store, new)
    rows_before = {row.clip_id: _comparable(row) for row in read_manifest(store, before)}
    rows_after = {row.clip_id: _comparable(row) for row in read_manifest(store, after)}
    changed = {}
    for clip_id in sorted(rows_before.keys() & rows_after.keys()):
        one, other = rows_before[clip_id], rows_after[clip_id]
        fields = tuple(name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name))
        if fields:
            changed[clip_id] = fields
    return SnapshotDiff(
        old=before,
        new=after,
        added=tuple(sorted(rows_after.keys() - rows_before.keys())),
        removed=tuple(sorted(rows_before.keys() - rows_after.keys())),
        changed=changed,
        policy_changed=before.policy != after.policy,
    )


def _comparable(row: SnapshotRow) -> dict[str, object]:
    """Canonical fields, each modality's feature key on its own."""
    fields = row.canonical()
    return {**{f"features.{name}": key for name, key in fields.pop("features").items()}, **fields}


def _tagged(store: Storage, tag: str | None) -> str | None:
    """What the tag names now."""
    if tag is None or not store.exists(tag_key(tag)):
        return None
    return resolve_snapshot(store, tag)
